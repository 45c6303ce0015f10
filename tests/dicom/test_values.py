"""What readers make of DICOM in silence, row by row: the right values or the right refusal, with itk and without.

Every case goes through the transform that the bundles use.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from monai.data import MetaTensor
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_voi_lut
from pydicom.sequence import Sequence

from monai_rd.dicom import index_dicom, load_series
from monai_rd.errors import DicomSeriesError
from monai_rd.transforms import LoadImageOrSeriesd
from tests.dicom_files import AXIAL, COLUMNS, NAME, PATIENT_ID, ROWS, SAGITTAL, enhanced, make_series, oblique

SMALL = Path(get_testdata_file("CT_small.dcm")).parent


@pytest.fixture(autouse=True, params=["itk present", "itk absent"])
def itk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI takes another reader when itk can be imported."""
    if request.param == "itk absent":
        monkeypatch.setitem(sys.modules, "itk", None)
        with pytest.raises(ImportError):
            __import__("itk")
    else:
        pytest.importorskip("itk", reason="itk is not installed: pip install itk-io")


def load(source: Any, **options: Any) -> MetaTensor:
    return LoadImageOrSeriesd("image", **options)({"image": source})["image"]


def code_of(source: Any, **options: Any) -> str:
    with pytest.raises(DicomSeriesError) as caught:
        load(source, **options)
    return caught.value.code


# ------------------------------------------------------------------------------------------------------- volumes


def numbered(kind: str) -> Callable[[int, Dataset], None]:
    def change(k: int, ds: Dataset) -> None:
        if kind == "absent":
            del ds.InstanceNumber
        else:
            ds.InstanceNumber = 1 if kind == "constant" else 100 - k

    return change


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, oblique()])
@pytest.mark.parametrize("kind", ["constant", "absent", "reversed"])
def test_order_is_geometric(tmp_path: Path, orientation: tuple[float, ...], kind: str) -> None:
    _, stored = make_series(tmp_path, orientation=orientation, change=numbered(kind))
    np.testing.assert_array_equal(load(tmp_path)[0], stored.transpose(2, 1, 0) * 2.0 - 1024.0)


def test_two_series_in_one_folder(tmp_path: Path) -> None:
    make_series(tmp_path)
    make_series(tmp_path / "b", slices=5, seed=1)
    for number, file in enumerate((tmp_path / "b").iterdir()):
        shutil.move(file, tmp_path / f"other{number}.dcm")
    assert code_of(tmp_path) == "MIXED_SERIES"
    assert sorted(one.slices for one in index_dicom(tmp_path)) == [5, 6]


def test_missing_slices(tmp_path: Path) -> None:
    make_series(tmp_path, slices=9, skip=(4,))
    assert code_of(tmp_path) == "MISSING_SLICES"


def test_junk_beside_the_slices(tmp_path: Path) -> None:
    _, stored = make_series(tmp_path)
    (tmp_path / "Thumbs.db").write_bytes(bytes(500))
    np.testing.assert_array_equal(load(tmp_path)[0], stored.transpose(2, 1, 0) * 2.0 - 1024.0)


def test_nested_folders(tmp_path: Path) -> None:
    uid, stored = make_series(tmp_path / "study" / "series")
    assert code_of(tmp_path) == "NO_DICOM"
    (one,) = index_dicom(tmp_path)
    assert one.series_uid == uid
    np.testing.assert_array_equal(load(list(map(str, one.files)))[0], stored.transpose(2, 1, 0) * 2.0 - 1024.0)


def test_a_dicomdir_is_an_index() -> None:
    series = index_dicom(SMALL / "dicomdirtests" / "DICOMDIR")
    assert len(series) == 13
    assert sum(len(one.files) for one in series) == 31


