"""A field in mm around a region: place, orientation, windows, and what is told of a volume that does not fit."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_rd.errors import CutOffError, NoRegionError, SmallFieldError, ThickSlicesError, UnsupportedImageError
from monai_rd.transforms import ResizeForBothd, Sizes, VolumeViewd
from monai_rd.transforms.regions import find_region
from monai_rd.transforms.volumes import window_starts

MM = (2.0, 2.0, 4.0)  # of the drawn chest along x, y, z


def chest(long: int = 60, side: int = 120, moved: tuple[int, int, int] = (0, 0, 0), lungs: bool = True) -> MetaTensor:
    """A chest `[1, X, Y, Z]` in HU of 2 x 2 x 4 mm: body 160 x 120 mm, two lungs 140 mm high, a table under it."""
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in (side, side, long)), indexing="ij")
    x, y, z = (axis - shift for axis, shift in zip((x, y, z), moved, strict=True))
    hu = np.full(x.shape, -1000.0)
    hu[(x / 40) ** 2 + (y / 30) ** 2 < 1] = 40
    for middle in (-18, 18) if lungs else ():
        hu[((x - middle) / 12) ** 2 + (y / 18) ** 2 + (z / 17.5) ** 2 < 1] = -850
    hu[:, min(95, side - 1)] = 200  # 2 mm thin
    affine = torch.diag(torch.tensor([-2.0, -2.0, 4.0, 1.0], dtype=torch.float64))  # x to the left, y to the back
    return MetaTensor(torch.as_tensor(hu[None], dtype=torch.float32), affine=affine, meta={"intensity": "HU"})


def sizes(field: tuple[float, float, float] = (192, 160, 192), mm: float = 4.0) -> Sizes:
    return Sizes(spatial_dims=3, spacing=(mm, mm, mm), field=field)


def view(image: MetaTensor, wanted: Sizes | None = None, **options: Any) -> dict[Any, Any]:
    options = {"region": "body", "empty": -1024.0, **options}
    return VolumeViewd("image", wanted or sizes(), **options)({"image": image, "flags": ""})


def middle(image: torch.Tensor, above: float = -500) -> list[float]:
    """Middle of what is brighter, in voxels from the middle of the field."""
    places = (image > above).nonzero().float()
    return ((places.amin(0) + places.amax(0)) / 2 + 0.5 - torch.tensor(image.shape) / 2).tolist()


@pytest.mark.parametrize("moved", [(0, 0, 0), (12, -9, 5), (-14, 4, -6)])
def test_the_field_is_around_the_body_and_the_lungs(moved: tuple[int, int, int]) -> None:
    body = view(chest(moved=moved), sizes((192, 160, 240)))["image"]
    assert body.shape == (1, 60, 40, 48)
    assert max(abs(one) for one in middle(body[0].as_tensor())[1:]) <= 1
    lungs = view(chest(moved=moved), region="lung")["image"][0].as_tensor()
    air = ((lungs < -600) & (lungs > -950)).nonzero().float()
    air = air[(air[:, 1] - 20).abs() < 8]
    offsets = (air.amin(0) + air.amax(0)) / 2 + 0.5 - torch.tensor([24.0, 20.0, 24.0])
    assert float(offsets.abs().max()) <= 1.5


@pytest.mark.parametrize("flips", itertools.product([False, True], repeat=3))
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_storage_of_a_volume_does_not_matter(flips: tuple[bool, ...], order: tuple[int, ...]) -> None:
    plain = chest(moved=(7, -5, 3))
    expected = view(plain)["image"].as_tensor()
    array, affine = plain.as_tensor()[0], plain.affine.clone()
    for axis, flip in enumerate(flips):
        if flip:
            array = array.flip(axis)
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
    stored = MetaTensor(array.permute(order)[None], affine=affine[:, [*order, 3]], meta=dict(plain.meta))
    torch.testing.assert_close(view(stored)["image"].as_tensor(), expected, atol=0.01, rtol=0)


def test_each_role_of_a_study_has_windows_around_its_own_region() -> None:
    """Their places and lengths differ; the windows of the shorter volume are repeated, so that its weight is equal."""
    images = {"plain": chest(moved=(7, -5, 3)), "long": chest(long=120, side=100, moved=(-9, 4, 0))}
    wanted = sizes((192, 160, 240))
    made = VolumeViewd("image", wanted, region="body", empty=-1024.0)({"image": images})["image"]
    for role, image in images.items():
        assert torch.equal(made[role].as_tensor(), view(image, wanted)["image"].as_tensor())
    assert [len(windows) for windows in made.values()] == [1, 4]
    both = ResizeForBothd("image", replace(wanted, teacher_spacing=(8.0, 8.0, 8.0)))({"image": made})
    assert both["image"].shape == (8, 60, 40, 48)
    assert both["teacher_image"].shape == (8, 30, 20, 24)
    means = torch.stack([windows.as_tensor().mean(dim=0) for windows in made.values()])
    torch.testing.assert_close(both["image"].as_tensor().mean(dim=0), means.mean(dim=0))
    assert both["image"].meta["intensity"] == "HU"
    policy = {"SMALL_FIELD": "warn"}
    flagged = VolumeViewd("image", sizes((192, 160, 800)), region="image", policy=policy)
    assert flagged({"image": dict.fromkeys(["a", "b"], chest()), "flags": ""})["flags"] == "SMALL_FIELD"


def test_a_resampled_copy_gives_nearly_the_same_view() -> None:
    """Of a smooth volume, at other spacings along each axis."""
    fine = [torch.arange(n) * mm + mm / 2 for n, mm in ((240, 1.0), (240, 1.0), (200, 1.2))]
    coarse = [torch.arange(n) * mm + mm / 2 for n, mm in ((160, 1.5), (120, 2.0), (80, 3.0))]

    def drawn(axes: list[torch.Tensor]) -> MetaTensor:
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        inside = 1 - ((x - 130) / 80) ** 2 - ((y - 112) / 60) ** 2
        hu = (600 * torch.sin(x / 25) * torch.cos(z / 30) + 900) * (torch.sigmoid(12 * inside)) - 1000
        mm = [float(axis[1] - axis[0]) for axis in axes]
        return MetaTensor(
            hu[None], affine=torch.diag(torch.tensor([-mm[0], -mm[1], mm[2], 1])), meta={"intensity": "HU"}
        )

    first, second = (view(drawn(axes))["image"].as_tensor() for axes in (fine, coarse))
    assert float((first - second).abs().max()) < 25  # of 1,500 HU
    assert float((first - second).abs().mean()) < 2


def test_windows_cover_a_long_body_evenly() -> None:
    long = chest(long=150)  # 600 mm
    made = view(long)["image"]
    assert made.shape == (4, 48, 40, 48)
    whole = view(long, sizes((192, 160, 600)))["image"][0].as_tensor()
    assert whole.shape[0] == 150
    starts = [0, 34, 68, 102]
    for window, start in zip(made.as_tensor(), starts, strict=True):
        differences = [
            float((window - whole[start + shift : start + shift + 48]).abs().mean()) for shift in (-1, 0, 1)
            if start + shift >= 0 and start + shift + 48 <= 150
        ]  # fmt: skip
        assert min(differences) < 5


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 80, [-10]),  # fits: around the middle
        (10, 119, [14.5]),  # longer by less than a tenth
        (0, 150, [0, 50]),
        (0, 176, [0, 25, 51, 76]),  # three are needed for an overlap of a quarter
        (100, 500, [100, 143, 186, 229, 271, 314, 357, 400]),
    ],
)
def test_where_windows_start(low: float, high: float, expected: list[float]) -> None:
    found = window_starts(low, high, 100, 1.0)
    assert found == pytest.approx(expected, abs=0.51)
    if len(found) > 1:
        assert max(b - a for a, b in itertools.pairwise(found)) <= 75
        assert (found[0], found[-1] + 100) == pytest.approx((low, high))


def test_what_does_not_fit_is_flagged_or_refused() -> None:
    cases = [
        (chest(long=12), sizes((192, 160, 120)), "SMALL_FIELD", SmallFieldError, {}),
        (chest(), sizes((160, 160, 160), mm=1.0), "THICK_SLICES", ThickSlicesError, {}),
        (chest(long=30), None, "CUT_OFF", CutOffError, {"region": "lung"}),
        (chest(side=70), None, "CUT_OFF", CutOffError, {}),
        (chest(lungs=False), None, "NO_REGION", NoRegionError, {"region": "lung", "policy": {"NO_REGION": "warn"}}),
    ]
    for image, wanted, code, kind, options in cases:
        image = MetaTensor(image[..., :12] if code == "SMALL_FIELD" else image, meta=image.meta, affine=image.affine)
        found = view(image, wanted, **options)
        assert code in found["flags"].split("|"), code
        assert found["image"].isfinite().all()
        with pytest.raises(kind):
            view(image, wanted, **{**options, "policy": {code: "error"}})
    assert view(chest())["flags"] == ""
    flagged = VolumeViewd("image", sizes(), empty=-1024.0)({"image": chest(side=70), "flags": "WRONG_BODY_PART"})
    assert flagged["flags"] == "WRONG_BODY_PART|CUT_OFF"


def test_pictures_and_unknown_regions_are_refused() -> None:
    with pytest.raises(UnsupportedImageError, match="a single image or pictures were given to a 3D network"):
        view(MetaTensor(torch.rand(1, 8, 8)))
    frames = MetaTensor(torch.rand(3, 8, 8, 4), meta={"intensity": "display"})
    with pytest.raises(UnsupportedImageError, match="a size in mm"):
        view(frames)
    with pytest.raises(ValueError, match="--region must be one of body, lung, brain, image, not 'liver'"):
        view(chest(), region="liver")
    with pytest.raises(ValueError, match="a volume needs a field in mm"):
        view(chest(), Sizes(64))
    grey = MetaTensor(chest().as_tensor() / 1000 + 1, affine=chest().affine, meta={"intensity": "unit"})
    with pytest.raises(ValueError, match="found by Hounsfield units, so in CT only"):
        view(grey, region="lung", empty=0.0)


def test_values_below_the_empty_space_do_not_reach_the_view_and_the_input_is_kept() -> None:
    image = chest()
    image[:, :5] = -3024.0  # outside of the scanner's field of view
    before = image.clone()
    found = view(image, region="image")["image"]
    assert float(found.min()) >= -1024
    assert torch.equal(image, before)


def test_a_head_is_seen_from_its_top() -> None:
    """170 mm from the vertex, and not the neck and shoulders below it."""
    head = torch.zeros(1, 100, 100, 90)  # 2 x 2 x 4 mm: 360 mm long
    head[:, 10:90, 20:80, :30] = 0.5  # shoulders
    head[:, 30:70, 30:70, 30:80] = 0.8  # neck and head, up to 320 mm
    image = MetaTensor(head, affine=torch.diag(torch.tensor([-2.0, -2.0, 4.0, 1.0])), meta={"intensity": "unit"})
    wanted = Sizes(spatial_dims=3, spacing=(4, 4, 4), field=(160, 160, 170))
    found = view(image, wanted, region="brain", empty=0.0)
    assert found["image"].shape[0] == 1
    bright = (found["image"][0].as_tensor() > 0.4).nonzero().float()
    assert float(bright[:, 0].amax()) >= 40  # its top is at the top of the field of 42 voxels
    assert float((bright[:, 2].amin() + bright[:, 2].amax()) / 2) == pytest.approx(19.5, abs=1)
    assert found["flags"] == ""


def test_an_empty_volume_has_no_region() -> None:
    for region in ("body", "lung", "brain"):
        assert find_region(np.full((20, 20, 20), -1000.0), (4, 4, 4), region, hounsfield=True) is None
    assert find_region(np.zeros((20, 20, 20)), (4, 4, 4), "body", hounsfield=False) is None
    assert find_region(np.zeros((20, 20, 20)), (4, 4, 4), "image", hounsfield=False) is not None


def test_the_table_is_not_the_body() -> None:
    """A plate of a voxel beside a body that is smaller than it."""
    volume = np.full((30, 40, 40), -1000.0)
    volume[5:25, 10:20, 15:25] = 40
    volume[:, 30] = 300
    found = find_region(volume, (4, 4, 4), "body", hounsfield=True)
    assert found is not None
    assert found.starts == pytest.approx((20, 40, 60), abs=2)
    assert found.ends == pytest.approx((100, 80, 100), abs=2)
