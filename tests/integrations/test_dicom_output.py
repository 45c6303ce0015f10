"""Answers as DICOM: read back by highdicom, and checked by dciodvfy where it is installed."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom.sr
import numpy as np
import pytest
from matplotlib.figure import Figure
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
    generate_uid,
)

from monai_rd.datasets.studies import files_of_item, find_studies
from monai_rd.inference import Prediction, Predictor, TrainedBundle
from monai_rd.integrations import explanation
from monai_rd.integrations.dicom_output import (
    RESEARCH_ONLY,
    SCHEME,
    NoObjectError,
    secondary_capture,
    structured_report,
    text_report,
)
from monai_rd.integrations.explanation import SIZE, explanation_picture, look
from tests.dicom_files import AXIAL, NAME, PATIENT_ID, SAGITTAL, enhanced, image_library, make_series
from tests.trained import VOLUMES

SHAPE = (40, 44)


def checked(made: Dataset, folder: Path) -> Dataset:
    """Write it, let dciodvfy find no error where it is there, and read it back."""
    file = folder / f"{made.SOPInstanceUID}.dcm"
    made.save_as(file, enforce_file_format=True)
    if shutil.which("dciodvfy"):
        said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False).stderr
        assert not [line for line in said.splitlines() if line.startswith("Error")], said
    return dcmread(file)


def content_of(report: Dataset) -> highdicom.sr.MeasurementReport:
    return highdicom.sr.ComprehensiveSR.from_dataset(report).content


@pytest.fixture(scope="module")
def scored(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    folder = tmp_path_factory.mktemp("series")

    def change(_: int, ds: Dataset) -> None:
        ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 100", "Müller^Jürgen"

    make_series(folder, shape=SHAPE, spacing=(1.6, 0.8), change=change)
    (one,) = predictor(folder)
    return one


def test_report_holds_finding_probabilities_algorithm_and_sources(
    predictor: Predictor, scored: Prediction, tmp_path: Path
) -> None:
    flagged = replace(scored, flags=("UNUSUAL_INTENSITIES",))
    report = checked(structured_report(flagged, predictor.algorithm), tmp_path)
    source = dcmread(scored.files[0])
    for keyword in ("PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyID"):
        assert report[keyword].value == source[keyword].value
    assert str(report.PatientName) == "Müller^Jürgen"  # in another character set
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert RESEARCH_ONLY in report.SeriesDescription
    assert len(report.SeriesDescription) <= 64
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == SCHEME
    assert report.SeriesInstanceUID != source.SeriesInstanceUID

    content = content_of(report)
    (group,) = content.get_image_measurement_groups()
    assert (group.finding_type.scheme_designator, group.finding_type.meaning) == (SCHEME, scored.classes[0])
    measured = {one.name.meaning: (one.value, one.unit.value) for one in group.get_measurements()}
    expected = {name: (pytest.approx(100 * p), "%") for name, p in scored.probabilities.items()}
    assert measured == {f"Probability of {name}": value for name, value in expected.items()}
    assert [one.value.meaning for one in group.get_qualitative_evaluations()] == ["UNUSUAL_INTENSITIES"]
    assert [one.ReferencedSOPInstanceUID for one in image_library(report)] == [
        dcmread(file).SOPInstanceUID for file in scored.files
    ]
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.SeriesInstanceUID == scored.series
    assert len(evidence.ReferencedSOPSequence) == len(scored.files) == 6
    text = str(report)
    for word in (
        scored.model,
        predictor.algorithm.name,
        predictor.algorithm.version,
        "Device",
        RESEARCH_ONLY,
    ):
        assert word in text


def test_several_labels_have_a_finding_each(predictor: Predictor, scored: Prediction, tmp_path: Path) -> None:
    probabilities = {"cavity": 0.9, "Überblähung der Lunge, beidseits": 0.2, "a": 0.5}
    several = replace(scored, classes=("cavity", "a"), probabilities=probabilities, multi_label=True)
    report = checked(structured_report(several, predictor.algorithm), tmp_path)
    found: dict[str, Any] = {}
    for group in content_of(report).get_image_measurement_groups():
        (measured,), (presence,) = group.get_measurements(), group.get_qualitative_evaluations()
        found[group.finding_type.meaning] = (measured.value, presence.value.meaning)
        assert len(group.finding_type.value) <= 16
    assert found == dict(zip(probabilities, ((90, "Present"), (20, "Absent"), (50, "Present")), strict=True))


def test_sets_are_listed_and_said_in_words(predictor: Predictor, scored: Prediction, tmp_path: Path) -> None:
    def of(one: Prediction) -> tuple[list[list[str]], str]:
        report = checked(structured_report(one, predictor.algorithm), tmp_path)
        groups = content_of(report).get_image_measurement_groups()
        listed = [
            [o.value.meaning for o in group.get_qualitative_evaluations() if o.name.value == "SET_90"]
            for group in groups
        ]
        return listed, report.ContentSequence[-1].TextValue

    names = list(scored.probabilities)
    listed, said = of(replace(scored, sets=(tuple(names),)))
    assert listed == [names]
    assert "Cannot be ruled out (90 % conformal set): any class\n" in said
    three = replace(scored, probabilities={"a": 0.5, "b": 0.3, "c": 0.2}, classes=("a",))
    assert "Cannot be ruled out (90 % conformal set): a, b\n" in of(replace(three, sets=(("a", "b"),)))[1]
    listed, said = of(replace(scored, sets=((),)))
    assert listed == [[]]
    assert "(90 % conformal set): no class\n" in said
    several = replace(scored, probabilities={"a": 0.9, "b": 0.5}, classes=("a", "b"), multi_label=True)
    listed, said = of(replace(several, sets=(("present",), ("absent", "present"))))
    assert listed == [["Present"], ["Absent", "Present"]]
    assert "(90 % conformal set): a: present\n" in said
    assert "(90 % conformal set): b: present or absent\n" in said
    assert "conformal" not in of(scored)[1]


def test_the_same_question_has_the_same_uid(predictor: Predictor, scored: Prediction) -> None:
    first, again = (structured_report(scored, predictor.algorithm) for _ in range(2))
    assert first.SOPInstanceUID == again.SOPInstanceUID
    for other in (replace(scored, model="0" * 64), replace(scored, files=scored.files[1:])):
        assert structured_report(other, predictor.algorithm).SOPInstanceUID != first.SOPInstanceUID
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert secondary_capture(scored, predictor.algorithm, pixels).SOPInstanceUID != first.SOPInstanceUID


def test_picture_shows_the_slice_in_its_proportions(predictor: Predictor, scored: Prediction, tmp_path: Path) -> None:
    pixels = explanation_picture(predictor, scored)
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    capture = checked(secondary_capture(scored, predictor.algorithm, pixels), tmp_path)
    np.testing.assert_array_equal(capture.pixel_array, pixels)
    capture.save_as(tmp_path / "capture.dcm")
    assert (tmp_path / "capture.dcm").stat().st_size < pixels.nbytes / 2
    if shutil.which("dcmdjpls"):  # DCMTK
        subprocess.run(["dcmdjpls", tmp_path / "capture.dcm", tmp_path / "unpacked.dcm"], check=True)
        np.testing.assert_array_equal(dcmread(tmp_path / "unpacked.dcm").pixel_array, pixels)
    assert capture.StudyInstanceUID == scored.study
    assert capture.SeriesInstanceUID not in (
        scored.series,
        structured_report(scored, predictor.algorithm).SeriesInstanceUID,
    )
    assert {one.ReferencedSOPInstanceUID for one in capture.SourceImageSequence} == {
        dcmread(file).SOPInstanceUID for file in scored.files
    }
    shown = pixels[:, : SIZE[0] // 3, :].copy()
    shown[: SIZE[1] // 7], shown[int(SIZE[1] * 0.86) :] = 0, 0  # the text above and below
    rows, columns = (np.flatnonzero(shown.max(axis=2).max(axis=1 - axis)) for axis in (0, 1))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height / width == pytest.approx(40 * 1.6 / (44 * 0.8), rel=0.03)


def test_long_names_of_classes_hide_nothing(scored: Prediction) -> None:
    figure = Figure(figsize=(11, 6.6), dpi=100)
    names = {"W" * 40: 0.5, "meningioma_tumor": 0.3, "TURBERCULOSIS": 0.15, "a": 0.05}
    explanation._say(figure, replace(scored, classes=tuple(names), probabilities=names))
    drawn = {text.get_text(): text.get_window_extent() for text in figure.texts}
    assert {"0.500", "0.050", "meningioma_tumor", "TURBERCULOSIS", "a"} < drawn.keys()
    assert all(box.x1 <= 1100 for box in drawn.values())
    for one, other in itertools.combinations(drawn.values(), 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize("downwards", [False, True])
def test_picture_names_the_image_that_it_shows(predictor: Predictor, tmp_path: Path, downwards: bool) -> None:
    """Whichever way the slices are stored: the number's file has the pixels."""
    way = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0) if downwards else AXIAL
    make_series(tmp_path, slices=9, orientation=way, shape=SHAPE, seed=3)
    (one,) = predictor(tmp_path)
    shown = look(predictor, one)
    named = re.fullmatch(r"InstanceNumber (\d+), slice \d of the \d it was shown", shown.place)
    assert named, shown.place
    (header,) = [read for read in map(dcmread, one.files) if read.InstanceNumber == int(named[1])]
    grey = np.clip((header.pixel_array * 2.0 - 1024 + 1350) / 1500, 0, 1)  # the lung window
    np.testing.assert_allclose(shown.pixels[..., 0], 255 * (grey[::-1] if downwards else grey), atol=1)
    assert shown.method == "occlusion, 9 x 9 positions made smooth"


