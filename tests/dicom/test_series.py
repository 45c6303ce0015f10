from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian

from monai_rd import errors as dicom
from monai_rd.dicom import index_dicom, is_dicom, load_series
from monai_rd.errors import DicomSeriesError
from tests.dicom_files import (
    AXIAL,
    COLUMNS,
    CORONAL,
    PATIENT_ID,
    ROWS,
    SAGITTAL,
    SHARED,
    enhanced,
    make_series,
    oblique,
)


def refusal(source: Any, kind: type[DicomSeriesError], code: str, uid: str | None) -> DicomSeriesError:
    """Check that a source is refused with this class, code and UID and without any word on the patient."""
    with pytest.raises(kind) as caught:
        load_series(source)
    error = caught.value
    assert type(error) is kind
    assert error.code == code
    assert error.series_uid == uid
    text = str(error)
    assert uid is None or uid in text
    for secret in ("Secretname", "Anna", PATIENT_ID, "SECRET", "/", ".dcm"):
        assert secret not in text.replace("dcmdjpeg", "").replace("MONOCHROME1/2", "").replace(" / ", "")
    # A traceback prints causes as well.
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return error


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


# ---------------------------------------------------------------------------------------------------- refusals


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


def without(*keywords: str) -> Callable[[int, Dataset], None]:
    def change(k: int, ds: Dataset) -> None:
        for keyword in keywords:
            delattr(ds, keyword)

    return change


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


def test_truncated_pixels(tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture) -> None:
    uid, _ = make_series(tmp_path)
    file = sorted(tmp_path.iterdir())[2]
    file.write_bytes(file.read_bytes()[:-40])
    text = str(refusal(tmp_path, dicom.TruncatedPixelsError, "TRUNCATED_PIXELS", uid))
    assert "Explicit VR Little Endian" in text
    assert "export the series again" in text
    said = caplog.text + "".join(str(w.message) for w in recwarn)
    assert PATIENT_ID not in said
    assert str(tmp_path) not in said


@pytest.mark.parametrize(
    ("syntax", "said"),
    [
        ("1.2.840.10008.1.2.4.100", "it holds video, not images"),
        ("1.2.826.0.1.3680043.10", "private syntax"),
        ("1.2.840.10008.1.2.4.94", "JPIP"),
    ],
)
def test_a_syntax_that_nothing_decodes(tmp_path: Path, syntax: str, said: str) -> None:
    def other(k: int, ds: Dataset) -> None:
        ds.PixelData = encapsulate([bytes(100)])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = known

    known = "1.2.840.10008.1.2.4.94" if len(syntax) == 22 else syntax  # pydicom writes no private syntax
    uid, _ = make_series(tmp_path, slices=2, change=other)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes().replace(known.encode(), syntax.encode()))
    text = str(refusal(tmp_path, dicom.UnsupportedSyntaxError, "UNSUPPORTED_SYNTAX", uid))
    assert said in text
    assert syntax in text
    assert "gdcmconv --raw" in text


