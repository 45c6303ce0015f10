"""MR intensities: one scale whatever the units, N4, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_rd.errors import EmptyImageError, StudyError, WrongIntensityError
from monai_rd.transforms import LoadImageOrSeriesd, MRIntensityd, SliceStackd
from monai_rd.transforms.mr import bias_field
from tests.dicom_files import make_series


def item(values: np.ndarray | torch.Tensor, intensity: str = "arbitrary", **meta: Any) -> dict[str, MetaTensor]:
    """An image [X, Y] or volume [X, Y, Z] of one channel, as loaded."""
    return {"image": MetaTensor(torch.as_tensor(values).float()[None], meta={"intensity": intensity, **meta})}


def standardised(values: np.ndarray, **options: Any) -> np.ndarray:
    return MRIntensityd("image", **options)(item(values))["image"].numpy()[0]


def head(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid of two tissues in air, with noise: values, and the tissue of each voxel (0 air, 1, 2)."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes)) / 0.8
    tissue = np.where(radius < 0.55, 2, np.where(radius < 1, 1, 0))
    noise = np.random.default_rng(seed).normal(0, 2, shape)
    return np.array([0.0, 90.0, 150.0])[tissue] + np.abs(noise), tissue


def test_percentiles_of_a_hand_made_image() -> None:
    """0 to 100 once each; above the mean of 50 lie 51 to 100, whose 90th percentile is 95.1."""
    values = np.arange(101.0).reshape(1, 101)
    found = standardised(values, lower=10, upper=90)
    np.testing.assert_allclose(found, np.clip((values - 10) / (95.1 - 10), 0, 1), atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 50), (24, 20, 12)])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 1000.0), (37.5, 0.0), (0.002, -3.0)])
def test_units_do_not_matter(shape: tuple[int, ...], scale: float, shift: float) -> None:
    values, _ = head(*shape)
    np.testing.assert_allclose(standardised(values * scale + shift), standardised(values), atol=2e-4)


def test_air_around_does_not_matter() -> None:
    values, tissue = head(60, 60)
    wide = np.pad(values, 30)
    found, cropped = standardised(wide)[30:-30, 30:-30], standardised(values)
    for kind in (1, 2):
        assert abs(found[tissue == kind].mean() - cropped[tissue == kind].mean()) < 0.01


def test_dark_tissue_is_not_taken_for_air() -> None:
    """Fluid in T1 lies below every threshold that finds the head, and stays apart from air."""
    values, tissue = head(64, 64)
    values[28:36, 28:36] = 20
    found = standardised(values)
    assert found[30, 30] > found[tissue == 0].mean() + 0.08


def test_a_figure_goes_the_way_of_a_volume() -> None:
    """8-bit, grey or colour: the same definition."""
    values, _ = head(40, 50)
    grey = torch.from_numpy(values).round().clamp(0, 255).float()
    colour = MetaTensor(grey.expand(3, -1, -1).clone(), meta={"intensity": "display"})
    found = MRIntensityd("image")({"image": colour})["image"]
    assert found.shape == (1, 40, 50)
    np.testing.assert_allclose(found.numpy()[0], standardised(grey.numpy()), atol=1e-5)


@pytest.mark.parametrize("shape", [(96, 80), pytest.param((28, 24, 12), marks=pytest.mark.slow), (48, 48, 2)])
def test_n4_takes_away_a_planted_bias_field(shape: tuple[int, ...]) -> None:
    values, tissue = head(*shape)
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape[:2]], indexing="ij")
    field = np.exp(0.4 * axes[0] - 0.3 * axes[0] * axes[1])
    if len(shape) == 3:
        field = np.repeat(field[..., None], shape[2], axis=2)
        if shape[2] == 2:  # no air above and below
            values, tissue = (np.stack([part[0]] * 2, axis=-1) for part in zip(head(*shape[:2]), strict=True))

    def spread(found: np.ndarray) -> float:
        return max(found[tissue == kind].std() / found[tissue == kind].mean() for kind in (1, 2))

    corrected = standardised(values * field, n4=True, upper=100)
    assert spread(standardised(values * field, upper=100)) > 0.12
    assert spread(corrected) < 0.06
    assert np.array_equal(corrected, standardised(values * field, n4=True, upper=100))


def test_the_bias_field_is_the_planted_one_up_to_a_factor() -> None:
    values, tissue = head(40, 48)
    planted = np.exp(0.5 * np.linspace(-1, 1, 40))[:, None] * np.ones((1, 48))
    field = bias_field(values * planted)
    assert field.shape == values.shape
    assert abs(field[tissue > 0].mean() - 1) < 0.02
    ratio = (field / planted)[tissue > 0]
    assert ratio.std() / ratio.mean() < 0.05


def test_dicom_and_nifti_of_one_scan_are_the_same(tmp_path: Path) -> None:
    _, stored = make_series(tmp_path / "series", modality="MR", rescale=(2.0, 5.0))
    nifti = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(stored.transpose(2, 1, 0) * 0.5, np.diag([-0.6, -0.8, 2.5, 1.0])), nifti)
    found = [
        SliceStackd("image", 6)(MRIntensityd("image")(LoadImageOrSeriesd("image", window=False)({"image": source})))
        for source in (tmp_path / "series", nifti)
    ]
    assert found[0]["image"].shape == (6, 10, 14)
    torch.testing.assert_close(found[0]["image"].as_tensor(), found[1]["image"].as_tensor(), atol=1e-5, rtol=0)
    assert (found[0]["image"].min(), found[0]["image"].max()) == (0, 1)


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (item(np.eye(4), "HU", modality="CT"), WrongIntensityError, "of modality 'CT'"),
        (item(np.eye(4), "display", modality="US"), WrongIntensityError, "of modality 'US'"),
        (item(np.array([[0.0, np.nan]])), WrongIntensityError, "not finite"),
        (item(np.array([[0.0, np.inf]])), WrongIntensityError, "not finite"),
        (item(np.full((4, 4), 7.0)), EmptyImageError, "all values are equal"),
        (item(np.zeros((4, 4, 4))), EmptyImageError, "all values are equal"),
    ],
)
def test_what_has_no_mr_intensities_is_refused(image: dict[str, Any], error: type[StudyError], said: str) -> None:
    with pytest.raises(error, match=said):
        MRIntensityd("image")(image)


@pytest.mark.parametrize(("lower", "upper"), [(-1, 99), (50, 50), (1, 101)])
def test_impossible_percentiles_are_refused(lower: float, upper: float) -> None:
    with pytest.raises(ValueError, match="0 <= lower < upper <= 100"):
        MRIntensityd("image", lower, upper)