def test_picture_across_all_images_names_none(predictor: Predictor, tmp_path: Path) -> None:
    make_series(tmp_path, slices=9, orientation=SAGITTAL, shape=SHAPE, spacing=(1.0, 1.0))
    (item,) = find_studies(tmp_path).items
    assert predictor.algorithm
    one = Prediction("1", "1.2", "1.3", ("clear",), {"clear": 1.0}, files=files_of_item(item))
    assert look(predictor, one).place.startswith("a cut through all images, slice ")


@pytest.mark.slow
def test_picture_by_a_student_of_volumes(
    bundle_of: Callable[..., Path], scored: Prediction, few_positions: None
) -> None:
    """Whose slices are others than the series has; and of more classes than a picture has room for."""
    names = [f"a class with a long name, the {number}th" for number in range(9)]
    root = bundle_of(**VOLUMES, class_names=names)
    volumes = Predictor(TrainedBundle("rd_ct", bundle_root=str(root), device="cpu"))
    (one,) = volumes(scored.files[0].parent)
    pixels = explanation_picture(volumes, replace(one, flags=("UNUSUAL_INTENSITIES", "WRONG_BODY_PART")))
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    with pytest.raises(ValueError, match="was not scored"):
        explanation_picture(volumes, replace(one, problem="UNEXPECTED"))