def test_truncated_compressed_pixels_do_not_tell_the_path(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    uid, _ = make_series(tmp_path, slices=1)
    file = next(tmp_path.iterdir())
    ds = pydicom.dcmread(file)
    ds.compress(pydicom.uid.RLELossless)
    ds.save_as(file)
    file.write_bytes(file.read_bytes()[:-60])  # without its end mark the parser drops the element, with a warning
    text = str(refusal(file, dicom.TruncatedPixelsError, "TRUNCATED_PIXELS", uid))
    assert "RLE Lossless" in text
    said = caplog.text + "".join(str(w.message) for w in recwarn)
    assert PATIENT_ID not in said
    assert str(tmp_path) not in said


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
    assert len({kind.code for kind in kinds}) == len(kinds) == 31
    assert issubclass(DicomSeriesError, ValueError)


# ------------------------------------------------------------------------------------------------------- index


def test_index_of_a_mixed_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, _ = make_series(tmp_path / "study" / "a")
    gap, _ = make_series(tmp_path / "study" / "b" / "deep", skip=(2,), seed=1)
    localizer, _ = make_series(tmp_path / "loc", slices=1, orientation=CORONAL, shape=(4, 4), seed=9)
    shutil.move(next((tmp_path / "loc").iterdir()), tmp_path / "study" / "a" / "localizer.dcm")

    def other_patient(k: int, ds: Dataset) -> None:
        ds.PatientID = "OTHER"

    other, _ = make_series(tmp_path / "other", change=other_patient, modality="MR", rescale=None)
    (tmp_path / f"{PATIENT_ID}.txt").write_text("junk")
    (tmp_path / "empty").write_bytes(b"")
    shutil.copy(Path(get_testdata_file("test-SR.dcm")), tmp_path / "study" / "report.dcm")
    shutil.copy(Path(get_testdata_file("CT_small.dcm")).parent / "dicomdirtests" / "DICOMDIR", tmp_path / "directory")

    with caplog.at_level(logging.INFO, logger="monai_rd"):
        series = [s for s in index_dicom(tmp_path) if s.slices]  # without the report
    assert [s.series_uid for s in series] == sorted([good, gap, localizer, other])
    found = {s.series_uid: s for s in series}
    assert {uid: len(s.files) for uid, s in found.items()} == {good: 6, gap: 5, localizer: 1, other: 6}
    assert [found[uid].problem() for uid in (good, localizer, other)] == [None] * 3
    assert isinstance(found[gap].problem(), dicom.MissingSlicesError)
    assert found[other].modality == "MR"
    assert found[good].patient_key == found[gap].patient_key == found[localizer].patient_key
    assert found[good].patient_key != found[other].patient_key
    assert PATIENT_ID not in found[good].patient_key
    assert [r.getMessage() for r in caplog.records if r.name == "monai_rd.dicom.index"] == [
        "index_dicom: 3 file(s) not DICOM, 0 unreadable file(s) skipped"
    ]
    assert load_series(found[good].files).array.shape == (1, COLUMNS, ROWS, 6)
    with pytest.raises(dicom.MissingSlicesError) as caught:
        load_series(found[gap].files)
    assert str(caught.value) == str(found[gap].problem())


def test_load_series_takes_only_the_files_directly_in_a_folder(tmp_path: Path) -> None:
    uid, _ = make_series(tmp_path / "a")
    make_series(tmp_path / "a" / "below", seed=1)
    (tmp_path / "a" / "notes.txt").write_text("junk")
    assert load_series(tmp_path / "a").series_uid == uid
    with pytest.raises(dicom.NoDicomError, match="index_dicom"):
        load_series(tmp_path)


def test_patients_without_id_are_grouped_by_study(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_series(tmp_path / name, slices=1, change=without("PatientID"))
    first, second = index_dicom(tmp_path)
    assert first.patient_key != second.patient_key


def test_odd_patient_id_reaches_no_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    make_series(tmp_path, slices=1)
    file = next(tmp_path.iterdir())
    content = file.read_bytes()
    assert content.count(b"SECRET-4711") == 1
    file.write_bytes(content.replace(b"SECRET-4711", b"SECRET\\\x01\xff11"))
    recwarn.clear()
    (info,) = index_dicom(tmp_path)
    load_series(info.files)
    assert "SECRET" not in caplog.text + "".join(str(w.message) for w in recwarn)


def test_is_dicom(tmp_path: Path) -> None:
    make_series(tmp_path, slices=1)
    assert is_dicom(next(tmp_path.iterdir()))
    junk = tmp_path / "junk"
    for content in (
        b"",
        b"text",
        bytes(1000),
        b"\x08\x00" + bytes(range(256)) * 4,
        b"\x08\x00\x05\x00\xff\xff\xff\xff",
    ):
        junk.write_bytes(content)
        assert not is_dicom(junk)
    assert not is_dicom(tmp_path)
    assert not is_dicom(tmp_path / "missing")


# ---------------------------------------------------------------------------------------------- files of others


def test_ct_small_of_pydicom() -> None:
    file = get_testdata_file("CT_small.dcm")
    ds = pydicom.dcmread(file)
    volume = load_series(file)
    assert volume.array[0].shape == (128, 128, 1)
    np.testing.assert_array_equal(volume.array[0][..., 0], ds.pixel_array.T.astype(np.float32) - 1024)
    np.testing.assert_allclose(volume.spacing, (0.661468, 0.661468, 5.0))


def test_dicomdir_tests_of_pydicom() -> None:
    folder = Path(get_testdata_file("CT_small.dcm")).parent / "dicomdirtests"
    series = index_dicom(folder)
    codes = {s.series_uid.removeprefix("1.3.6.1.4.1.5962.1.1.0.0.0."): s.problem() and s.problem().code for s in series}
    assert codes["1194734704.16302.0.6"] is None  # CT5N
    assert codes["1194734704.16302.0.2"] == "LOCALIZER"  # two crossing ones
    assert codes["1196530851.28319.0.2"] == "MISSING_SLICES"  # two stacks 20 cm apart
    assert {s.problem() for s in series if s.modality == "CR"} == {None}
    for info in series:
        if info.problem() is None:
            assert load_series(info.files).series_uid == info.series_uid
        else:
            with pytest.raises(type(info.problem())):
                load_series(info.files)
    with pytest.raises(dicom.UnsupportedImageError, match="Media Storage Directory"):
        load_series(folder / "DICOMDIR")
    with pytest.raises(dicom.UnsupportedImageError, match="SR"):
        load_series(get_testdata_file("test-SR.dcm"))


@pytest.mark.parametrize("orientation", [AXIAL, oblique()])
def test_enhanced_ct_gives_the_same_volume(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    make_series(tmp_path / "plain", orientation=orientation)
    uid = enhanced(tmp_path / "plain", tmp_path / "enhanced.dcm")
    plain, volume = load_series(tmp_path / "plain"), load_series(tmp_path / "enhanced.dcm")
    assert (volume.series_uid, volume.modality, volume.intensity) == (uid, "CT", "HU")
    np.testing.assert_array_equal(volume.array[0], plain.array[0])
    np.testing.assert_allclose(volume.affine, plain.affine, atol=1e-6)
    found = {s.series_uid: s for s in index_dicom(tmp_path)}
    assert found[uid].problem() is None


def test_enhanced_ct_refusals(tmp_path: Path) -> None:
    make_series(tmp_path / "gap", slices=6, skip=(2,))
    uid = enhanced(tmp_path / "gap", tmp_path / "enhanced.dcm")
    refusal(tmp_path / "enhanced.dcm", dicom.MissingSlicesError, "MISSING_SLICES", uid)
    make_series(tmp_path / "plain")
    uid = enhanced(tmp_path / "plain", tmp_path / "short.dcm", PixelData=bytes(100))
    refusal(tmp_path / "short.dcm", dicom.TruncatedPixelsError, "TRUNCATED_PIXELS", uid)


def test_enhanced_ct_of_one_frame(tmp_path: Path) -> None:
    make_series(tmp_path / "plain", slices=1)
    enhanced(tmp_path / "plain", tmp_path / "enhanced.dcm")
    plain, volume = load_series(tmp_path / "plain"), load_series(tmp_path / "enhanced.dcm")
    np.testing.assert_array_equal(volume.array[0], plain.array[0])
    np.testing.assert_allclose(volume.affine, plain.affine, atol=1e-6)


# HU that a lossy codec may be off; JPEG process 1 keeps 8 bits.
LOSSY = {
    "1.2.840.10008.1.2.4.50": 65.0,
    "1.2.840.10008.1.2.4.51": 36.0,
    "1.2.840.10008.1.2.4.53": 36.0,
    "1.2.840.10008.1.2.4.55": 36.0,
    "1.2.840.10008.1.2.4.81": 1.0,
    "1.2.840.10008.1.2.4.91": 5.0,
}


def test_ct_in_14_transfer_syntaxes() -> None:
    folder = SHARED / "dicom" / "ct_14_transfer_syntaxes" / "testImages"
    if not folder.is_dir():
        pytest.skip("shared/data/dicom/ct_14_transfer_syntaxes is not beside this checkout")
    reference = load_series(folder / "CTImage.dcm")
    read = set()
    for file in sorted(folder.glob("CTImage.dcm_*.dcm")):
        syntax = file.name.removesuffix(".dcm").rsplit("_", 1)[1]
        volume = load_series(file)
        np.testing.assert_array_equal(volume.affine, reference.affine)
        off = np.abs(volume.array - reference.array).max()
        assert off <= LOSSY.get(syntax, 0.0), syntax
        assert (off > 0) == (syntax in LOSSY)
        read.add(syntax)
    assert len(read) == 15
    assert ImplicitVRLittleEndian in read


def test_mr_in_7_transfer_syntaxes() -> None:
    folder = SHARED / "dicom" / "mr_7_transfer_syntaxes" / "In"
    if not folder.is_dir():
        pytest.skip("shared/data/dicom/mr_7_transfer_syntaxes is not beside this checkout")
    volumes = [load_series(file, window=False) for file in sorted(folder.glob("*.dcm"))]
    assert len(volumes) == 9
    for volume in volumes:
        np.testing.assert_array_equal(volume.array, volumes[0].array)
        np.testing.assert_array_equal(volume.affine, volumes[0].affine)


ENCODERS = {
    "1.2.840.10008.1.2.4.57": lambda image: imagecodecs.jpeg8_encode(image, lossless=True, predictor=4),
    "1.2.840.10008.1.2.4.70": lambda image: imagecodecs.jpeg8_encode(image, lossless=True, predictor=1),
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
    "1.2.840.10008.1.2.4.90": lambda image: imagecodecs.jpeg2k_encode(image, level=0, codecformat="j2k"),
    "1.2.840.10008.1.2.4.201": lambda image: imagecodecs.htj2k_encode(image, reversible=True),
    "1.2.840.10008.1.2.5": None,
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", ENCODERS)
def test_lossless_syntaxes_give_the_same_volume(tmp_path: Path, syntax: str, signed: bool) -> None:
    if syntax.endswith("201") and not getattr(imagecodecs, "HTJ2K", None):
        pytest.skip("this imagecodecs cannot write HTJ2K")

    def compress(k: int, ds: Dataset) -> None:
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = int(signed), 12, 11
        image = np.frombuffer(ds.PixelData, np.int16).reshape(ROWS, COLUMNS) - (1000 if signed else 0)
        ds.PixelData = image.astype(np.int16).tobytes()
        encode = ENCODERS[syntax]
        if encode is None:
            ds.compress(pydicom.uid.RLELossless)
            return
        ds.PixelData = encapsulate([bytes(encode((image & 0xFFF).astype(np.uint16)))])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = syntax

    _, stored = make_series(tmp_path, change=compress)
    expected = (stored - (1000 if signed else 0)) * 2.0 - 1024.0
    np.testing.assert_array_equal(load_series(tmp_path).array[0], expected.transpose(2, 1, 0))
