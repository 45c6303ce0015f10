"""Resampling of volumes to a box and voxels of any size in mm.

Along each axis the result is the mean of the input's voxels under a triangle, whose half width is a voxel of the input
or of the result, whichever is larger. That is linear interpolation where voxels become smaller, and an antialiased
reduction where they become larger; PIL and torch (`antialias=True`) do the same with pictures. As the three axes are
independent, each is one matrix product, and a large volume is never copied at its full size more than once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_rd.transforms.bag import ResizeEachd

__all__ = ["ResizeVolumed", "resampled"]


def resampled(
    volume: Tensor,
    spacing: Sequence[float],
    starts: Sequence[float],
    lengths: Sequence[float],
    size: Sequence[int],
    empty: float,
) -> Tensor:
    """Resample the part of a volume within a box.

    Args:
        volume: `[X, Y, Z]`, the axes in any order; all other arguments have one value for each axis in this order.
        spacing: of the volume, in mm.
        starts: where the box starts, in mm from the outer border of the volume's first voxel.
        lengths: edges of the box in mm.
        size: voxels of the result, which fill the box.
        empty: value of voxels whose centre lies outside the volume.

    Returns:
        `[x, y, z]`, the dtype of `volume`.
    """
    weights = [
        _weights(count, mm, start, length / number, number)
        for count, mm, start, length, number in zip(volume.shape, spacing, starts, lengths, size, strict=True)
    ]
    outside = [one.sum(dim=1) == 0 for one in weights]
    result = volume
    for axis in sorted(range(3), key=lambda axis: size[axis] / volume.shape[axis]):  # the largest reduction first
        used = weights[axis].any(dim=0).nonzero()[:, 0]  # voxels outside the box cost nothing
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        part, matrix = result.narrow(axis, low, high - low), weights[axis][:, low:high].to(volume.dtype)
        result = torch.tensordot(matrix, part, dims=([1], [axis])).movedim(0, axis)
    result = result.contiguous()
    for axis, places in enumerate(outside):
        if places.any():
            result.index_fill_(axis, places.nonzero()[:, 0], empty)
    return result


def _weights(count: int, mm: float, start: float, step: float, number: int) -> Tensor:
    """Return the weights `[number, count]` of the voxels of one axis; a row outside of the volume is 0."""
    centres = start + (torch.arange(number, dtype=torch.float64) + 0.5) * step
    voxels = (torch.arange(count, dtype=torch.float64) + 0.5) * mm
    weights = (1 - (centres[:, None] - voxels).abs() / max(mm, step)).clamp(min=0)
    inside = (centres >= 0) & (centres <= count * mm)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12) * inside[:, None]


class ResizeVolumed(ResizeEachd):
    """Resample windows `[W, D, H, W']` to another number of voxels in the same field, antialiased.

    The windows of a study's roles become those of one item (`joined`).

    Args:
        keys: keys of the item to transform.
        size: voxels `[D, H, W']` of the result.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from monai_rd.transforms import ResizeVolumed
        >>> ResizeVolumed("image", [32, 48, 48])({"image": MetaTensor(torch.rand(2, 64, 96, 96))})["image"].shape
        torch.Size([2, 32, 48, 48])
    """

    def _transform(self, windows: Any) -> Any:
        if list(windows.shape[1:]) == self.size:
            return windows
        made = [
            resampled(one, (1, 1, 1), (0, 0, 0), one.shape, self.size, 0.0) for one in windows.as_subclass(torch.Tensor)
        ]
        result = torch.stack(made)
        return MetaTensor(result, meta=dict(windows.meta)) if isinstance(windows, MetaTensor) else result