def picture(folder: Path, kind: str, modality: str, **more: Any) -> Path:
    """A radiograph or ultrasound with next to nothing in its header."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = kind, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = generate_uid(), generate_uid(), modality
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 30, 20, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = np.random.default_rng(0).integers(0, 255, (30, 20), dtype=np.uint8).tobytes()
    ds.update(more)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    folder.mkdir()
    ds.save_as(folder / "image.dcm", enforce_file_format=True)
    return folder


@pytest.mark.parametrize("kind", ["enhanced", "CR", "DX", "US", "CT_small", "MR_small", "damaged header"])
def test_sources_of_every_kind(
    kind: str, predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is missing in a header stays empty; what is wrong in it is copied as it is, and logged nowhere."""
    folder = tmp_path / "in"
    storage = {
        "CR": ComputedRadiographyImageStorage,
        "DX": DigitalXRayImageStorageForPresentation,
        "US": UltrasoundImageStorage,
    }
    if kind == "enhanced":
        make_series(tmp_path / "single", shape=SHAPE)
        folder.mkdir()
        enhanced(tmp_path / "single", folder / "enhanced.dcm")
    elif kind in storage:
        picture(folder, storage[kind], kind)
    elif kind == "damaged header":

        def change(_: int, ds: Dataset) -> None:
            ds.PatientName = f"{NAME}=a=b=c^1^2^3^4^5"
            for keyword in ("PatientBirthDate", "StudyDate"):
                ds[keyword].VR = "LO"  # pydicom would not write such a date
                ds[keyword].value = "May 1970"
            ds.PatientSex = "X9"

        make_series(folder, shape=SHAPE, change=change)
    else:
        file = get_testdata_file(f"{kind}.dcm")
        folder.mkdir()
        shutil.copy(str(file), folder / "image.dcm")
    predictions = predictor(folder)
    files = tuple(path for path in folder.iterdir())
    header = dcmread(files[0])
    # The student is one of CT; here the answer is not the question.
    answer = Prediction(
        header.SOPInstanceUID,
        header.SeriesInstanceUID,
        header.StudyInstanceUID,
        ("opacity",),
        {"clear": 0.25, "opacity": 0.75},
        model="ab" * 32,
        files=predictions[0].files or files,
    )
    for made in (
        structured_report(answer, predictor.algorithm),
        text_report(answer, predictor.algorithm),
        secondary_capture(answer, predictor.algorithm, np.zeros((16, 16, 3), np.uint8)),
    ):
        read = checked(made, tmp_path) if kind != "damaged header" else made
        assert read.StudyInstanceUID == header.StudyInstanceUID
        assert str(read.get("PatientID") or "") == str(header.get("PatientID") or "")
    assert PATIENT_ID not in caplog.text
    assert NAME.split("^")[0] not in caplog.text


