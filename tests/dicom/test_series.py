"""A DICOM series becomes a volume: its order, its geometry and its values."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from monai_rd import errors as dicom
from monai_rd.dicom import is_dicom, load_series
from tests.dicom_files import AXIAL, COLUMNS, CORONAL, ROWS, SAGITTAL, make_series, oblique


@pytest.mark.parametrize(
    ("name", "orientation"),
    [("axial", AXIAL), ("coronal", CORONAL), ("sagittal", SAGITTAL), ("oblique", oblique())],
)
def test_geometry_and_hu_by_hand(tmp_path: Path, name: str, orientation: tuple[float, ...]) -> None:
    origin = (-31.5, 12.25, 40.0)
    uid, stored = make_series(tmp_path, orientation=orientation, origin=origin)
    volume = load_series(tmp_path)

    assert volume.array.shape == (1, COLUMNS, ROWS, 6)
    assert volume.array[0].dtype == np.float32
    assert volume.affine.dtype == np.float64
    assert (volume.series_uid, volume.modality, volume.intensity) == (uid, "CT", "HU")
    np.testing.assert_allclose(volume.spacing, (0.6, 0.8, 2.5), atol=1e-6)
    np.testing.assert_allclose(volume.array[0], (stored * 2.0 - 1024.0).transpose(2, 1, 0), atol=0)
    # DICOM PS3.3 C.7.6.2.1.1: P = S + X * dx * column index + Y * dy * row index, in LPS mm.
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    for x, y, z in [(0, 0, 0), (COLUMNS - 1, 0, 0), (0, ROWS - 1, 0), (3, 7, 5), (13, 9, 2)]:
        lps = np.array(origin) + row * 0.6 * x + column * 0.8 * y + np.cross(row, column) * 2.5 * z
        ras = (volume.affine @ [x, y, z, 1.0])[:3]
        np.testing.assert_allclose(ras, lps * [-1, -1, 1], atol=1e-5)


def test_axial_runs_from_inferior_to_superior(tmp_path: Path) -> None:
    make_series(tmp_path)
    affine = load_series(tmp_path).affine
    np.testing.assert_allclose(affine[:3, :3], np.diag([-0.6, -0.8, 2.5]), atol=1e-9)


def test_order_of_files_does_not_matter(tmp_path: Path) -> None:
    make_series(tmp_path, orientation=oblique())
    files = sorted(tmp_path.iterdir())
    expected = load_series(files)
    for seed in range(3):
        random.Random(seed).shuffle(files)
        volume = load_series([str(f) for f in files])
        np.testing.assert_array_equal(volume.array[0], expected.array[0])
        np.testing.assert_array_equal(volume.affine, expected.affine)


def test_array_is_writable_and_goes_to_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    make_series(tmp_path / "many")
    make_series(tmp_path / "one", slices=1)
    for folder in ("many", "one"):
        array = load_series(tmp_path / folder).array
        assert array.flags.writeable
        assert tuple(torch.from_numpy(array).shape) == array.shape


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL, oblique()])
def test_agrees_with_simpleitk(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    sitk = pytest.importorskip("SimpleITK")
    make_series(tmp_path, orientation=orientation)
    volume = load_series(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    np.testing.assert_allclose(volume.array[0], sitk.GetArrayFromImage(image).transpose(2, 1, 0), atol=1e-3)
    np.testing.assert_allclose(volume.spacing, image.GetSpacing(), atol=1e-5)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    np.testing.assert_allclose(lps[:3, 3], image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(lps[:3, :3] / volume.spacing, np.reshape(image.GetDirection(), (3, 3)), atol=1e-5)


@pytest.mark.parametrize("orientation", [AXIAL, oblique()])
def test_agrees_with_monai_on_an_ordinary_series(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    transforms = pytest.importorskip("monai.transforms")

    def number(k: int, ds: Dataset) -> None:
        ds.InstanceNumber = k + 1  # MONAI sorts by it

    make_series(tmp_path, orientation=orientation, change=number)
    volume = load_series(tmp_path)
    image = transforms.LoadImage(reader="PydicomReader", image_only=True)(str(tmp_path))
    np.testing.assert_allclose(volume.array[0], image.numpy(), atol=1e-3)
    np.testing.assert_allclose(volume.affine, image.affine.numpy(), atol=1e-4)


def test_single_slice(tmp_path: Path) -> None:
    _, stored = make_series(tmp_path / "thick", slices=1, orientation=oblique())
    file = next((tmp_path / "thick").iterdir())
    volume = load_series(file)
    assert volume.array[0].shape == (COLUMNS, ROWS, 1)
    np.testing.assert_allclose(volume.spacing, (0.6, 0.8, 3.0), atol=1e-6)
    np.testing.assert_array_equal(volume.array[0][..., 0], (stored[0] * 2.0 - 1024.0).T)
    np.testing.assert_allclose(volume.affine[:3, 3], (31.5, -12.25, 40.0), atol=1e-6)
    assert np.linalg.det(volume.affine[:3, :3]) > 0
    np.testing.assert_array_equal(load_series(tmp_path / "thick").array, volume.array)

    def thin(k: int, ds: Dataset) -> None:
        del ds.SliceThickness

    make_series(tmp_path / "thin", slices=1, change=thin)
    assert load_series(tmp_path / "thin").spacing[2] == 1.0


def test_rescale_may_differ_between_slices(tmp_path: Path) -> None:
    def own_rescale(k: int, ds: Dataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = 1 + k, -10 * k

    _, stored = make_series(tmp_path, modality="PT", change=own_rescale)
    volume = load_series(tmp_path)
    k = np.arange(6)[:, None, None]
    np.testing.assert_allclose(volume.array[0], (stored * (1.0 + k) - 10 * k).transpose(2, 1, 0))
    assert volume.intensity == "arbitrary"


def test_mr_without_rescale_keeps_stored_values(tmp_path: Path) -> None:
    _, stored = make_series(tmp_path, modality="MR", rescale=None)
    volume = load_series(tmp_path, window=False)
    np.testing.assert_array_equal(volume.array[0], stored.transpose(2, 1, 0))
    assert volume.intensity == "arbitrary"


def test_presentation_does_not_change_hu(tmp_path: Path) -> None:
    def inverted(k: int, ds: Dataset) -> None:
        ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "INVERSE"

    _, stored = make_series(tmp_path, change=inverted)
    np.testing.assert_array_equal(load_series(tmp_path).array[0], (stored * 2.0 - 1024.0).transpose(2, 1, 0))


def test_small_differences_of_rounding_are_accepted(tmp_path: Path) -> None:
    def jitter(k: int, ds: Dataset) -> None:
        ds.ImageOrientationPatient = [1, f"{k * 1e-6:.8f}", 0, 0, 1, 0]
        ds.PixelSpacing = [f"{0.8 + k * 1e-6:.8f}", "0.6"]
        ds.ImagePositionPatient = [-31.5, 12.25, f"{40 + 1.25 * k:.1f}"]  # 1.2 mm and 1.3 mm in turn

    make_series(tmp_path, change=jitter)
    assert load_series(tmp_path).spacing[2] == pytest.approx(1.25, abs=0.03)


def test_images_without_frame_of_reference(tmp_path: Path) -> None:
    def drop(k: int, ds: Dataset) -> None:
        del ds.FrameOfReferenceUID

    make_series(tmp_path, change=drop)
    assert load_series(tmp_path).array.shape[3] == 6


def test_file_without_preamble(tmp_path: Path) -> None:
    _, stored = make_series(tmp_path, slices=1)
    file = next(tmp_path.iterdir())
    ds = pydicom.dcmread(file)
    bare = Dataset({e.tag: e for e in ds})
    bare.save_as(file, implicit_vr=True, little_endian=True)
    assert file.read_bytes()[128:132] != b"DICM"
    assert is_dicom(file)
    np.testing.assert_array_equal(load_series(file).array[0, ..., 0], (stored[0] * 2.0 - 1024.0).T)


def test_load_series_takes_only_the_files_directly_in_a_folder(tmp_path: Path) -> None:
    uid, _ = make_series(tmp_path / "a")
    make_series(tmp_path / "a" / "below", seed=1)
    (tmp_path / "a" / "notes.txt").write_text("junk")
    assert load_series(tmp_path / "a").series_uid == uid
    with pytest.raises(dicom.NoDicomError, match="index_dicom"):
        load_series(tmp_path)


def test_ct_small_of_pydicom() -> None:
    file = get_testdata_file("CT_small.dcm")
    ds = pydicom.dcmread(file)
    volume = load_series(file)
    assert volume.array[0].shape == (128, 128, 1)
    np.testing.assert_array_equal(volume.array[0][..., 0], ds.pixel_array.T.astype(np.float32) - 1024)
    np.testing.assert_allclose(volume.spacing, (0.661468, 0.661468, 5.0))