@pytest.mark.parametrize("orientation", [AXIAL, oblique()])
def test_enhanced_multi_frame_ct_is_in_hounsfield_units(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    def own_rescale(k: int, ds: Dataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = 1 + k, -1024 - k

    _, stored = make_series(tmp_path / "plain", orientation=orientation, change=own_rescale)
    enhanced(tmp_path / "plain", tmp_path / "enhanced.dcm")
    volume = load(tmp_path / "enhanced.dcm")
    k = np.arange(6)[:, None, None]
    np.testing.assert_array_equal(volume[0], (stored * (1.0 + k) - 1024 - k).transpose(2, 1, 0))
    np.testing.assert_allclose(volume.affine, load(tmp_path / "plain").affine, atol=1e-6)
    assert volume.meta["intensity"] == "HU"


def test_enhanced_mr_is_windowed_by_its_frames(tmp_path: Path) -> None:
    def own_window(k: int, ds: Dataset) -> None:
        ds.WindowCenter, ds.WindowWidth = 1000, 1600 + 100 * k

    options = {"modality": "MR", "rescale": None, "change": own_window}
    _, stored = make_series(tmp_path / "plain", **options)
    enhanced(tmp_path / "plain", tmp_path / "enhanced.dcm")
    widest = ((stored - 1000) / 2100 + 0.5).clip(0, 1) * 255  # slices stay comparable
    for source in ("plain", "enhanced.dcm"):
        volume = load(tmp_path / source)
        assert volume.meta["intensity"] == "display"
        np.testing.assert_allclose(volume[0], widest.transpose(2, 1, 0), atol=1e-3)
        raw = load(tmp_path / source, window=False)
        assert raw.meta["intensity"] == "arbitrary"
        np.testing.assert_array_equal(raw[0], stored.transpose(2, 1, 0))


def test_mr_without_a_window_in_every_slice_stays_as_it_is(tmp_path: Path) -> None:
    def some(k: int, ds: Dataset) -> None:
        if k == 2:
            del ds.WindowWidth

    _, stored = make_series(tmp_path, modality="MR", rescale=None, change=some)
    volume = load(tmp_path)
    assert volume.meta["intensity"] == "arbitrary"
    np.testing.assert_array_equal(volume[0], stored.transpose(2, 1, 0))


@pytest.mark.parametrize("window", [True, False])
def test_monochrome1_mr_is_inverted_once(tmp_path: Path, window: bool) -> None:
    def inverse(k: int, ds: Dataset) -> None:
        ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "INVERSE"
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = 1000, 2000, "LINEAR_EXACT"

    _, stored = make_series(tmp_path, modality="MR", rescale=None, change=inverse)
    volume = load(tmp_path, window=window)[0].numpy()
    expected = 255 - stored / 2000 * 255 if window else stored.min() + stored.max() - stored
    np.testing.assert_allclose(volume, expected.transpose(2, 1, 0), atol=1e-3)


def test_padding_of_a_ct_is_air(tmp_path: Path) -> None:
    def padded(k: int, ds: Dataset) -> None:
        pixels = np.frombuffer(ds.PixelData, np.int16).reshape(ROWS, COLUMNS).copy()
        pixels[0, :3] = -2000
        ds.PixelData, ds.PixelPaddingValue = pixels.tobytes(), -2000

    _, stored = make_series(tmp_path, change=padded)
    expected = stored * 2.0 - 1024.0
    expected[:, 0, :3] = -1024
    np.testing.assert_array_equal(load(tmp_path)[0], expected.transpose(2, 1, 0))


def test_padding_range_of_an_mr_takes_the_lowest_value(tmp_path: Path) -> None:
    def padded(k: int, ds: Dataset) -> None:
        pixels = np.frombuffer(ds.PixelData, np.int16).reshape(ROWS, COLUMNS) + 50
        pixels[0, :3] = [-7, -6, -5]
        ds.PixelData, ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = pixels.astype(np.int16).tobytes(), -5, -7

    _, stored = make_series(tmp_path, slices=1, modality="MR", rescale=None, change=padded)
    expected = stored[0] + 50
    rest = np.delete(expected.ravel(), [0, 1, 2])
    expected[0, :3] = rest.min()
    np.testing.assert_array_equal(load(tmp_path, window=False)[0, ..., 0], expected.T)


def lookup(first: int, values: np.ndarray, bits: int) -> Dataset:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [len(values), first, bits], values.astype("<u2").tobytes()
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    return table


def test_modality_lut_of_a_ct(tmp_path: Path) -> None:
    values = np.arange(2000)[::-1] + 7

    def table(k: int, ds: Dataset) -> None:
        del ds.RescaleSlope, ds.RescaleIntercept
        ds.ModalityLUTSequence = Sequence([lookup(0, values, 16)])
        ds.ModalityLUTSequence[0].ModalityLUTType = "HU"

    _, stored = make_series(tmp_path, change=table)
    np.testing.assert_array_equal(load(tmp_path)[0], values[stored].transpose(2, 1, 0))


def test_big_endian_becomes_native() -> None:
    volume = load(SMALL / "MR_small_bigendian.dcm", window=False)
    assert volume.numpy().dtype == np.dtype("float32")
    np.testing.assert_array_equal(volume, load(SMALL / "MR_small.dcm", window=False))


def test_metadata_holds_no_patient(tmp_path: Path) -> None:
    def named(k: int, ds: Dataset) -> None:
        ds.SeriesDescription = f"thorax {NAME} born 19700101"

    make_series(tmp_path, change=named)
    said = str(load(tmp_path).meta) + str(index_dicom(tmp_path)[0].row())
    said = re.sub(r"\d+(\.\d+){5,}", "UID", said)  # in whose random digits anything may stand
    for secret in (*NAME.split("^"), PATIENT_ID, "SECRET", "4711", "19700101"):
        assert secret.lower() not in said.lower()
    assert "thorax" in said


# ------------------------------------------------------------------------------------------------------ pictures


def pictured(file: Path) -> np.ndarray:
    """The picture as [rows, columns] or [rows, columns, 3], after the loader's transposition is undone."""
    image = load(file).numpy()
    return image[0].T if image.shape[0] == 1 else image.transpose(2, 1, 0)


def radiograph(path: Path, modality: str = "CR", **change: Any) -> np.ndarray:
    """A radiograph without a position, 12 bits; returns its stored values."""

    def as_radiograph(k: int, ds: Dataset) -> None:
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.WindowCenter, ds.WindowWidth
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
        for keyword, value in change.items():
            setattr(ds, keyword, value)

    _, stored = make_series(path, slices=1, modality=modality, rescale=None, change=as_radiograph)
    return stored[0]


@pytest.mark.parametrize("modality", ["CR", "DX", "MG"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_of_a_radiograph(tmp_path: Path, modality: str, photometric: str, function: str) -> None:
    change = {"WindowCenter": [1000, 40], "WindowWidth": [1500, 400], "VOILUTFunction": function}
    stored = radiograph(tmp_path, modality, PhotometricInterpretation=photometric, **change)
    image = pictured(tmp_path)
    header = pydicom.dcmread(next(tmp_path.iterdir()))
    expected = apply_voi_lut(stored.astype(np.uint16), header) / 4095 * 255  # pydicom's, which gives the stored range
    np.testing.assert_allclose(image, 255 - expected if photometric == "MONOCHROME1" else expected, atol=1e-2)
    assert load(tmp_path).meta["intensity"] == "display"


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_voi_lut_of_a_radiograph(tmp_path: Path, bits: int) -> None:
    values = np.linspace(0, (1 << bits) - 1, 2000).round()
    stored = radiograph(tmp_path, VOILUTSequence=Sequence([lookup(0, values, bits)]))
    np.testing.assert_allclose(pictured(tmp_path), values[stored] / ((1 << bits) - 1) * 255, atol=1e-3)


@pytest.mark.parametrize("padding", [None, 1999])
def test_a_radiograph_without_window_spans_its_values(tmp_path: Path, padding: int | None) -> None:
    change = {} if padding is None else {"PixelPaddingValue": padding}
    stored = radiograph(tmp_path, PhotometricInterpretation="MONOCHROME1", **change).astype(float)
    outside = stored == padding
    low, high = stored[~outside].min(), stored[~outside].max()
    expected = np.where(outside, 0, 255 - (stored - low) / (high - low) * 255)
    np.testing.assert_allclose(pictured(tmp_path), expected, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_jpeg_lossy_gdcm.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_rle_16bit.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_small_odd.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_jpeg_no_color_transform.dcm",
        "examples_rgb_color.dcm",
        "examples_jpeg2k.dcm",
    ],
)
def test_colours_are_rgb(name: str) -> None:
    found = SMALL / name
    # pydicom alone decodes no lossless JPEG: the same image is there in RLE.
    ds = pydicom.dcmread(SMALL / "SC_rgb_rle.dcm" if name == "SC_rgb_jpeg_gdcm.dcm" else found)
    expected = ds.pixel_array * (255 / ((1 << ds.BitsStored) - 1))
    np.testing.assert_allclose(pictured(found), expected, atol=1e-3)


def test_colours_of_more_than_16_bits_are_refused() -> None:
    assert code_of(SMALL / "SC_rgb_rle_32bit.dcm") == "UNSUPPORTED_IMAGE"


def test_palette_colours() -> None:
    file = SMALL / "examples_palette.dcm"
    ds = pydicom.dcmread(file)
    expected = apply_color_lut(ds.pixel_array, ds)
    np.testing.assert_allclose(pictured(file), expected * (255 / ((1 << 8 * expected.itemsize) - 1)), atol=1e-3)


def test_multi_frame_ultrasound() -> None:
    file = SMALL / "examples_ybr_color.dcm"
    image = load(file)
    assert image.shape == (3, 320, 240, 30)
    assert image.meta["modality"] == "US"
    np.testing.assert_array_equal(image.numpy().transpose(3, 2, 1, 0), pydicom.dcmread(file).pixel_array)


def test_pictures_of_one_series_are_read_one_at_a_time(tmp_path: Path) -> None:
    radiograph(tmp_path)
    again = pydicom.dcmread(next(tmp_path.iterdir()))
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    again.save_as(tmp_path / "lateral.dcm")
    assert code_of(tmp_path) == "UNSUPPORTED_IMAGE"
    (one,) = index_dicom(tmp_path)
    assert (one.pictures, one.slices, one.problems) == (True, 2, ())
    for file in one.files:
        assert load(file).shape == (1, COLUMNS, ROWS)


def test_a_screen_capture_is_no_ct(tmp_path: Path) -> None:
    def capture(k: int, ds: Dataset) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.PixelData = bytes(ROWS * COLUMNS * 3)

    make_series(tmp_path, slices=1, change=capture)
    assert code_of(tmp_path) == "UNSUPPORTED_IMAGE"


def test_localizers_are_refused_and_can_be_read(tmp_path: Path) -> None:
    def scout(k: int, ds: Dataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    make_series(tmp_path, slices=1, change=scout)
    assert code_of(tmp_path) == "LOCALIZER"
    assert load(tmp_path, policy={"LOCALIZER": "warn"}).shape == (1, COLUMNS, ROWS, 1)


def test_spacing_of_a_picture(tmp_path: Path) -> None:
    radiograph(tmp_path, PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.1])
    assert load_series(tmp_path).spacing == (0.1, 0.2, 1.0)
