"""Feature levels: what maps a backbone has inside, how they are read while it runs, and which belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from monai_rd.networks.students import Student

__all__ = [
    "Level",
    "LevelReader",
    "StudentFeatures",
    "TeacherFeatures",
    "find_levels",
    "last_map",
    "nearest_level",
    "pair_levels",
    "pool_features",
    "student_last_map",
    "student_levels",
]

Layout = Literal["map", "channels last", "tokens"]


@dataclass(frozen=True)
class Level:
    """A feature map inside a backbone.

    Args:
        module: path of the submodule whose output it is; of a black box the tensor's name.
        channels: C.
        stride: pixels (voxels) of the input for a position; of maps a power of two, the nearest where they are cropped.
        depth: share of the network's depth that lies before it, in (0, 1]. Strides 4, 8, 16, 32 of a network that
            halves its maps have 0.25, 0.5, 0.75, 1; so have blocks 3, 6, 9, 12 of a ViT of 12, all of one stride.
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


class StudentFeatures(NamedTuple):
    """What a method sees of the student in one training step.

    Attributes:
        image: the batch, as the trainer gave it to the student.
        pooled: f_s `[B, D]`, what the classifier read.
        logits: z_s `[B, classes]`.
        maps: of the levels that the method asked for, in its order, `[N, C, h, w]` (volumes `[N, C, d, h, w]`); N is B,
            of bags B * S.
    """

    image: Tensor
    pooled: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...] = ()


class TeacherFeatures(NamedTuple):
    """What a method sees of the frozen teacher in one training step.

    Attributes:
        tap: F_t(x) as `FrozenFoundationModel.forward` gives it.
        pooled: its mean over positions and slices `[B, C]`.
        maps: as of `StudentFeatures`.
        logits: of a teacher that was fitted to the task `[B, classes]`; None of all others.
    """

    tap: Tensor
    pooled: Tensor
    maps: tuple[Tensor, ...] = ()
    logits: Tensor | None = None


def pool_features(tap: Tensor, spatial_dims: int) -> Tensor:
    """Mean over positions and slices `[B, C]` of a teacher's maps or vectors, of single images, bags or volumes."""
    pooled = tap.flatten(-spatial_dims).mean(dim=-1) if tap.dim() >= 2 + spatial_dims else tap
    return pooled.mean(dim=1) if pooled.dim() == 3 else pooled


def _depth(stride: int) -> float:
    """Share of the depth at which a network that halves its maps has this stride."""
    return min(max(math.log2(stride) - 1, 1), 4) / 4


def nearest_level(levels: Sequence[Level], stride: int, depth: float | None = None) -> Level:
    """Find the level of the nearest stride; of several, the one of the nearest depth, or the deepest.

    Args:
        levels: at least one.
        stride: wanted.
        depth: wanted, in (0, 1]; None for that of the stride in a network that halves its maps.

    Raises:
        ValueError: no levels.
    """
    if not levels:
        raise ValueError("the network has no feature map that could be read")
    wanted = _depth(stride) if depth is None else depth
    return min(
        levels, key=lambda level: (abs(math.log2(level.stride / stride)), abs(level.depth - wanted), -level.depth)
    )


def pair_levels(student: Sequence[Level], teacher: Sequence[Level]) -> tuple[tuple[Level, Level], ...]:
    """Pair each of the student's levels with the teacher's of the nearest stride, never by place in a list.

    Of several teacher levels of one stride, as a ViT has them, the one of the nearest depth is taken. A teacher level
    may belong to several pairs.

    Raises:
        ValueError: one of them has no levels.
    """
    if not student:
        raise ValueError("the student has no feature map that could be read")
    return tuple((level, nearest_level(teacher, level.stride, level.depth)) for level in student)


