"""Where the body, the lungs or the brain lie in a volume, by stated rules, for volumes of any orientation and spacing.

The rules work on voxels of about 4 mm:

- `body`: all values above -500 HU, or for other images above the mean of all values. Parts thinner than 3 voxels, such
  as the table, are removed (opening), and of the rest the largest connected part is the body.
- `lung`: CT only. Connected parts of values up to -500 HU that do not touch the front, back, left or right border; the
  largest, and all parts of at least a third of its size.
- `brain`: the highest 170 mm of the body, which contain the brain of an adult (as in FSL's robustfov).
- `image`: the whole volume.

The extent of a region along an axis is the range between the 0.5 and 99.5 % quantile of its voxels' positions. Unlike
the outermost voxel it hardly changes with noise or with the spacing of the scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["COARSE_MM", "REGIONS", "Extent", "find_region"]

REGIONS = ("body", "lung", "brain", "image")
COARSE_MM = 4.0

_TISSUE_HU = -500.0
_TAIL = 0.005  # share of the region's voxels that may lie outside of its extent, at each end
_BRAIN_MM = 170.0
_LEAST_PART = 1 / 3
_CUT = 0.05  # of the region's largest cross-section: a border with more of the region cuts it off

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Extent:
    """The extent of a region.

    Args:
        starts: where it starts along each axis of the volume, in mm from the volume's border.
        ends: where it ends.
        cut: borders of the volume that cut it off, in words.
    """

    starts: tuple[float, float, float]
    ends: tuple[float, float, float]
    cut: tuple[str, ...] = ()


def find_region(volume: npt.NDArray[Any], spacing: Sequence[float], region: str, hounsfield: bool) -> Extent | None:
    """Find a region.

    Args:
        volume: `[D, H, W]`, inferior to superior, anterior to posterior, right to left, with voxels of about 4 mm.
        spacing: in mm.
        region: one of `REGIONS`.
        hounsfield: whether the values are in HU.

    Returns:
        Its extent along D, H and W; None if there is none.

    Raises:
        ValueError: an unknown region, or "lung" for values other than HU.
    """
    if region not in REGIONS:
        raise ValueError(f"region must be one of {', '.join(REGIONS)}, not {region!r}")
    sides = tuple(count * mm for count, mm in zip(volume.shape, spacing, strict=True))
    if region == "image":
        return Extent((0.0, 0.0, 0.0), (sides[0], sides[1], sides[2]))
    if region == "lung" and not hounsfield:
        raise ValueError("the region 'lung' is found by Hounsfield units, so in CT only: take another --region")
    mask = _lungs(volume) if region == "lung" else _body(volume, _TISSUE_HU if hounsfield else float(volume.mean()))
    if not mask.any():
        return None
    if region == "brain":
        top = _range(mask, 0, spacing)[1]
        below = np.arange(mask.shape[0]) < int((top - _BRAIN_MM) / spacing[0])
        mask = mask & ~below[:, None, None]
    depth, height, width = (_range(mask, axis, spacing) for axis in range(3))
    starts, ends = zip(depth, height, width, strict=True)
    return Extent(starts, ends, _cut(mask, region))


def _body(volume: npt.NDArray[Any], threshold: float) -> Mask:
    mask = volume > threshold
    opened = ndimage.binary_opening(np.pad(mask, 1, mode="edge"), np.ones((3, 3, 3)))[1:-1, 1:-1, 1:-1]
    parts, sizes = _parts(opened if opened.any() else mask)
    return parts == 1 + int(np.argmax(sizes)) if len(sizes) else mask


def _lungs(volume: npt.NDArray[Any]) -> Mask:
    air = volume <= _TISSUE_HU
    parts, sizes = _parts(air)
    outside = {0, *np.unique(parts[:, [0, -1]]), *np.unique(parts[:, :, [0, -1]])}
    sizes = np.asarray([0 if number + 1 in outside else size for number, size in enumerate(sizes)])
    if not sizes.any():
        return np.zeros_like(air)
    return np.isin(parts, 1 + np.flatnonzero(sizes >= sizes.max() * _LEAST_PART))


def _parts(mask: Mask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the number of each voxel's connected part, 0 outside of the mask, and the parts' sizes from number 1."""
    parts, _ = ndimage.label(mask)
    return parts, np.bincount(parts.ravel())[1:]


def _range(mask: Mask, axis: int, spacing: Sequence[float]) -> tuple[float, float]:
    """Return the quantiles of the mask's positions along an axis, in mm."""
    profile = mask.sum(axis=tuple({0, 1, 2} - {axis})).astype(np.float64)
    shares = np.concatenate([[0], np.cumsum(profile) / profile.sum()])
    low, high = np.interp([_TAIL, 1 - _TAIL], shares, np.arange(len(shares)) * spacing[axis])
    return float(low), float(high)


# Which borders can cut off a region: (axis, side, name). The body goes on above and below, the neck below the brain.
_BORDERS = {
    "body": ((1, 0, "front"), (1, -1, "back"), (2, 0, "right"), (2, -1, "left")),
    "lung": ((0, 0, "lower end"), (0, -1, "upper end")),
    "brain": ((0, -1, "upper end"),),
}


def _cut(mask: Mask, region: str) -> tuple[str, ...]:
    found = []
    for axis, side, name in _BORDERS[region]:
        profile = mask.sum(axis=tuple({0, 1, 2} - {axis}))
        if profile[side] > _CUT * profile.max():
            found.append(name)
    return tuple(found)