@pytest.mark.parametrize("name", ["a\\b", "=1+1", "^a=b", "[bold]x", "😀 שלום", "x" * 200])
def test_a_class_may_have_any_name(name: str, predictor: Predictor, scored: Prediction, tmp_path: Path) -> None:
    answer = replace(scored, classes=(name,), probabilities={name: 0.75, "other": 0.25})
    read = checked(structured_report(answer, predictor.algorithm), tmp_path)
    assert name.replace("\\", "/")[:64] in str(read)
    read = checked(text_report(answer, predictor.algorithm), tmp_path)
    assert read.ContentSequence[-1].ContentSequence[0].TextValue == f"Answer: {name}"


def test_what_no_object_is_made_of(predictor: Predictor, scored: Prediction, tmp_path: Path) -> None:
    for one in (replace(scored, problem="MISSING_SLICES"), replace(scored, series="")):
        with pytest.raises(NoObjectError, match="no DICOM object"):
            structured_report(one, predictor.algorithm)

    def change(_: int, ds: Dataset) -> None:
        ds["StudyInstanceUID"].VR = "LO"
        ds.StudyInstanceUID = "../../elsewhere"

    make_series(tmp_path, shape=SHAPE, change=change)
    (one,) = predictor(tmp_path)
    with pytest.raises(NoObjectError, match="StudyInstanceUID"):
        structured_report(one, predictor.algorithm)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (Debian package dicom3tools)")
def test_dciodvfy_would_find_an_error(predictor: Predictor, scored: Prediction, tmp_path: Path) -> None:
    """So that the tests above can fail."""
    broken = structured_report(scored, predictor.algorithm)
    del broken.CompletionFlag
    with pytest.raises(AssertionError, match="CompletionFlag"):
        checked(broken, tmp_path)