class LevelReader:
    """Keeps the maps of some levels whenever the network runs, until they are taken.

    Args:
        network: the backbone.
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
            module = network.get_submodule(path)
            self._handles.append(
                module.register_forward_hook(
                    lambda _, __, output, path=path: self._outputs.__setitem__(path, _first_tensor(output))
                )
            )

    def _keep_sides(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._sides = tuple(inputs[0].shape[2:])

    def take(self) -> tuple[Tensor, ...]:
        """The maps of the last run `[N, C, h, w]`, which are forgotten here."""
        outputs, self._outputs = self._outputs, {}
        return tuple(as_map(outputs[level.module], level, self._sides) for level in self.levels)

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._outputs = [], {}

    def __enter__(self) -> LevelReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _first_tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, (tuple, list)) else output


def as_map(output: Tensor, level: Level, sides: Sequence[int]) -> Tensor:
    """Bring a module's output into the form `[N, C, h, w]`.

    Args:
        output: of the module.
        level: of this output.
        sides: of the network's input, which tell the grid of tokens.
    """
    if level.layout == "channels last":
        return output.movedim(-1, 1)
    if level.layout == "tokens":
        grid = [side // level.stride for side in sides]
        return output[:, level.prefix :].transpose(1, 2).unflatten(2, grid)
    return output


@torch.no_grad()
def find_levels(network: nn.Module, modules: Sequence[str], image: Tensor, prefix: int = 0) -> tuple[Level, ...]:
    """Run a network once and see which maps some of its modules give.

    Where the maps have several strides, the last module of each is kept; a ViT, which has one, keeps all.

    Args:
        network: the backbone, which is put into eval mode for the run.
        modules: paths of the modules, from the input to the output.
        image: a batch of one for it, square: `[1, C, H, H]`.
        prefix: tokens before those of the grid, of a network that gives tokens.

    Returns:
        The levels, from the input to the output.

    Raises:
        ValueError: the output of a module is no map.
    """
    outputs: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(path).register_forward_hook(
            lambda _, __, output, path=path: outputs.__setitem__(path, _first_tensor(output))
        )
        for path in modules
    ]
    training = network.training
    try:
        network.eval()(image)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    levels = []
    for number, path in enumerate(modules):
        layout, channels, side = _describe(path, outputs[path], image, prefix)
        stride = image.shape[-1] // side if layout == "tokens" else 2 ** round(math.log2(image.shape[-1] / side))
        signed = bool((outputs[path] < 0).any())
        depth = (number + 1) / len(modules)
        levels.append(Level(path, channels, stride, depth, signed, layout, prefix if layout == "tokens" else 0))
    if len({level.stride for level in levels}) == 1:
        return tuple(levels)
    return tuple({level.stride: replace(level, depth=_depth(level.stride)) for level in levels}.values())


def _describe(path: str, output: Tensor, image: Tensor, prefix: int) -> tuple[Layout, int, int]:
    """Layout, channels and side of a square map.

    Raises:
        ValueError: it is none.
    """
    shape, dims = list(output.shape), image.dim() - 2
    if len(shape) == 3:
        side = round((shape[1] - prefix) ** (1 / dims))
        if side**dims == shape[1] - prefix:
            return "tokens", shape[2], side
    elif len(shape) == 2 + dims:
        if len(set(shape[2:])) == 1:
            return "map", shape[1], shape[2]
        if len(set(shape[1:-1])) == 1:
            return "channels last", shape[-1], shape[1]
    raise ValueError(f"module '{path}' gives {shape} of an input {list(image.shape)}, which is no square map")


@torch.no_grad()
def last_map(network: nn.Module, image: Tensor) -> Level | None:
    """Find the map whose mean over positions is what a network gives; None if there is none.

    Args:
        network: image to pooled features `[B, D]`; it is put into eval mode for the run.
        image: a batch of one for it, square.
    """
    outputs: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda _, __, output, path=path: outputs.append((path, output)))
        for path, module in network.named_modules()
        if path
    ]
    training = network.training
    try:
        pooled = network.eval()(image)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    for path, output in reversed(outputs):
        if not isinstance(output, Tensor) or output.dim() != image.dim() or output.shape[-1] < 2:
            continue
        if output.shape[1] != pooled.shape[1] or not torch.allclose(output.flatten(2).mean(2), pooled, atol=1e-5):
            continue
        stride = 2 ** round(math.log2(image.shape[-1] / output.shape[-1]))
        return Level(path, output.shape[1], stride, 1.0, bool((output < 0).any()))
    return None


def _probe(student: Student) -> Tensor:
    """An image or volume of noise for a student; the global random state is left alone."""
    shape = (1, 1, 64, 64, 64) if student.spatial_dims == 3 else (1, 3, *(student.fixed_size or (224, 224)))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(student.mean.device)


def student_levels(student: Student) -> tuple[Level, ...]:
    """The maps inside a student's backbone at the end of each of its stages; empty where none are known."""
    if not student.stages:
        return ()
    return find_levels(student.backbone, student.stages, _probe(student), student.prefix)


def student_last_map(student: Student) -> Level | None:
    """The map whose mean over positions is f_s; None of a student that pools in another way."""
    return last_map(student.backbone, _probe(student))
