"""Feature levels: finding the feature maps inside a backbone, reading them in a forward pass, and pairing them.

This is our own code because timm's `features_only` supports timm networks only, and torchvision's feature extractor
traces a graph, which fails for networks with data-dependent control flow. Neither gives the stride of a ViT's tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = [
    "Level",
    "LevelReader",
    "Levels",
    "find_levels",
    "last_map",
    "nearest_level",
    "pair_levels",
    "some_levels",
]

Layout = Literal["map", "channels last", "tokens"]


@dataclass(frozen=True)
class Level:
    """A feature map inside a backbone.

    Args:
        module: path of the submodule that outputs the map; for an ONNX or TFLite file, the name of the tensor.
        channels: C.
        stride: input pixels (voxels) per position. For networks with several strides it is rounded to a power of two.
        depth: relative depth in the network, in (0, 1]. Strides 4, 8, 16, 32 of a CNN have depths 0.25, 0.5, 0.75, 1.
            Blocks 3, 6, 9, 12 of a ViT with 12 blocks have the same depths, and one stride.
        signed: whether the map has negative values.
        layout: layout of the module's output: "map" `[N, C, h, w]`, "channels last" `[N, h, w, C]` or "tokens"
            `[N, L, C]`.
        prefix: number of tokens before the grid's (class and register tokens).

    Example:
        The levels of a ResNet-18, from the input to the output.

        >>> from monai_rd.networks import Student
        >>> levels = Student("resnet18").levels
        >>> [(level.module, level.channels, level.stride) for level in levels]
        [('layer1', 64, 4), ('layer2', 128, 8), ('layer3', 256, 16), ('layer4', 512, 32)]
    """

    module: str
    channels: int
    stride: int
    depth: float
    signed: bool
    layout: Layout = "map"
    prefix: int = 0


class Levels(tuple[Level, ...]):
    """The levels of one network, from the input to the output; may be empty.

    Attributes:
        owner: the network's name in error messages: "student 'NAME'" or "teacher 'NAME'".
    """

    owner: str

    @classmethod
    def of(cls, owner: str, levels: Sequence[Level]) -> Levels:
        """Make an instance from the network's name in error messages and its levels."""
        made = cls(levels)
        made.owner = owner
        return made


def depth_at(stride: float, deepest: float = 32) -> float:
    """Relative depth in [0.25, 1] at which a CNN whose last stride is `deepest` reaches a stride."""
    return min(max(1 - math.log2(deepest / stride) / 4, 0.25), 1.0)


def some_levels(levels: Sequence[Level]) -> Sequence[Level]:
    """Return the levels unchanged, or raise if there are none.

    Raises:
        ValueError: there are no levels.
    """
    if not levels:
        raise ValueError(
            f"the {getattr(levels, 'owner', 'network')} has no feature maps that can be read: take another one "
            "(almost all have maps, see docs/guide/students.md and docs/guide/teachers.md; several teachers at once "
            "have none that belong together), or a method that needs none, such as rd"
        )
    return levels


def nearest_level(levels: Sequence[Level], stride: int, depth: float | None = None) -> Level:
    """Find the level with the nearest stride; among equal strides, the one with the nearest depth, then the deepest.

    Args:
        levels: at least one.
        stride: the wanted stride, in pixels (voxels).
        depth: the wanted relative depth in (0, 1]; None for the depth of this stride in a CNN whose last stride is 32.

    Raises:
        ValueError: there are no levels.
    """
    wanted = depth_at(stride) if depth is None else depth
    return min(
        some_levels(levels),
        key=lambda level: (abs(math.log2(level.stride / stride)), abs(level.depth - wanted), -level.depth),
    )


def pair_levels(student: Sequence[Level], teacher: Sequence[Level]) -> tuple[tuple[Level, Level], ...]:
    """Pair each level of the student with the teacher's level of the nearest stride.

    Among several teacher levels of one stride (a ViT), the one with the nearest depth is taken. One teacher level may
    be in several pairs.

    Raises:
        ValueError: the student or the teacher has no levels.
    """
    return tuple((level, nearest_level(teacher, level.stride, level.depth)) for level in some_levels(student))


