"""One entry for DICOM, NIfTI, PNG and JPEG; one orientation whatever the file's."""

from __future__ import annotations

import itertools
import traceback
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from monai_rd.errors import DicomSeriesError, UnreadableFileError, UnreadableImageError
from monai_rd.phantoms import phantom_cohort
from monai_rd.phantoms.ct import PIXEL_MM, SLICE_MM, SLICES, draw_study
from monai_rd.transforms import HounsfieldWindowsd, LoadDicomSeriesd, LoadImageOrSeriesd, SliceStackd

PATIENT = "Secretname_Anna"


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """HU [slices, rows, columns]: upwards, backwards, to the patient's left. No symmetry hides a wrong flip."""
    return draw_study(np.random.default_rng([0, 1]), "opacity").image


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study as DICOM."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 2})
        return Path(phantom_cohort(tmp_path_factory.mktemp("cohort"))) / "study_0001"


def stack_of(source: object, slices: int = SLICES) -> torch.Tensor:
    item = SliceStackd("image", slices)(LoadImageOrSeriesd("image")({"image": source}))
    return item["image"].as_tensor()


def test_dicom_ends_in_the_one_orientation(series: Path, drawn: np.ndarray) -> None:
    expected = torch.from_numpy(drawn.astype(np.float32))
    assert torch.equal(stack_of(series), expected)
    assert torch.equal(stack_of(str(series)), expected)
    assert torch.equal(stack_of([str(file) for file in series.iterdir()]), expected)


def as_nifti(drawn: np.ndarray, order: tuple[int, ...], flips: tuple[bool, ...], path: Path) -> Path:
    """The study stored with its axes in `order` and those of `flips` reversed, the affine (RAS+) telling so."""
    array = drawn.transpose(2, 1, 0)  # to the left, to the back, upwards
    affine = np.diag([-PIXEL_MM, -PIXEL_MM, SLICE_MM, 1.0])
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
    affine = affine[:, [*order, 3]]
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array.transpose(order)), affine), path)
    return path


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", itertools.product([False, True], repeat=3))
def test_nifti_of_any_storage_is_the_same_study(
    order: tuple[int, ...], flips: tuple[bool, ...], drawn: np.ndarray, tmp_path: Path
) -> None:
    path = as_nifti(drawn, order, flips, tmp_path / f"{PATIENT}.nii.gz")
    torch.testing.assert_close(stack_of(path), torch.from_numpy(drawn.astype(np.float32)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_printed_slice_stands_as_the_study_does(suffix: str, series: Path, drawn: np.ndarray, tmp_path: Path) -> None:
    """A figure shows the patient's right on the left and the front at the top, in the lung window."""
    window = HounsfieldWindowsd("image")
    shown = window(SliceStackd("image", SLICES)(LoadImageOrSeriesd("image")({"image": series})))["image"].as_tensor()
    grey = np.clip((drawn[6] + 600) / 1500 + 0.5, 0, 1) * 255
    path = tmp_path / f"{PATIENT}{suffix}"
    Image.fromarray(grey.round().astype(np.uint8)).save(path)
    figure = window(SliceStackd("image", 4)(LoadImageOrSeriesd("image")({"image": path})))["image"].as_tensor()
    assert figure.shape == (1, 96, 96)
    torch.testing.assert_close(figure[0], shown[6], atol=0.5 / 255 + 1e-6, rtol=0)


def test_jpeg_and_colour_are_nearly_the_same(drawn: np.ndarray, tmp_path: Path) -> None:
    grey = (np.clip((drawn[6] + 600) / 1500 + 0.5, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "figure.jpeg", quality=95)
    found = stack_of(tmp_path / "figure.jpeg")[0]
    assert (found - torch.from_numpy(grey.astype(np.float32))).abs().mean() < 3


def test_metadata_says_what_the_values_are_and_nothing_of_the_file(
    series: Path, drawn: np.ndarray, tmp_path: Path
) -> None:
    nifti = as_nifti(drawn, (0, 1, 2), (False,) * 3, tmp_path / f"{PATIENT}.nii")
    png = tmp_path / f"{PATIENT}.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(png)
    for source, intensity in ((series, "HU"), (nifti, "unstated"), (png, "display")):
        image = LoadImageOrSeriesd("image")({"image": source})["image"]
        assert image.meta["intensity"] == intensity
        assert PATIENT not in str(image.meta)
        assert "PHANTOM" not in str(image.meta)
        assert str(tmp_path) not in str(image.meta)
        assert image.dtype == torch.float32


def test_the_dicom_transform_alone_keeps_other_keys(series: Path) -> None:
    item = LoadDicomSeriesd("image")({"image": series, "label": 1})
    assert item["label"] == 1
    assert item["image"].shape == (1, 96, 96, SLICES)
    spacing = item["image"].affine[:3, :3].norm(dim=0)
    torch.testing.assert_close(spacing, torch.tensor([PIXEL_MM, PIXEL_MM, SLICE_MM], dtype=spacing.dtype))


def write(name: str, folder: Path) -> Path:
    path = folder / f"{PATIENT}{name}"
    if name == "16.png":
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    elif name == "4d.nii":
        nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4)), path)
    elif name in ("notes.txt", "junk.png", "junk.nii.gz"):
        path.write_text("junk")
    return path


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("junk.png", UnreadableImageError, r"a .png file \(sha256 [0-9a-f]{12}...\) is damaged"),
        ("junk.nii.gz", UnreadableImageError, "a .nii.gz file .* is damaged"),
        ("16.png", UnreadableImageError, "images must be 8-bit"),
        ("4d.nii", UnreadableImageError, "a 3D volume of one channel is needed"),
        ("notes.txt", UnreadableImageError, "is no image this project reads: DICOM, a volume"),
        ("absent.png", UnreadableFileError, "No such file or directory"),
    ],
)
def test_what_cannot_be_read_is_said_without_the_files_name(
    name: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said) as caught:
        LoadImageOrSeriesd("image")({"image": write(name, tmp_path)})
    assert PATIENT not in "".join(traceback.format_exception(caught.value))


def test_a_series_with_a_gap_is_refused_by_code(series: Path, tmp_path: Path) -> None:
    files = sorted(series.iterdir(), key=lambda path: path.name)
    kept = [str(file) for file in files if file.name not in ("IM0003.dcm", "IM0007.dcm")]
    with pytest.raises(DicomSeriesError) as caught:
        LoadImageOrSeriesd("image")({"image": kept})
    assert caught.value.code == "MISSING_SLICES"
    assert "PHANTOM" not in str(caught.value)
