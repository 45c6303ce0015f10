"""Feature maps as methods compare them: where they are, bags folded, sides made equal, layers for 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.networks import FrozenFoundationModel, Level, Student

__all__ = [
    "average_pool",
    "convolution",
    "fold_slices",
    "last_student_map",
    "shrink_to_common",
    "teacher_map_channels",
]


def last_student_map(student: Student, method: str) -> Level:
    """The map whose mean over positions is f_s.

    Raises:
        ValueError: the student pools in another way.
    """
    level = student.last_map
    if level is None:
        raise ValueError(
            f"the method '{method}' works on the map whose mean is the student's features, which this student does not "
            "have: take another --student, such as resnet18"
        )
    return level


def teacher_map_channels(teacher: FrozenFoundationModel, method: str) -> int:
    """Channels of the teacher's features.

    Raises:
        ValueError: they are no map.
    """
    if teacher.kind != "map":
        raise ValueError(
            f"the method '{method}' needs the teacher's features as a map, and '{teacher.name}' gives vectors: take "
            "another --teacher, or a method that needs only vectors, such as rd"
        )
    return teacher.channels


def fold_slices(tap: Tensor, spatial_dims: int) -> Tensor:
    """A teacher's maps as `[N, C, h, w]` (volumes `[N, C, d, h, w]`): slices of bags are laid into the batch."""
    return tap.flatten(0, 1) if tap.dim() == 3 + spatial_dims else tap


def shrink_to_common(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps to the sides of the smaller, axis by axis."""
    sides = [min(pair) for pair in zip(first.shape[2:], second.shape[2:], strict=True)]
    return average_pool(first, sides), average_pool(second, sides)


def average_pool(maps: Tensor, sides: Sequence[int]) -> Tensor:
    """Average-pool maps to these sides; maps that have them are returned as they are."""
    if list(maps.shape[2:]) == list(sides):
        return maps
    pool: Any = F.adaptive_avg_pool2d if len(sides) == 2 else F.adaptive_avg_pool3d
    return pool(maps, sides)


def convolution(inputs: int, outputs: int, size: int, spatial_dims: int, bias: bool = True) -> nn.Module:
    """A convolution that keeps the sides."""
    kind = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
    return kind(inputs, outputs, size, padding=size // 2, bias=bias)
