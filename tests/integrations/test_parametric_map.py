"""Where the student looked as a parametric map: at its place in the patient, and as programs read it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from monai_rd.inference import Prediction, Predictor, TrainedBundle
from monai_rd.integrations.dicom_output import (
    RESEARCH_ONLY,
    NoObjectError,
    parametric_map,
    secondary_capture,
    structured_report,
)
from monai_rd.integrations.explanation import heat_map, looks
from tests.dicom_files import AXIAL, CORONAL, SAGITTAL, enhanced, make_series, oblique
from tests.integrations.test_dicom_output import SHAPE, checked, picture
from tests.trained import VOLUMES, trained_bundle

UPSIDE_DOWN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def a_map(predictor: Predictor, one: Prediction) -> Dataset:
    found = looks(predictor, one)
    return parametric_map(one, predictor.algorithm, heat_map(found.at, found.slices))


@pytest.fixture(scope="module")
def scored(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    folder = tmp_path_factory.mktemp("series")
    make_series(folder, shape=SHAPE)
    (one,) = predictor(folder)
    return one


# Bright is the line through row 9 and column 30 of all slices, of which each axial slice shows one voxel; of a sagittal
# or coronal series the line through column 30 of slice 4.
@pytest.mark.parametrize(
    ("orientation", "line", "kind"),
    [
        (AXIAL, (slice(None), 9, 30), "single"),
        (UPSIDE_DOWN, (slice(None), 9, 30), "single"),
        (oblique(), (slice(None), 9, 30), "single"),
        (oblique(), (slice(None), 9, 30), "enhanced"),
        (SAGITTAL, (4, slice(None), 30), "single"),
        (CORONAL, (4, slice(None), 30), "enhanced"),
    ],
)
def test_the_peak_lies_where_the_picture_has_it(
    orientation: tuple[float, ...], line: tuple[int | slice, ...], kind: str, predictor: Predictor, tmp_path: Path
) -> None:
    bright = np.zeros((9, *SHAPE), bool)
    bright[line] = True
    planted = {}

    def change(k: int, ds: Dataset) -> None:
        ds.PixelData = (np.where(bright[k], 2000, 100)).astype(np.int16).tobytes()
        for row, column in np.argwhere(bright[k]):
            planted[place(ds, ds, ds, row, column)] = k

    make_series(tmp_path / "in", slices=9, shape=SHAPE, orientation=orientation, spacing=(1.5, 0.75), change=change)
    folder = tmp_path / "in"
    if kind == "enhanced":
        folder = tmp_path / "enhanced"
        folder.mkdir()
        enhanced(tmp_path / "in", folder / "image.dcm")
    (one,) = predictor(folder)
    _, at, shown = looks(predictor, one)
    hot = [(each.pixels[..., 0] == each.pixels.max()).astype(np.float32) for each in shown]
    assert [each.sum() for each in hot] == [1, 1]
    found = [each._replace(heat=heat) for each, heat in zip(shown, hot, strict=True)]
    made = parametric_map(one, predictor.algorithm, heat_map(at, found))
    values = np.frombuffer(made.FloatPixelData, np.float32).reshape(9, *SHAPE)
    shared = made.SharedFunctionalGroupsSequence[0]
    measures, turn = shared.PixelMeasuresSequence[0], shared.PlaneOrientationSequence[0]
    peaks, numbers = set(), set()
    for frame, row, column in np.argwhere(values):
        own = made.PerFrameFunctionalGroupsSequence[frame]
        peaks.add(peak := place(own.PlanePositionSequence[0], turn, measures, row, column))
        (source,) = own.DerivationImageSequence[0].SourceImageSequence
        headers = [dcmread(file) for file in one.files]
        (header,) = [each for each in headers if each.SOPInstanceUID == source.ReferencedSOPInstanceUID]
        if kind == "single":
            assert place(header, header, header, row, column) == peak
            numbers.add(f"InstanceNumber {header.InstanceNumber}")
    assert len(peaks) == 2
    assert peaks <= planted.keys()
    if orientation in (AXIAL, UPSIDE_DOWN):
        assert numbers == {each.place.partition(",")[0] for each in shown}


def place(position: Dataset, turn: Dataset, measures: Dataset, row: int, column: int) -> tuple[float, ...]:
    """Where a pixel lies in the patient in mm (PS3.3 C.7.6.2.1.1)."""
    along = np.reshape(turn.ImageOrientationPatient, (2, 3)).astype(float)
    steps = along[0] * measures.PixelSpacing[1] * int(column) + along[1] * measures.PixelSpacing[0] * int(row)
    return tuple(np.round(np.array(position.ImagePositionPatient, float) + steps, 3) + 0.0)


def test_it_is_the_heat_of_the_picture_and_says_what_it_is(
    predictor: Predictor, scored: Prediction, tmp_path: Path
) -> None:
    shown, made = looks(predictor, scored).slices, a_map(predictor, scored)
    values = np.frombuffer(made.FloatPixelData, np.float32).reshape(6, *SHAPE)
    positions = [one.PlanePositionSequence[0].ImagePositionPatient[2] for one in made.PerFrameFunctionalGroupsSequence]
    for one in shown:  # an axial series: as it is displayed
        np.testing.assert_array_equal(values[positions.index(40 + 2.5 * one.source)], one.heat)
    assert len(np.flatnonzero(values.any(axis=(1, 2)))) <= len(shown) == 2
    assert 0.9 < values.max() <= 1
    source = dcmread(scored.files[0])
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert made[keyword].value == source[keyword].value
    assert RESEARCH_ONLY in made.SeriesDescription
    assert RESEARCH_ONLY in made.ImageComments
    assert (made.ContentQualification, made.ImageType[0]) == ("RESEARCH", "DERIVED")
    (mapping,) = made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    (quantity,) = mapping.QuantityDefinitionSequence
    (coded,) = quantity.ConceptCodeSequence
    assert (coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning) == ("130404", "DCM", "Saliency")
    assert made.ContentDescription == f"What spoke for {scored.classes[0]}"
    referred = {one.ReferencedSOPInstanceUID for one in made.SourceImageSequence}
    assert referred == {dcmread(file).SOPInstanceUID for file in scored.files}
    assert made.SOPInstanceUID == a_map(predictor, scored).SOPInstanceUID
    others = (structured_report(scored, predictor.algorithm), capture(predictor, scored))
    assert len({made.SOPInstanceUID, *(one.SOPInstanceUID for one in others)}) == 3
    assert len({made.SeriesInstanceUID, scored.series, *(one.SeriesInstanceUID for one in others)}) == 4


def capture(predictor: Predictor, one: Prediction) -> Dataset:
    return secondary_capture(one, predictor.algorithm, np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("kind", ["single", "enhanced"])
def test_programs_read_it(kind: str, predictor: Predictor, scored: Prediction, tmp_path: Path) -> None:
    one = scored
    if kind == "enhanced":
        (tmp_path / "in").mkdir()
        enhanced(scored.files[0].parent, tmp_path / "in" / "image.dcm")
        (one,) = predictor(tmp_path / "in")
    made = a_map(predictor, one)
    assert made.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    made.save_as(tmp_path / "map.dcm", enforce_file_format=True)
    assert dcmread(tmp_path / "map.dcm").FloatPixelData == made.FloatPixelData
    if shutil.which("dcmdump"):  # DCMTK
        done = subprocess.run(["dcmdump", tmp_path / "map.dcm"], capture_output=True, text=True, check=True)
        assert "Research use only" in done.stdout
        assert done.stderr == ""
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian  # dciodvfy does not inflate
    checked(made, tmp_path)


def test_what_no_map_is_made_of(
    predictor: Predictor, bundle_of: Callable[..., Path], tmp_path: Path, few_positions: None
) -> None:
    """Radiographs, volumes that are resampled, and images without a frame of reference."""
    make_series(tmp_path / "ct", shape=SHAPE, change=lambda _, ds: ds.__delattr__("FrameOfReferenceUID"))
    (one,) = predictor(tmp_path / "ct")
    with pytest.raises(NoObjectError, match="FrameOfReferenceUID"):
        a_map(predictor, one)
    root = bundle_of(**VOLUMES)
    volumes = Predictor(TrainedBundle("rd_ct", bundle_root=str(root), device="cpu"))
    (one,) = volumes(tmp_path / "ct")
    with pytest.raises(NoObjectError, match="take the picture instead"):
        a_map(volumes, one)
    xray = Predictor(TrainedBundle(trained_bundle(tmp_path, "xray"), device="cpu"))
    (one,) = xray(picture(tmp_path / "cr", ComputedRadiographyImageStorage, "CR"))
    with pytest.raises(NoObjectError, match="take the picture instead"):
        a_map(xray, one)
