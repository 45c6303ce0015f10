"""Feature levels: what maps a backbone has inside, how they are read while it runs, and which belong together.

By hand, because timm's `features_only` knows timm's networks alone, and torchvision's feature extractor traces a graph
that a network with conditions in it does not have; neither tells the strides by which a ViT's tokens belong to maps.
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
        module: path of the submodule whose output it is; of a black box the tensor's name.
        channels: C.
        stride: pixels (voxels) of the input for a position; of a network that halves its maps a power of two, the
            nearest where they are cropped.
        depth: share of the network's depth that lies before it, in (0, 1]. Strides 4, 8, 16, 32 of a network that
            halves its maps down to 32 have 0.25, 0.5, 0.75, 1; so have blocks 3, 6, 9, 12 of a ViT of 12, all of one
            stride.
        signed: whether it takes negative values.
        layout: how the module gives it: "map" `[N, C, h, w]`, "channels last" `[N, h, w, C]`, "tokens" `[N, L, C]`.
        prefix: tokens before those of the grid.
    """

    module: str
    channels: int
    stride: int
    depth: float
    signed: bool
    layout: Layout = "map"
    prefix: int = 0


class Levels(tuple[Level, ...]):
    """The levels of one network, from the input to the output; there may be none.

    Attributes:
        owner: how errors name the network: "student 'NAME'" or "teacher 'NAME'".
    """

    owner: str

    @classmethod
    def of(cls, owner: str, levels: Sequence[Level]) -> Levels:
        """Make them."""
        made = cls(levels)
        made.owner = owner
        return made


def depth_at(stride: float, deepest: float = 32) -> float:
    """Share of the depth at which a network that halves its maps down to the stride `deepest` has another stride."""
    return min(max(1 - math.log2(deepest / stride) / 4, 0.25), 1.0)


def some_levels(levels: Sequence[Level]) -> Sequence[Level]:
    """The levels themselves.

    Raises:
        ValueError: there are none.
    """
    if not levels:
        raise ValueError(
            f"the {getattr(levels, 'owner', 'network')} has no feature maps that can be read: take another one "
            "(almost all have maps, see docs/guide/students.md and docs/guide/teachers.md; several teachers at once "
            "have none that belong together), or a method that needs none, such as rd"
        )
    return levels


def nearest_level(levels: Sequence[Level], stride: int, depth: float | None = None) -> Level:
    """Find the level of the nearest stride; of several, the one of the nearest depth, or the deepest.

    Args:
        levels: at least one.
        stride: wanted.
        depth: wanted, in (0, 1]; None for that of the stride in a network that halves its maps down to 32.

    Raises:
        ValueError: no levels.
    """
    wanted = depth_at(stride) if depth is None else depth
    return min(
        some_levels(levels),
        key=lambda level: (abs(math.log2(level.stride / stride)), abs(level.depth - wanted), -level.depth),
    )


def pair_levels(student: Sequence[Level], teacher: Sequence[Level]) -> tuple[tuple[Level, Level], ...]:
    """Pair each of the student's levels with the teacher's of the nearest stride, never by place in a list.

    Of several teacher levels of one stride, as a ViT has them, the one of the nearest depth is taken. A teacher level
    may belong to several pairs.

    Raises:
        ValueError: one of them has no levels.
    """
    return tuple((level, nearest_level(teacher, level.stride, level.depth)) for level in some_levels(student))


