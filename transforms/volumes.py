"""Volumes for 3D networks: a field of a size in mm around a region of the body, at a spacing in mm.

A volume is never squeezed: its voxels are resampled to the spacing, what lies outside of the field is cut away, and
where the field reaches beyond the volume there is empty space. If the region is longer than the field, the field is
placed several times, evenly spread and overlapping, and a network averages the features of these windows. Along each
axis their number is a power of two, so that studies with different numbers of windows fit into one batch (`bag_collate`
repeats the windows of the shorter ones, which does not change their mean).

The volumes of a study of several roles may have different geometries: each gets windows around its own region, and
`ResizeVolumed` makes them the windows of one item.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from torch import Tensor

from monai_rd.errors import (
    CutOffError,
    NoRegionError,
    Policy,
    SmallFieldError,
    StudyError,
    ThickSlicesError,
    UnsupportedImageError,
)
from monai_rd.transforms.bag import kept_meta, luminance
from monai_rd.transforms.each import each_image
from monai_rd.transforms.regions import COARSE_MM, REGIONS, Extent, find_region
from monai_rd.transforms.resampling import resampled
from monai_rd.transforms.sizes import Sizes

__all__ = ["VolumeViewd", "window_starts"]

logger = logging.getLogger(__name__)

_OVERLAP = 0.25  # of neighbouring windows, at least
_SLACK = 1.1  # a region that is longer than the field by less than this factor is cut rather than seen in two windows
_THICK = 3.0  # voxels longer than this many voxels of the result
_SMALL = 0.5  # share of the field
_AXES = axcodes2ornt(("S", "P", "L"))
_warned: set[str] = set()


class VolumeViewd(MapTransform):
    """Turn each volume `[C, X, Y, Z]` into windows `[W, D, H, W']` of a size in mm around a region of the body.

    D runs from inferior to superior, H from anterior to posterior, W' from the patient's right to left. Oblique volumes
    are turned by multiples of 90 degrees only. W is 1 unless the region is longer than the field, see
    `monai_rd.transforms.volumes`.

    Args:
        keys: key of the item to transform (one): a volume, or volumes by role.
        sizes: field in mm and number of voxels (`Sizes.view`).
        region: around which the field is placed, see `monai_rd.transforms.regions`.
        empty: value of empty space, such as -1024 HU; lower values of the volume are raised to it.
        policy: action for each error code, see `Policy`; under "warn" it is logged once, and appended to the item's
            `flags` if it has them (a training's items do not).

    Raises:
        ValueError: an unknown region, `sizes` of 2D networks, or another shape.
        UnsupportedImageError: a single image, or pictures, which have no size in mm.
        ThickSlicesError: along one axis the voxels are more than 3 times as long as those of the result.
        SmallFieldError: the volume covers less than half of the field along one axis.
        CutOffError: the region is cut off at a border of the volume.
        NoRegionError: the volume does not show the region.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from monai_rd.transforms import Sizes, VolumeViewd
        >>> sizes = Sizes(spatial_dims=3, spacing=(3, 3, 4), field=(96, 96, 128))  # x, y, z
        >>> volume = MetaTensor(torch.rand(1, 100, 90, 70), affine=torch.diag(torch.tensor([1.0, 1, 2, 1])))
        >>> VolumeViewd("image", sizes, region="image")({"image": volume})["image"].shape  # [W, D, H, W']
        torch.Size([1, 32, 32, 32])
    """

    def __init__(
        self,
        keys: KeysCollection,
        sizes: Sizes,
        region: str = "body",
        empty: float = 0.0,
        policy: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(keys)
        if region not in REGIONS:
            raise ValueError(f"--region must be one of {', '.join(REGIONS)}, not {region!r}")
        if sizes.field is None or sizes.view_mm is None:
            raise ValueError("a volume needs a field in mm: sizes of a 3D network")
        self.region, self.empty, self.policy = region, empty, Policy(policy)
        self.field_mm, self.size = [float(mm) for mm in reversed(sizes.field)], sizes.view
        self._steps = sizes.view_mm[::-1]  # of a voxel

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform the item."""
        flags = [data["flags"]] if data.get("flags") else []

        def view(image: MetaTensor) -> MetaTensor:
            windows, problems = self._windows(image)
            for problem in problems:
                if self.policy[problem.code] != "warn":
                    raise problem
                _warn_once(problem)
                flags.append(problem.code)
            return windows

        item = {**data, **{key: each_image(data[key], view) for key in self.key_iterator(dict(data))}}
        return {**item, "flags": "|".join(dict.fromkeys(flags))} if "flags" in item else item

    def _windows(self, image: MetaTensor) -> tuple[MetaTensor, list[StudyError]]:
        hounsfield = image.meta.get("intensity") in ("HU", "unstated") and self.empty < 0
        upright = _Upright(image, self.empty if hounsfield else 0.0)
        spacing, sides = upright.spacing, upright.sides
        coarse = [max(round(side / COARSE_MM), 1) for side in sides]
        small = upright.resampled([0.0] * 3, sides, coarse)
        coarse_mm = [side / count for side, count in zip(sides, coarse, strict=True)]
        found = find_region(small.numpy(), coarse_mm, self.region, hounsfield)
        problems = list(self._problems(spacing, sides, found))
        extent = found or Extent((0.0, 0.0, 0.0), (sides[0], sides[1], sides[2]))
        starts = [
            window_starts(low, high, mm, step)
            for low, high, mm, step in zip(extent.starts, extent.ends, self.field_mm, self._steps, strict=True)
        ]
        firsts = [own[0] for own in starts]
        places = [
            [round((start - own[0]) / step) for start in own] for own, step in zip(starts, self._steps, strict=True)
        ]
        counts = [own[-1] + count for own, count in zip(places, self.size, strict=True)]
        lengths = [count * step for count, step in zip(counts, self._steps, strict=True)]
        whole = upright.resampled(firsts, lengths, counts)
        windows = torch.stack([_part(whole, place, self.size) for place in product(*places)])
        return MetaTensor(windows, meta=kept_meta(image)), problems

    def _problems(self, spacing: list[float], sides: list[float], found: Extent | None) -> Iterator[StudyError]:
        if found is None:
            yield NoRegionError(
                f"the volume does not show the region '{self.region}' by its rule: leave it out, or take another "
                "--region"
            )
        elif found.cut:
            yield CutOffError(f"the region '{self.region}' is cut off at the {' and '.join(found.cut)} of the volume")
        thick = max(own / step for own, step in zip(spacing, self._steps, strict=True))
        if thick > _THICK:
            yield ThickSlicesError(
                f"the volume has voxels of {_mm(spacing)} mm, and those of the view are {_mm(self._steps)} mm: along "
                f"one axis {thick:.1f} times smaller"
            )
        if min(side / mm for side, mm in zip(sides, self.field_mm, strict=True)) < _SMALL:
            yield SmallFieldError(
                f"the volume covers {_mm(sides)} mm, along one axis less than half of the field of "
                f"{_mm(self.field_mm)} mm"
            )


class _Upright:
    """A volume in grey with the axes D, H and W, of which only small copies are made.

    Args:
        image: `[C, X, Y, Z]`.
        empty: value of empty space.

    Attributes:
        spacing: along D, H and W in mm.
        sides: lengths along D, H and W in mm.
    """

    def __init__(self, image: MetaTensor, empty: float) -> None:
        if image.ndim == 3 or (image.ndim == 4 and image.meta.get("intensity") == "display"):
            raise UnsupportedImageError(
                "a single image or pictures were given to a 3D network, which needs volumes with a size in mm (DICOM "
                "series, NIfTI); take a 2D student and teacher",
                image.meta.get("series_uid"),
            )
        if image.ndim != 4:
            raise ValueError(f"a volume [C, X, Y, Z] is needed, got {list(image.shape)}")
        affine = image.affine.numpy()
        turn = ornt_transform(io_orientation(affine), _AXES)
        axes = [int(np.flatnonzero(turn[:, 0] == place)[0]) for place in range(3)]
        values = luminance(image.as_tensor())[0]
        if values.amin() < empty:
            values = values.clamp(min=empty)
        self._values, self._empty = values.permute(axes), empty
        self._flipped = [turn[axis, 1] < 0 for axis in axes]
        self.spacing = [float(np.linalg.norm(affine[:3, axis])) for axis in axes]
        self.sides = [count * mm for count, mm in zip(self._values.shape, self.spacing, strict=True)]

    def resampled(self, starts: Sequence[float], lengths: Sequence[float], size: Sequence[int]) -> Tensor:
        """Resample a box `[D, H, W]`, see `monai_rd.transforms.resampling.resampled`."""
        own = [
            side - start - length if flipped else start
            for side, start, length, flipped in zip(self.sides, starts, lengths, self._flipped, strict=True)
        ]
        made = resampled(self._values, self.spacing, own, lengths, size, self._empty)
        return made.flip([axis for axis, flipped in enumerate(self._flipped) if flipped])


def window_starts(low: float, high: float, length: float, step: float) -> list[float]:
    """Return where the windows start that cover a range.

    One window is placed around the middle of the range. If the range is longer than it by a tenth, as many windows as
    are needed for an overlap of at least a quarter, rounded up to a power of two, are spread evenly over the range.

    Args:
        low: start of the range, in mm.
        high: end of the range.
        length: of a window.
        step: all starts differ by multiples of this length, a voxel.
    """
    reach = high - low
    if reach <= _SLACK * length:
        return [(low + high - length) / 2]
    needed = 1 + math.ceil((reach - length) / ((1 - _OVERLAP) * length))
    count = 1 << (needed - 1).bit_length()
    return [low + step * round((reach - length) * number / (count - 1) / step) for number in range(count)]


def _part(whole: Tensor, place: tuple[int, ...], size: list[int]) -> Tensor:
    for axis, (start, count) in enumerate(zip(place, size, strict=True)):
        whole = whole.narrow(axis, start, count)
    return whole


def _mm(values: list[float]) -> str:
    """Lengths along x, y and z, as they are typed."""
    return " x ".join(f"{value:.3g}" for value in reversed(values))


def _warn_once(problem: StudyError) -> None:
    if problem.code not in _warned:
        _warned.add(problem.code)
        logger.warning("%s: %s; further volumes with this problem are not named", problem.code, problem)
