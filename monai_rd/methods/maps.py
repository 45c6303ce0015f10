"""Tools for methods that compare feature maps: finding, folding and resizing maps, and layers for 2D and 3D."""

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
    """Return the student's map whose mean over positions is f_s.

    Args:
        student: the student.
        method: name of the method, for the error message.

    Raises:
        ValueError: the student's features are not the mean of a map.
    """
    level = student.last_map
    if level is None:
        raise ValueError(
            f"the method '{method}' works on the map whose mean is the student's features, which this student does not "
            "have: take another --student, such as resnet18"
        )
    return level


def teacher_map_channels(teacher: FrozenFoundationModel, method: str) -> int:
    """Return the number of channels of the teacher's feature map.

    Raises:
        ValueError: the teacher gives vectors.
    """
    if teacher.kind != "map":
        raise ValueError(
            f"the method '{method}' needs the teacher's features as a map, and '{teacher.name}' gives vectors: take "
            "another --teacher, or a method that needs only vectors, such as rd"
        )
    return teacher.channels


def fold_slices(tap: Tensor, spatial_dims: int) -> Tensor:
    """Return a teacher's maps as `[N, C, h, w]` (volumes `[N, C, d, h, w]`), with a bag's slices in the batch axis."""
    return tap.flatten(0, 1) if tap.dim() == 3 + spatial_dims else tap


def shrink_to_common(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool two maps `[N, C, ...]` to the smaller size of the two along each axis."""
    sides = [min(pair) for pair in zip(first.shape[2:], second.shape[2:], strict=True)]
    return average_pool(first, sides), average_pool(second, sides)


def average_pool(maps: Tensor, sides: Sequence[int]) -> Tensor:
    """Average-pool maps `[N, C, ...]` to the size `sides`; maps of that size are returned unchanged."""
    if list(maps.shape[2:]) == list(sides):
        return maps
    pool: Any = F.adaptive_avg_pool2d if len(sides) == 2 else F.adaptive_avg_pool3d
    return pool(maps, sides)


def convolution(inputs: int, outputs: int, size: int, spatial_dims: int, bias: bool = True) -> nn.Module:
    """Return a 2D or 3D convolution with an odd kernel size that keeps the map size."""
    kind = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
    return kind(inputs, outputs, size, padding=size // 2, bias=bias)
