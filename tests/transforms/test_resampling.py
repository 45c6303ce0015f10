"""Resampling of volumes, against torch's antialiased interpolation of pictures and against formulas."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.data import MetaTensor
from torch.nn import functional as F

from monai_rd.transforms import ResizeVolumed
from monai_rd.transforms.resampling import resampled


@pytest.mark.parametrize("size", [(17, 23), (77, 93), (40, 12), (13, 50)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_is_resized_as_torch_resizes_pictures(size: tuple[int, int], axis: int) -> None:
    plane = torch.rand(40, 50)
    expected = F.interpolate(plane[None, None], size=size, mode="bilinear", antialias=True, align_corners=False)[0, 0]
    whole, wanted = list(plane.shape), list(size)
    whole.insert(axis, 1)
    wanted.insert(axis, 1)
    found = resampled(plane.unsqueeze(axis), (1, 1, 1), (0, 0, 0), whole, wanted, 0.0)
    torch.testing.assert_close(found.squeeze(axis), expected, atol=1e-5, rtol=0)


def test_a_linear_ramp_keeps_its_values_at_any_spacing_and_place() -> None:
    spacing, count = (0.7, 2.5, 1.1), (60, 20, 40)
    grid = torch.meshgrid(*((torch.arange(n) + 0.5) * mm for n, mm in zip(count, spacing, strict=True)), indexing="ij")
    ramp = 2 * grid[0] - 3 * grid[1] + grid[2]
    starts, lengths, size = (5.3, 8.0, 6.1), (21.0, 30.0, 25.0), (30, 40, 10)
    found = resampled(ramp, spacing, starts, lengths, size, 0.0)
    places = [
        start + (torch.arange(n) + 0.5) * length / n for start, length, n in zip(starts, lengths, size, strict=True)
    ]
    x, y, z = torch.meshgrid(*places, indexing="ij")
    torch.testing.assert_close(found, 2 * x - 3 * y + z, atol=0.1, rtol=0)  # mm; exact where voxels become smaller


def test_outside_of_the_volume_is_empty_and_nothing_of_it_reaches_inside() -> None:
    volume = torch.full((10, 10, 10), 7.0)
    found = resampled(volume, (1, 1, 1), (-5.0, 2.0, 0.0), (20.0, 6.0, 10.0), (20, 6, 10), -1024.0)
    assert torch.equal(found[:5], torch.full((5, 6, 10), -1024.0))
    assert torch.equal(found[15:], torch.full((5, 6, 10), -1024.0))
    torch.testing.assert_close(found[5:15], torch.full((10, 6, 10), 7.0))
    far = resampled(volume, (1, 1, 1), (50.0, 0.0, 0.0), (10.0, 10.0, 10.0), (4, 4, 4), -1.0)
    assert torch.equal(far, torch.full((4, 4, 4), -1.0))


def test_the_mean_is_kept_where_voxels_become_larger() -> None:
    """Every voxel counts, also between the samples: a single bright one among 1,000 is not lost."""
    for place in itertools.product((4, 5), repeat=3):
        volume = torch.zeros(10, 10, 10)
        volume[place] = 1000.0
        found = resampled(volume, (1, 1, 1), (0, 0, 0), (10, 10, 10), (2, 2, 2), 0.0)
        assert float(found.mean()) == pytest.approx(1.0, rel=0.5)


def test_windows_are_resized_each_by_itself_and_keep_their_meta() -> None:
    windows = MetaTensor(torch.rand(3, 8, 10, 12), meta={"intensity": "HU"})
    found = ResizeVolumed("image", [4, 10, 6])({"image": windows})["image"]
    assert found.shape == (3, 4, 10, 6)
    assert found.meta["intensity"] == "HU"
    alone = ResizeVolumed("image", [4, 10, 6])({"image": windows[1:2].as_tensor()})["image"]
    assert torch.equal(found[1:2].as_tensor(), alone)
    assert ResizeVolumed("image", [8, 10, 12])({"image": windows})["image"] is windows
