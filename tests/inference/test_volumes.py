"""A 3D student's probabilities do not depend on how a volume is stored, nor much on the spacing it was scanned at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydicom.dataset import Dataset

from monai_rd.export.manifest import manifest
from monai_rd.inference import Predictor, TrainedBundle
from tests.dicom_files import enhanced, make_series
from tests.trained import VOLUMES, trained_bundle


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(
        TrainedBundle(trained_bundle(tmp_path_factory.mktemp("trained"), class_names=["no", "yes"], **VOLUMES))
    )


def body(mm: tuple[float, float, float], count: tuple[int, int, int]) -> npt.NDArray[np.int16]:
    """A smooth body in HU, `[Z, Y, X]`: 100 x 80 mm across, with structure."""
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5) * step for n, step in zip(count, mm, strict=True)), indexing="ij")
    inside = 1 - ((x - 75) / 50) ** 2 - ((y - 70) / 40) ** 2
    hu = (500 * np.sin(x / 20) * np.cos(z / 25) + 1000) / (1 + np.exp(-15 * inside)) - 1000
    return np.round(hu).astype(np.int16)


def as_series(values: npt.NDArray[np.int16], mm: tuple[float, float, float], folder: Path) -> None:
    def pixels(k: int, ds: Dataset) -> None:
        ds.PixelData = (values[k] + 1024).tobytes()

    make_series(
        folder,
        slices=len(values),
        shape=values.shape[1:],  # type: ignore[arg-type]
        spacing=(mm[1], mm[2]),
        distance=mm[0],
        rescale=(1.0, -1024.0),
        change=pixels,
    )


def as_nifti(values: npt.NDArray[np.int16], mm: tuple[float, float, float], path: Path) -> None:
    affine = np.diag([-mm[2], -mm[1], mm[0], 1.0])  # as of the series: x to the left, y to the back
    nib.save(nib.Nifti1Image(values.transpose(2, 1, 0), affine), path)


def probability(predictor: Predictor, folder: Path) -> float:
    (found,) = predictor(folder)
    assert found.problem == "", found.message
    return found.probabilities["yes"]


def test_a_series_a_nifti_file_and_an_enhanced_object_are_one_volume(predictor: Predictor, tmp_path: Path) -> None:
    mm, count = (3.0, 2.0, 1.5), (50, 70, 100)
    for name in ("series", "nifti", "enhanced"):
        (tmp_path / name).mkdir()
    as_series(body(mm, count), mm, tmp_path / "series")
    as_nifti(body(mm, count), mm, tmp_path / "nifti" / "volume.nii.gz")
    enhanced(tmp_path / "series", tmp_path / "enhanced" / "all.dcm")
    found = [probability(predictor, tmp_path / name) for name in ("series", "nifti", "enhanced")]
    assert found == pytest.approx([found[0]] * 3, abs=1e-5)


def test_a_copy_at_another_spacing_has_the_same_probability(predictor: Predictor, tmp_path: Path) -> None:
    found = []
    for number, (mm, count) in enumerate(
        [((3.0, 2.0, 1.5), (50, 70, 100)), ((1.5, 1.0, 1.0), (100, 140, 150)), ((2.5, 1.4, 2.0), (60, 100, 75))]
    ):
        (tmp_path / str(number)).mkdir()
        as_nifti(body(mm, count), mm, tmp_path / str(number) / "volume.nii")
        found.append(probability(predictor, tmp_path / str(number)))
    assert found == pytest.approx([found[0]] * 3, abs=1e-3)
    other = tmp_path / "other"
    other.mkdir()
    as_nifti(np.flip(body((3.0, 2.0, 1.5), (50, 70, 100)), 2), (3.0, 2.0, 1.5), other / "volume.nii")
    assert abs(probability(predictor, other) - found[0]) > 1e-3  # the student does see the volume


def test_a_long_volume_is_the_mean_of_its_windows_and_thick_slices_are_flagged(
    predictor: Predictor, tmp_path: Path
) -> None:
    mm = (16.0, 2.0, 1.5)
    as_nifti(body(mm, (25, 70, 100)), mm, tmp_path / "volume.nii")  # 400 mm
    (found,) = predictor(tmp_path)
    assert found.flags == ("THICK_SLICES",)
    prepared = predictor.classifier.prepare({"image": str(tmp_path / "volume.nii"), "id": "1"})
    windows = prepared["image"].as_subclass(torch.Tensor)
    assert windows.shape == (4, 32, 32, 32)
    network: Any = predictor.classifier.network
    with torch.inference_mode():
        features = torch.stack([network.features(one[None, None])[0] for one in windows]).mean(dim=0)
        expected = float(network.logits(features).softmax(0)[1])
    assert found.probabilities["yes"] == pytest.approx(expected, abs=1e-5)
    several = predictor.classifier.infer([prepared, {**prepared, "image": prepared["image"][:1]}])
    assert float(several[0].study[1]) == pytest.approx(expected, abs=1e-5)  # whatever it is in a batch with


def test_the_manifest_tells_the_field_and_the_spacing(tmp_path: Path) -> None:
    described = manifest(TrainedBundle(trained_bundle(tmp_path, **VOLUMES)))
    assert described["input"]["shape"] == ["batch", "windows", 32, 32, 32]
    view = next(step for step in described["preprocessing"] if step["step"] == "VolumeViewd")
    assert (view["region"], view["empty"]) == ("body", -1024)
    assert (view["field_mm"], view["voxels"]) == ([160.0, 128.0, 128.0], [32, 32, 32])
    assert "SliceStackd" not in [step["step"] for step in described["preprocessing"]]
