"""Series that are no volume are refused by a code and a class, without a word on the patient."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from monai_rd import errors as dicom
from monai_rd.dicom import index_dicom, load_series
from monai_rd.errors import DicomSeriesError
from tests.dicom.refusals import refusal, without
from tests.dicom_files import COLUMNS, CORONAL, ROWS, make_series


def test_missing_slice(tmp_path: Path) -> None:
    uid, _ = make_series(tmp_path, slices=8, skip=(3, 4))
    text = str(refusal(tmp_path, dicom.MissingSlicesError, "MISSING_SLICES", uid))
    assert "6 slices" in text
    assert "about 2 slice position(s) empty" in text
    assert "(-31.50, 12.25, 45.00) mm and (-31.50, 12.25, 52.50) mm" in text


def test_irregular_spacing(tmp_path: Path) -> None:
    def shift(k: int, ds: Dataset) -> None:
        if k == 3:
            ds.ImagePositionPatient = [-31.5, 12.25, 40 + 2.5 * k + 0.6]

    uid, _ = make_series(tmp_path, change=shift)
    assert "irregular" in str(refusal(tmp_path, dicom.IrregularSpacingError, "IRREGULAR_SPACING", uid))


def test_two_images_at_one_position(tmp_path: Path) -> None:
    def back(k: int, ds: Dataset) -> None:
        if k == 3:
            ds.ImagePositionPatient = [-31.5, 12.25, 40 + 2.5 * 2]

    uid, _ = make_series(tmp_path, change=back)
    text = str(refusal(tmp_path, dicom.DuplicateSlicesError, "DUPLICATE_SLICES", uid))
    assert "45.00) mm" in text


def test_one_file_twice(tmp_path: Path) -> None:
    uid, _ = make_series(tmp_path)
    file = sorted(tmp_path.iterdir())[0]
    shutil.copy(file, tmp_path / "again")
    text = str(refusal(tmp_path, dicom.DuplicateSlicesError, "DUPLICATE_SLICES", uid))
    assert "1 of 7 files" in text
    refusal([file, file], dicom.DuplicateSlicesError, "DUPLICATE_SLICES", uid)


def test_mixed_orientation(tmp_path: Path) -> None:
    def localizer(k: int, ds: Dataset) -> None:
        if k == 5:
            ds.ImageOrientationPatient = list(CORONAL)

    uid, _ = make_series(tmp_path, change=localizer)
    refusal(tmp_path, dicom.MixedOrientationError, "MIXED_ORIENTATION", uid)


def test_mixed_shape(tmp_path: Path) -> None:
    def small(k: int, ds: Dataset) -> None:
        if k == 5:
            ds.Rows, ds.PixelData = 5, ds.PixelData[: 5 * COLUMNS * 2]

    def zoomed(k: int, ds: Dataset) -> None:
        if k == 5:
            ds.PixelSpacing = [0.4, 0.6]

    for name, change in (("small", small), ("zoomed", zoomed)):
        uid, _ = make_series(tmp_path / name, change=change)
        refusal(tmp_path / name, dicom.MixedShapeError, "MIXED_SHAPE", uid)


def test_tilted_gantry(tmp_path: Path) -> None:
    def tilt(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = [-31.5, 12.25 + k * 0.7, 40 + 2.5 * k]

    uid, _ = make_series(tmp_path, change=tilt)
    assert "15.6 degrees" in str(refusal(tmp_path, dicom.TiltedStackError, "TILTED_STACK", uid))


def test_mixed_series(tmp_path: Path) -> None:
    first, _ = make_series(tmp_path / "a", slices=3)
    second, _ = make_series(tmp_path / "b", slices=4, seed=1)
    files = [*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()]
    text = str(refusal(files, dicom.MixedSeriesError, "MIXED_SERIES", None))
    assert f"{first} (3 images)" in text
    assert f"{second} (4 images)" in text


def test_mixed_frames_of_reference(tmp_path: Path) -> None:
    def moved(k: int, ds: Dataset) -> None:
        if k > 3:
            ds.FrameOfReferenceUID = "1.2.3"

    uid, _ = make_series(tmp_path, change=moved)
    refusal(tmp_path, dicom.MixedSeriesError, "MIXED_SERIES", uid)


def colour(k: int, ds: Dataset) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = bytes(ROWS * COLUMNS * 3)


def cine(k: int, ds: Dataset) -> None:
    ds.NumberOfFrames, ds.PixelData = 2, ds.PixelData * 2


def spaced(rows: str, columns: str) -> Callable[[int, Dataset], None]:
    return lambda k, ds: setattr(ds, "PixelSpacing", [rows, columns])


def skewed(k: int, ds: Dataset) -> None:
    ds.ImageOrientationPatient = [1, 0, 0, 0.5, 0.5, 0]


@pytest.mark.parametrize(
    ("change", "slices"),
    [
        (without("PixelData"), 2),
        (without("ImagePositionPatient"), 2),
        (without("ImageOrientationPatient"), 1),
        (without("PixelSpacing"), 2),
        *((spaced(*edges), 2) for edges in (("0", "1"), ("1", "-1"), ("1e9", "1e9"), ("1e-9", "1"))),
        (skewed, 2),
        (colour, 2),
        (cine, 1),
    ],
)
def test_unsupported_images(tmp_path: Path, change: Callable[[int, Dataset], None], slices: int) -> None:
    uid, _ = make_series(tmp_path, slices=slices, change=change)
    refusal(tmp_path, dicom.UnsupportedImageError, "UNSUPPORTED_IMAGE", uid)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_ct_without_hounsfield(tmp_path: Path, keyword: str) -> None:
    uid, _ = make_series(tmp_path, change=without(keyword))
    refusal(tmp_path, dicom.NoHounsfieldError, "NO_HOUNSFIELD", uid)


def test_ct_of_another_unit(tmp_path: Path) -> None:
    def effective_z(k: int, ds: Dataset) -> None:
        ds.RescaleType = "Z_EFF"

    uid, _ = make_series(tmp_path, change=effective_z)
    assert "Z_EFF" in str(refusal(tmp_path, dicom.NoHounsfieldError, "NO_HOUNSFIELD", uid))


def test_cut_off_in_the_header_is_not_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uid, _ = make_series(tmp_path)
    file = max(tmp_path.iterdir(), key=lambda f: pydicom.dcmread(f).ImagePositionPatient[2])
    content = file.read_bytes()
    rows = content.index(b"\x28\x00\x10\x00US")
    series = content.index(b"\x20\x00\x0e\x00UI")
    for end, known in ((rows, uid), (rows + 3, uid), (rows - 5, uid), (series - 3, None)):
        file.write_bytes(content[:end])
        refusal(tmp_path, dicom.TruncatedPixelsError, "TRUNCATED_PIXELS", known)
    assert [s.problem() for s in index_dicom(tmp_path)] == [None]  # whose file that is cannot be known
    assert "1 unreadable file(s)" in caplog.text


def test_nothing_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(dicom.NoDicomError, match="does not exist") as caught:
        load_series(missing)
    assert caught.value.code == "NO_DICOM"
    with pytest.raises(dicom.NoDicomError):
        index_dicom(missing)
    (tmp_path / "Secretname.txt").write_text("no image")
    for call in (load_series, index_dicom):
        with pytest.raises(dicom.NoDicomError) as caught:
            call(tmp_path)
        assert "Secretname" not in str(caught.value)
    with pytest.raises(dicom.NoDicomError, match="empty"):
        load_series([])
    with pytest.raises(dicom.NoDicomError, match="1 of 1 given files"):
        load_series([tmp_path / "Secretname.txt"])


def test_file_of_the_list_that_cannot_be_opened(tmp_path: Path) -> None:
    make_series(tmp_path)
    refusal([*tmp_path.iterdir(), tmp_path / "gone"], dicom.UnreadableFileError, "UNREADABLE_FILE", None)


def test_codes_are_distinct() -> None:
    kinds = [getattr(dicom, name) for name in dicom.__all__ if name.endswith("Error")]
    assert len({kind.code for kind in kinds}) == len(kinds) == 36
    assert issubclass(DicomSeriesError, ValueError)
