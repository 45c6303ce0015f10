"""What is an image to be classified, what is none, and images of nuclear medicine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from monai_rd.datasets import find_studies
from monai_rd.dicom import index_dicom, load_series
from monai_rd.errors import DicomSeriesError
from tests.dicom_files import NAME, PATIENT_ID, make_series

ROOT = "1.2.840.10008.5.1.4.1.1."


def write(file: Path, sop_class: str, modality: str, frames: int = 1, **more: Any) -> tuple[str, np.ndarray]:
    """Write an object with pixels, whatever its class; returns its series UID and stored values."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = (generate_uid() for _ in range(3))
    ds.PatientName, ds.PatientID, ds.Modality, ds.Manufacturer = NAME, PATIENT_ID, modality, ""
    if sop_class:
        ds.SOPClassUID = sop_class
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 6, 8, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    stored = np.random.default_rng(0).permutation(frames * 48).astype(np.uint16).reshape(frames, 6, 8)
    ds.PixelData = stored.tobytes()
    if frames > 1:
        ds.NumberOfFrames = frames
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    ds.preamble = bytes(128)
    ds.save_as(file, enforce_file_format=bool(sop_class), implicit_vr=False, little_endian=True)
    return str(ds.SeriesInstanceUID), stored


NO_IMAGES = {
    "segmentation": (f"{ROOT}66.4", "SEG", {}, "Segmentation"),
    "segmentation of a new class": (f"{ROOT}66.7", "SEG", {}, "SEG object"),
    "surface": (f"{ROOT}66.5", "SEG", {}, "Surface Segmentation"),
    "dose": (f"{ROOT}481.2", "RTDOSE", {"DoseGridScaling": 0.001}, "RT Dose"),
    "portal image": (f"{ROOT}481.1", "RTIMAGE", {}, "RT Image"),
    "contours": (f"{ROOT}481.3", "RTSTRUCT", {}, "RT Structure Set"),
    "whole slide": (f"{ROOT}77.1.6", "SM", {"TotalPixelMatrixColumns": 100}, "VL Whole Slide Microscopy Image"),
    "spectroscopy": (f"{ROOT}4.2", "MR", {}, "MR Spectroscopy"),
    "raw data": (f"{ROOT}66", "MR", {}, "Raw Data"),
    "report": (f"{ROOT}88.33", "SR", {}, "Comprehensive SR"),
    "key objects": (f"{ROOT}88.59", "KO", {}, "Key Object Selection Document"),
    "presentation": (f"{ROOT}11.1", "PR", {}, "Grayscale Softcopy Presentation State"),
    "document": (f"{ROOT}104.1", "DOC", {}, "Encapsulated PDF"),
    "electrocardiogram": (f"{ROOT}9.1.1", "ECG", {}, "12-lead ECG Waveform"),
    "registration": (f"{ROOT}66.1", "REG", {}, "Spatial Registration"),
    "thickness map of the eye": (f"{ROOT}81.1", "OPM", {}, "Ophthalmic Thickness Map"),
    "print": ("1.2.840.10008.5.1.1.29", "HC", {}, "Hardcopy Grayscale Image"),
    "scanned document": (f"{ROOT}7", "DOC", {}, "DOC as an image"),
    "dose as a secondary capture": (f"{ROOT}7.3", "RTDOSE", {}, "RTDOSE as an image"),
    "segmentation of a private class": ("1.2.3.4", "SEG", {}, "SEG object"),
    "dose of a private class": ("1.2.3.4", "OT", {"DoseGridScaling": 0.001}, "object of an unknown class"),
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_image_has_a_code(tmp_path: Path, kind: str) -> None:
    sop_class, modality, more, name = NO_IMAGES[kind]
    uid, _ = write(tmp_path / "other.dcm", sop_class, modality, **more)
    good, _ = make_series(tmp_path / "ct")
    found = {one.series_uid: one for one in index_dicom(tmp_path)}
    assert found[good].problem() is None
    assert [problem.code for problem in found[uid].problems] == ["NOT_AN_IMAGE"]
    assert (found[uid].slices, found[uid].is_image, found[uid].row()["kind"]) == (0, False, "no image")
    with pytest.raises(DicomSeriesError, match=name) as caught:
        load_series(tmp_path / "other.dcm")
    assert (caught.value.code, caught.value.series_uid) == ("NOT_AN_IMAGE", uid)
    # It lies beside the images of every study: left out and told, also where everything else is an error.
    studies = find_studies(tmp_path)
    assert [item["series"] for item in studies.items] == [good]
    assert [(problem.code, problem.study_id) for problem in studies.problems] == [("NOT_AN_IMAGE", uid)]


IMAGES = {
    "secondary capture": (f"{ROOT}7", "OT"),
    "secondary capture of frames": (f"{ROOT}7.3", "OT"),
    "angiography": (f"{ROOT}12.1", "XA"),
    "fluoroscopy": (f"{ROOT}12.2", "RF"),
    "mammography for processing": (f"{ROOT}1.2.1", "MG"),
    "tomosynthesis": (f"{ROOT}13.1.3", "MG"),
    "ophthalmic tomography": (f"{ROOT}77.1.5.4", "OPT"),
    "ultrasound of a retired class": (f"{ROOT}3", "US"),
    "microscopy": (f"{ROOT}77.1.3", "SM"),
    "endoscopy": (f"{ROOT}77.1.1", "ES"),
    "photography of a trial class": (f"{ROOT}77.1", "XC"),
    "private class": ("1.3.46.670589.11.0.0.12.1", "CR"),
    "no class": ("", "DX"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_any_class_are_read(tmp_path: Path, kind: str) -> None:
    sop_class, modality = IMAGES[kind]
    uid, _ = write(tmp_path / "picture.dcm", sop_class, modality)
    (one,) = index_dicom(tmp_path)
    assert (one.series_uid, one.pictures, one.problems) == (uid, True, ())
    assert load_series(one.files).picture


def test_an_object_among_the_images_of_a_series_does_not_spoil_them(tmp_path: Path) -> None:
    uid, _ = make_series(tmp_path)
    write(tmp_path / "report.dcm", f"{ROOT}88.33", "SR", SeriesInstanceUID=uid)
    first, second = index_dicom(tmp_path)
    assert (first.id, first.problem(), first.slices) == (uid, None, 6)
    assert (second.id, second.problems[0].code) == (f"{uid}_no_image", "NOT_AN_IMAGE")
    assert load_series(tmp_path).array.shape[-1] == 6


# ---------------------------------------------------------------------------------------------- nuclear medicine


def nuclear(
    file: Path, kind: str, frames: int = 1, spacing: float | None = None, **more: Any
) -> tuple[str, np.ndarray]:
    detector = Dataset()
    if spacing is not None:
        detector.ImagePositionPatient, detector.ImageOrientationPatient = [-10, 5, 20], [1, 0, 0, 0, 1, 0]
        more |= {"SpacingBetweenSlices": spacing, "SliceThickness": abs(spacing)}
    more |= {"ImageType": ["ORIGINAL", "PRIMARY", kind, "EMISSION"], "PixelSpacing": [2.0, 3.0]}
    return write(file, f"{ROOT}20", "NM", frames, DetectorInformationSequence=[detector], **more)


@pytest.mark.parametrize(("kind", "frames"), [("STATIC", 1), ("WHOLE BODY", 2), ("DYNAMIC", 5), ("GATED", 3), ("", 1)])
def test_planar_nuclear_medicine_is_a_picture(tmp_path: Path, kind: str, frames: int) -> None:
    nuclear(tmp_path / "nm.dcm", kind, frames)
    (one,) = index_dicom(tmp_path)
    assert (one.modality, one.pictures, one.problem()) == ("NM", True, None)
    picture = load_series(one.files)
    assert picture.picture
    assert picture.array.shape == (1, 8, 6, frames)
    np.testing.assert_allclose((picture.array.min(), picture.array.max()), (0, 255), atol=1e-4)


@pytest.mark.parametrize("spacing", [4.0, -4.0])
@pytest.mark.parametrize("order", [[1, 2, 3, 4, 5], [3, 1, 2, 5, 4]])
def test_tomography_of_nuclear_medicine_is_a_volume(tmp_path: Path, spacing: float, order: list[int]) -> None:
    _, stored = nuclear(tmp_path / "nm.dcm", "RECON TOMO", 5, spacing, SliceVector=order)
    volume = load_series(tmp_path / "nm.dcm")
    expected = stored[np.argsort(order)]
    if spacing < 0:  # stacked against the normal (PS3.3 C.8.4.15)
        expected = expected[::-1]
    np.testing.assert_array_equal(volume.array[0], expected.transpose(2, 1, 0))
    low = 20 if spacing > 0 else 20 - 16
    np.testing.assert_allclose(volume.affine, [[-3, 0, 0, 10], [0, -2, 0, -5], [0, 0, 4, low], [0, 0, 0, 1]], atol=1e-6)


@pytest.mark.parametrize("spacing", [4.0, -4.0])
def test_simpleitk_puts_a_tomography_in_the_same_place(tmp_path: Path, spacing: float) -> None:
    sitk = pytest.importorskip("SimpleITK")
    nuclear(tmp_path / "nm.dcm", "RECON TOMO", 5, spacing, SliceVector=[1, 2, 3, 4, 5])
    volume, theirs = load_series(tmp_path / "nm.dcm"), sitk.ReadImage(str(tmp_path / "nm.dcm"))
    for index in ((0, 0, 0), (7, 2, 4), (3, 5, 1)):
        (place,) = np.argwhere(volume.array[0] == theirs[index])
        ours = volume.affine @ [*place, 1]
        np.testing.assert_allclose(ours[:3] * [-1, -1, 1], theirs.TransformIndexToPhysicalPoint(index), atol=1e-6)


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_dcm2niix_makes_the_same_volume_of_a_tomography(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    nuclear(tmp_path / "in" / "nm.dcm", "RECON TOMO", 5, 4.0, SliceVector=[1, 2, 3, 4, 5])
    (tmp_path / "out").mkdir()
    subprocess.run(["dcm2niix", "-b", "n", "-o", tmp_path / "out", tmp_path / "in"], check=True, capture_output=True)
    volume, (file,) = load_series(tmp_path / "in"), (tmp_path / "out").glob("*.nii")
    theirs = nibabel.load(file)
    np.testing.assert_array_equal(volume.array[0], theirs.get_fdata()[:, ::-1])


def test_a_gated_tomography_is_a_volume_for_each_phase(tmp_path: Path) -> None:
    vectors = {"SliceVector": [1, 2, 3, 1, 2, 3], "TimeSlotVector": [1, 1, 1, 2, 2, 2]}
    _, stored = nuclear(tmp_path / "nm.dcm", "RECON GATED TOMO", 6, 4.0, **vectors)
    found = index_dicom(tmp_path)
    assert [one.volume for one in found] == ["time slot 1", "time slot 2"]
    for one, own in zip(found, (stored[:3], stored[3:]), strict=True):
        np.testing.assert_array_equal(load_series(one.files).array[0], own.transpose(2, 1, 0))


@pytest.mark.parametrize(("kind", "said"), [("TOMO", "projections"), ("RECON TOMO", "without plane positions")])
def test_tomography_without_slices_has_a_code(tmp_path: Path, kind: str, said: str) -> None:
    nuclear(tmp_path / "nm.dcm", kind, 5)
    with pytest.raises(DicomSeriesError, match=said) as caught:
        load_series(tmp_path / "nm.dcm")
    assert caught.value.code == "UNSUPPORTED_IMAGE"