class LevelReader:
    """Keeps the maps of some levels whenever the network runs, until they are taken.

    It hooks the network's own modules, so a DistributedDataParallel around the network makes no difference. Of a
    module that runs several times in one pass the last output counts. Maps are of the dtype that the network gave
    them, autocast's where it is on, and as the pass left them: what a later layer did to one in place is in it.

    Args:
        network: the backbone itself.
        levels: what to keep, in this order.
    """

    def __init__(self, network: nn.Module, levels: Sequence[Level]) -> None:
        self.levels = tuple(levels)
        self._sides: tuple[int, ...] = ()
        self._outputs: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        if levels:
            self._handles.append(network.register_forward_pre_hook(self._keep_sides))
        for path in {level.module for level in levels}:
            self._handles.append(_keep(network, path, self._outputs))

    def _keep_sides(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._sides = tuple(inputs[0].shape[2:])

    def take(self) -> tuple[Tensor, ...]:
        """The maps of the last run `[N, C, h, w]`, which are forgotten here.

        Raises:
            RuntimeError: the network has not run since the maps were taken last, or not through all of these modules.
        """
        if missing := [level.module for level in self.levels if level.module not in self._outputs]:
            raise RuntimeError(f"no feature maps of {', '.join(missing)}: the network must run before they are taken")
        maps = tuple(as_map(self._outputs[level.module], level, self._sides) for level in self.levels)
        self._outputs.clear()
        return maps

    def clear(self) -> None:
        """Forget the maps of the last run."""
        self._outputs.clear()

    def close(self) -> None:
        """Take the hooks off."""
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


def _keep(network: nn.Module, path: str, outputs: dict[str, Tensor]) -> Any:
    """Hook a module so that its output, or the first of several, is found under its path; gives the hook's handle."""

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        outputs[path] = output[0] if isinstance(output, (tuple, list)) else output

    return network.get_submodule(path).register_forward_hook(hook)


def as_map(output: Tensor, level: Level, sides: Sequence[int]) -> Tensor:
    """Bring a module's output into the form `[N, C, h, w]`.

    Args:
        output: of the module.
        level: of this output.
        sides: of the network's input, which tell the grid of tokens.

    Raises:
        ValueError: tokens that make no grid in the proportions of the input.
    """
    output = output.as_subclass(Tensor)  # MONAI's MetaTensor would drag its metadata through every loss
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
    """Rows and columns (of volumes planes before them) that so many positions make, in proportion to the sides."""
    scale = (max(positions, 0) / math.prod(sides)) ** (1 / len(sides))
    grid = [round(side * scale) for side in sides]
    return grid if positions > 0 and math.prod(grid) == positions else None


@contextmanager
def _looking(network: nn.Module) -> Iterator[None]:
    """Eval mode for a while, in which no statistics move and nothing is drawn, and no gradient."""
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
    """Run a network once and see which maps some of its modules give.

    Where the maps have several strides, the last module of each is kept; a ViT, which has one, keeps all. A module
    whose output is no map in the input's proportions is left out, and so is one that does not run. On the meta device
    nothing is computed, and every map counts as signed.

    Args:
        network: the backbone.
        modules: paths of the modules, from the input to the output.
        image: a batch of one for it: `[1, C, H, W]`, of volumes `[1, C, D, H, W]`.
        prefix: tokens before those of the grid, of a network that gives tokens; there may also be none.

    Returns:
        The levels, from the input to the output.
    """
    outputs: dict[str, Tensor] = {}
    handles = [_keep(network, path, outputs) for path in modules]
    try:
        with _looking(network):
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for number, path in enumerate(modules):
        output = outputs.get(path)
        form = _form(output, image.shape[2:], prefix) if isinstance(output, Tensor) else None
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


def _form(output: Tensor, sides: Sequence[int], prefix: int) -> tuple[float, int, Layout, int] | None:
    """Pixels a position, channels, layout and prefix of an output; None if it is no map of an input of these sides."""
    shape, dims = output.shape, len(sides)
    if shape[:1] != (1,):  # windows or patches in the place of the batch
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
        layout, channels, own = min(layouts, key=lambda one: _distortion(one[2], sides))
        if _distortion(own, sides) < 1.5:
            return (math.prod(sides) / math.prod(own)) ** (1 / dims), channels, layout, 0
    return None


def _distortion(own: Sequence[int], sides: Sequence[int]) -> float:
    """How much more one side shrank than another, at least 1."""
    scales = [side / length for side, length in zip(sides, own, strict=True)]
    return max(scales) / min(scales)


def last_map(network: nn.Module, image: Tensor) -> Level | None:
    """Find the map whose mean over positions is what a network gives; None if there is none.

    It is the output of a module that runs once in a pass, with nothing trainable behind it: a BatchNorm that has not
    been trained yet would not show in the numbers.

    Args:
        network: image to pooled features `[B, D]`.
        image: a batch of one for it, of which the last map has more than one position.
    """
    outputs: list[tuple[str, nn.Module, Any]] = []

    def keep(path: str) -> Any:
        return lambda module, _, output: outputs.append((path, module, output))

    handles = [module.register_forward_hook(keep(path)) for path, module in network.named_modules() if path]
    try:
        with _looking(network):
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