class LevelReader:
    """Records the feature maps of some levels in each forward pass, by forward hooks.

    The hooks are on the network's own modules, so it also works inside DistributedDataParallel. If a module runs
    several times in one pass, its last output is kept. Maps keep the dtype of the module's output (autocast's if it is
    on). They are not copied, so later in-place operations show in them.

    Args:
        network: the backbone.
        levels: the levels to record.
    """

    def __init__(self, network: nn.Module, levels: Sequence[Level]) -> None:
        self.levels = tuple(levels)
        self._sides: tuple[int, ...] = ()
        self._outputs: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        if levels:
            self._handles.append(network.register_forward_pre_hook(self._keep_sides))
        for path in {level.module for level in levels}:
            self._handles.append(_record_output(network, path, self._outputs))

    def _keep_sides(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._sides = tuple(inputs[0].shape[2:])

    def take(self) -> tuple[Tensor, ...]:
        """Return the maps of the last forward pass, `[N, C, h, w]` in the order of `levels`, and forget them.

        Raises:
            RuntimeError: the network has not run since the last call, or one of the modules did not run.
        """
        if missing := [level.module for level in self.levels if level.module not in self._outputs]:
            raise RuntimeError(f"no feature maps of {', '.join(missing)}: the network must run before they are taken")
        maps = tuple(as_map(self._outputs[level.module], level, self._sides) for level in self.levels)
        self._outputs.clear()
        return maps

    def clear(self) -> None:
        """Forget the maps of the last forward pass."""
        self._outputs.clear()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._outputs.clear()

    def __enter__(self) -> LevelReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _record_output(network: nn.Module, path: str, outputs: dict[str, Tensor]) -> Any:
    """Store a module's output (the first of several) under its path in each forward pass; returns the hook's handle."""

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        outputs[path] = output[0] if isinstance(output, (tuple, list)) else output

    return network.get_submodule(path).register_forward_hook(hook)


def as_map(output: Tensor, level: Level, sides: Sequence[int]) -> Tensor:
    """Convert a module's output to `[N, C, h, w]`.

    Args:
        output: of the module, in the level's layout.
        level: describes the output.
        sides: spatial size of the network's input, from which the grid of tokens follows.

    Raises:
        ValueError: the tokens do not form a grid with the proportions of the input.
    """
    output = output.as_subclass(Tensor)  # not a MetaTensor, which would carry its metadata through every loss
    if level.layout == "channels last":
        return output.movedim(-1, 1)
    if level.layout == "tokens":
        grid = _grid(output.shape[1] - level.prefix, sides)
        if grid is None:
            raise ValueError(
                f"module '{level.module}' gives {list(output.shape)} of an input of {list(sides)}: without the first "
                f"{level.prefix} its tokens make no grid"
            )
        return output[:, level.prefix :].transpose(1, 2).unflatten(2, grid)
    return output


def _grid(positions: int, sides: Sequence[int]) -> list[int] | None:
    """The grid `[h, w]` (volumes `[d, h, w]`) of this many positions in proportion to the sides; None if none fits."""
    scale = (max(positions, 0) / math.prod(sides)) ** (1 / len(sides))
    grid = [round(side * scale) for side in sides]
    return grid if positions > 0 and math.prod(grid) == positions else None


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Set a network to eval mode without gradients, and restore the mode of every module at the end."""
    training, others = network.training, [one for one in network.modules() if one.training != network.training]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)
        for one in others:
            one.training = not training


def find_levels(network: nn.Module, modules: Sequence[str], image: Tensor, prefix: int = 0) -> tuple[Level, ...]:
    """Run a network once and find out which of its modules output feature maps.

    If the maps have several strides, the last module of each stride is kept; if all have one stride (a ViT), all are
    kept. Left out are modules that do not run or whose output is not a map with the proportions of the input. On the
    meta device nothing is computed, and every map counts as signed.

    Args:
        network: the backbone.
        modules: paths of the candidate modules, from the input to the output.
        image: an input batch of one: `[1, C, H, W]`, or `[1, C, D, H, W]` for volumes.
        prefix: number of tokens before the grid's in outputs of tokens; outputs without them are recognised too.

    Returns:
        The levels, from the input to the output.
    """
    outputs: dict[str, Tensor] = {}
    handles = [_record_output(network, path, outputs) for path in modules]
    try:
        with _evaluation_mode(network):
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for number, path in enumerate(modules):
        output = outputs.get(path)
        form = _map_layout(output, image.shape[2:], prefix) if isinstance(output, Tensor) else None
        if output is not None and form is not None:
            found.append((path, output.is_meta or bool((output < 0).any()), (number + 1) / len(modules), *form))
    strides = [2 ** round(math.log2(scale)) for *_, scale, _, _, _ in found]
    if len(set(strides)) == 1:
        return tuple(
            Level(path, channels, round(scale), depth, signed, layout, before)
            for path, signed, depth, scale, channels, layout, before in found
        )
    return tuple(
        {
            stride: Level(path, channels, stride, depth_at(stride, max(strides)), signed, layout, before)
            for stride, (path, signed, _, _, channels, layout, before) in zip(strides, found, strict=True)
        }.values()
    )


def _map_layout(output: Tensor, sides: Sequence[int], prefix: int) -> tuple[float, int, Layout, int] | None:
    """Stride, channels, layout and prefix of an output; None if it is not a map of an input with these sides."""
    shape, dims = output.shape, len(sides)
    if shape[:1] != (1,):  # the first axis is not the batch but windows or patches
        return None
    if len(shape) == 3:
        for before in dict.fromkeys((prefix, 0)):
            if grid := _grid(shape[1] - before, sides):
                return (math.prod(sides) / math.prod(grid)) ** (1 / dims), shape[2], "tokens", before
    elif len(shape) == 2 + dims:
        layouts: tuple[tuple[Layout, int, Sequence[int]], ...] = (
            ("map", shape[1], shape[2:]),
            ("channels last", shape[-1], shape[1:-1]),
        )
        layout, channels, own = min(layouts, key=lambda one: _anisotropy(one[2], sides))
        if _anisotropy(own, sides) < 3:  # 2 in inflated ResNets, which halve the depth one time less
            return (math.prod(sides) / math.prod(own)) ** (1 / dims), channels, layout, 0
    return None


def _anisotropy(own: Sequence[int], sides: Sequence[int]) -> float:
    """Largest ratio between the downsampling factors of two sides, at least 1."""
    scales = [side / length for side, length in zip(sides, own, strict=True)]
    return max(scales) / min(scales)


def last_map(network: nn.Module, image: Tensor) -> Level | None:
    """Find the map whose mean over positions is the network's output; None if there is none.

    The module that outputs it runs once in a pass, and no module with parameters or buffers runs after it. Comparing
    the values alone would not be enough: an untrained BatchNorm hardly changes them.

    Args:
        network: maps images to pooled features `[B, D]`.
        image: an input batch of one, large enough that the last map has more than one position.
    """
    outputs: list[tuple[str, nn.Module, Any]] = []

    def keep(path: str) -> Any:
        return lambda module, _, output: outputs.append((path, module, output))

    handles = [module.register_forward_hook(keep(path)) for path, module in network.named_modules() if path]
    try:
        with _evaluation_mode(network):
            pooled = network(image)
    finally:
        for handle in handles:
            handle.remove()
    runs = Counter(path for path, *_ in outputs)
    tolerance = 1e-4 * float(pooled.abs().max())
    for path, module, output in reversed(outputs):
        if isinstance(output, Tensor) and output.dim() == image.dim() and output.shape[1] == pooled.shape[1]:
            is_pooled = torch.allclose(output.flatten(2).mean(2), pooled, rtol=0, atol=tolerance)
            if is_pooled and runs[path] == 1 and output.shape[-1] > 1:
                stride = 2 ** round(math.log2(image.shape[-1] / output.shape[-1]))
                return Level(path, output.shape[1], stride, 1.0, bool((output < 0).any()))
        if any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            return None
    return None
