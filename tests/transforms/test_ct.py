"""Hounsfield windows and augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_rd.transforms import CTAugmentation, HounsfieldWindowsd
from monai_rd.transforms.ct import WINDOWS


def hounsfield() -> MetaTensor:
    values = torch.linspace(-2000, 3000, 2 * 6 * 5).reshape(2, 6, 5)
    return MetaTensor(values, meta={"intensity": "HU"})


def slow_window(values: torch.Tensor, centre: float, width: float) -> torch.Tensor:
    low, high = centre - width / 2, centre + width / 2
    shown = [(min(max(v, low, -1024), high) - low) / width for v in values.flatten().tolist()]
    return torch.tensor(shown).view(values.shape)


def test_windows_are_linear_between_their_edges() -> None:
    stack = hounsfield()
    found = HounsfieldWindowsd("image", ["lung", "mediastinum", (100.0, 200.0)])({"image": stack})["image"]
    assert found.shape == (6, 6, 5)
    pairs = [WINDOWS["lung"], WINDOWS["mediastinum"], (100.0, 200.0)]
    for slice_index in range(2):
        for window, (centre, width) in enumerate(pairs):
            expected = slow_window(stack[slice_index].as_tensor(), centre, width)
            torch.testing.assert_close(found.as_tensor()[slice_index * 3 + window], expected, atol=1e-6, rtol=0)


def test_the_lung_window_is_the_documented_one() -> None:
    """-1350 to 150 HU; what lies outside the field of view, however a scanner marks it, is as dark as -1024 HU."""
    for intensity in ("HU", "unstated"):
        values = torch.tensor([[[-600.0, 150.0, 151.0, -1024.0, -1350.0, -3024.0]]])
        shown = HounsfieldWindowsd("image")({"image": MetaTensor(values, meta={"intensity": intensity})})["image"]
        assert shown.flatten().tolist() == pytest.approx([0.5, 1.0, 1.0, *[326 / 1500] * 3])


def test_the_full_window_and_volumes() -> None:
    """-1024 to 2048 HU; a NIfTI volume, which says nothing of its values, in HU too."""
    edges = torch.tensor([-1024.0, 512.0, 2048.0]).view(1, 1, 1, 3)
    volume = MetaTensor(edges, meta={"intensity": "unstated"})
    found = HounsfieldWindowsd("image", ["full"])({"image": volume})["image"]
    assert found.shape == (1, 1, 1, 3)
    assert found.flatten().tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="in one window, not in 2"):
        HounsfieldWindowsd("image", ["full", "lung"])({"image": volume})


def test_a_figure_shown_in_the_window_ends_where_its_hounsfield_units_do() -> None:
    """The one intensity definition: HU by the window, or an 8-bit picture of that window."""
    stack = hounsfield()
    window = HounsfieldWindowsd("image")
    shown = window({"image": stack})["image"]
    figure = MetaTensor((shown.as_tensor() * 255).round(), meta={"intensity": "display"})
    torch.testing.assert_close(
        window({"image": figure})["image"].as_tensor(), shown.as_tensor(), atol=0.5 / 255 + 1e-6, rtol=0
    )


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown CT window \['lungs'\]; known: lung, mediastinum, bone"):
        HounsfieldWindowsd("image", ["lungs"])
    with pytest.raises(ValueError, match="unknown CT window"):
        HounsfieldWindowsd("image", [])
    with pytest.raises(ValueError, match="width must be above 0"):
        HounsfieldWindowsd("image", [(40.0, 0.0)])
    display = MetaTensor(torch.rand(1, 4, 4), meta={"intensity": "display"})
    with pytest.raises(ValueError, match="8-bit image holds one window only"):
        HounsfieldWindowsd("image", ["lung", "bone", "mediastinum"])({"image": display})
    with pytest.raises(ValueError, match=r"got 'arbitrary' values \(not a CT\?\)"):
        HounsfieldWindowsd("image")({"image": MetaTensor(torch.rand(1, 4, 4), meta={"intensity": "arbitrary"})})


def test_augmentation_treats_all_slices_alike() -> None:
    one = torch.rand(1, 32, 32)
    augment = CTAugmentation("image")
    changed = 0
    for seed in range(12):
        augment.set_random_state(seed)
        found = augment({"image": MetaTensor(one.expand(4, 32, 32).clone())})["image"]
        assert found.shape == (4, 32, 32)
        assert torch.isfinite(found).all()
        for index in range(1, 4):
            torch.testing.assert_close(found[index], found[0])
        changed += not torch.allclose(found[0], one[0])
        augment.set_random_state(seed)
        again = augment({"image": MetaTensor(one.expand(4, 32, 32).clone())})["image"]
        assert torch.equal(found, again)
    assert changed >= 10


def test_the_mirror_swaps_left_and_right_only() -> None:
    """Rows are anterior to posterior: a patient is never turned on the belly."""
    image = MetaTensor(torch.arange(16.0).view(1, 4, 4) / 16)
    flip = CTAugmentation("image").transforms[0]
    flip.set_random_state(0)
    outputs = [flip({"image": image})["image"].as_tensor()[0] for _ in range(20)]
    seen = {tuple(np.sign(np.diff(out.numpy(), axis=axis)).flatten()[0] for axis in (0, 1)) for out in outputs}
    assert seen == {(1.0, 1.0), (1.0, -1.0)}
