"""Which series lie under a folder, and which of them a rule takes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from monai_rd import errors as dicom
from monai_rd.dicom import SeriesInfo, SeriesRule, choose_series, index, index_dicom, is_dicom, load_series
from monai_rd.dicom.header import Origin
from monai_rd.pseudonyms import patient_pseudonym, project_key
from monai_rd.report.series import write_series
from tests.dicom.refusals import without
from tests.dicom_files import COLUMNS, CORONAL, NAME, PATIENT_ID, ROWS, SAGITTAL, make_series

DICOMDIR = Path(get_testdata_file("CT_small.dcm")).parent / "dicomdirtests"


def patient(identity: str, description: str = "") -> Any:
    def change(k: int, ds: Dataset) -> None:
        ds.PatientID, ds.SeriesDescription, ds.StudyInstanceUID = identity, description, f"1.2.{ord(identity[-1])}"

    return change


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients with several series each."""
    root = tmp_path_factory.mktemp("hospital")
    for number, (who, what, options) in enumerate(
        [
            ("A", "Thorax 1.0 soft", {"slices": 9}),
            ("A", "Thorax 5.0 lung", {"slices": 4, "shape": (40, 40)}),
            ("A", "Thorax cor", {"slices": 12, "orientation": CORONAL}),
            ("A", "broken", {"slices": 20, "skip": (7,)}),
            ("B", "t1 sag", {"slices": 5, "modality": "MR", "orientation": SAGITTAL}),
            ("B", "Chest", {"slices": 6, "orientation": (0.70710678, 0.0, 0.70710678, 0.0, 1.0, 0.0)}),
            ("B", "Chest", {"slices": 6}),
        ]
    ):
        make_series(
            root / "deep" / str(number % 3) / f"{NAME}{number}", change=patient(who, what), seed=number, **options
        )
    (root / "Thumbs.db").write_bytes(bytes(400))
    return root


@pytest.fixture(scope="module")
def series(folder: Path) -> list[SeriesInfo]:
    return index_dicom(folder)


def test_of_whom_and_where_a_series_is_goes_no_further_than_groups(tmp_path: Path) -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.BodyPartExamined, ds.PatientSex, ds.PatientAge = "CHEST", "F", "067Y"
        ds.Manufacturer, ds.ManufacturerModelName = "Maker & Sons", "Scan+ 3"
        ds.InstitutionName = f"Practice {NAME.split('^')[0]}, Anytown"
        ds.ConvolutionKernel = ["Br40d", "3"]

    make_series(tmp_path / "told", change=change)
    make_series(tmp_path / "untold", change=lambda k, ds: delattr(ds, "PatientSex"))
    one, other = sorted(index_dicom(tmp_path), key=lambda each: each.origin.body_part == "")
    assert one.origin == Origin(
        "CHEST", "F", "60-79", "Maker & Sons Scan+ 3", "Practice ***, Anytown", "Br40d 3", "3 mm"
    )
    assert other.origin == Origin(scanner="test", kernel="another", thickness="3 mm")
    assert one.row()["body_part"] == "CHEST"


@pytest.mark.parametrize(
    ("age", "band"),
    [
        *(("017Y", "0-17"), ("018Y", "18-39"), ("079Y", "60-79"), ("080Y", "80+"), ("300M", "18-39"), ("090D", "0-17")),
        *(("60-69", ""), ("Y067", ""), ("999Y", ""), ("", "")),
    ],
)
def test_an_age_leaves_as_its_band(tmp_path: Path, age: str, band: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom, of what is no age
        make_series(tmp_path, slices=1, change=lambda k, ds: setattr(ds, "PatientAge", age))
        assert index_dicom(tmp_path)[0].origin.age == band


def described(found: list[SeriesInfo]) -> list[str]:
    return sorted(f"{one.description} {one.slices}" for one in found)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, ["Thorax cor 12", "Chest 6"]),
        ({"pick": "largest"}, ["Thorax 5.0 lung 4", "Chest 6"]),
        ({"orientation": "axial"}, ["Thorax 1.0 soft 9", "Chest 6"]),
        ({"orientation": "oblique"}, ["Chest 6"]),
        ({"modality": "MR"}, ["t1 sag 5"]),
        ({"description": "LUNG|^t1"}, ["Thorax 5.0 lung 4", "t1 sag 5"]),
        ({"description": "thorax", "pick": "all"}, ["Thorax 1.0 soft 9", "Thorax 5.0 lung 4", "Thorax cor 12"]),
        ({"description": "broken"}, []),
        ({"per": "study", "modality": "CT"}, ["Thorax cor 12", "Chest 6"]),
    ],
)
def test_a_rule_takes_one_of_each_patient(rule: dict, expected: list[str], series: list[SeriesInfo]) -> None:
    chosen = choose_series(series, SeriesRule(**rule))
    assert described(chosen) == sorted(expected)
    assert choose_series(series[::-1], SeriesRule(**rule))[::-1] == chosen, "depends on the order of the series"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"orientation": "upright"}, "orientation 'upright' is none of axial, coronal"),
        ({"pick": "best"}, "pick 'best' is none of most_slices"),
        ({"description": "("}, "no regular expression"),
        ({"modalities": "CT"}, "no 'modalities'; there are modality"),
    ],
)
def test_a_wrong_rule_says_what_is_right(rule: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SeriesRule.of(rule)


def test_a_rule_says_itself() -> None:
    rule = SeriesRule("CT", "lung", "axial")
    assert str(rule) == "modality CT, axial, description like 'lung'; of each patient the one with the most slices"
    assert str(SeriesRule(pick="all")) == "any readable series; all of them"


def test_rows_tell_what_a_reader_wants_to_know(series: list[SeriesInfo]) -> None:
    (lung,) = [one.row() for one in series if "lung" in one.description]
    assert (lung["modality"], lung["slices"], lung["rows"], lung["columns"]) == ("CT", 4, 40, 40)
    assert (lung["spacing_mm"], lung["orientation"]) == ("0.8 x 0.6 x 2.5", "axial")
    assert (lung["transfer_syntax"], lung["problems"]) == ("Explicit VR Little Endian", "")
    (broken,) = [one.row() for one in series if "broken" in one.description]
    assert broken["problems"] == "MISSING_SLICES"
    assert "Fetch the complete series" in broken["message"]


def test_many_processes_see_what_one_sees(
    folder: Path, series: list[SeriesInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_CHUNK", 5)
    alone = index_dicom(folder, key=b"k" * 32)
    together = index_dicom(folder, key=b"k" * 32, workers=2)
    assert [one.row() for one in together] == [one.row() for one in alone]
    assert [one.files for one in together] == [one.files for one in alone]


def test_csv_and_json_hold_no_patient(series: list[SeriesInfo], tmp_path: Path) -> None:
    write_series(series, tmp_path / "index.csv", {series[0].series_uid})
    write_series(series, tmp_path / "index.json", None)
    table, content = (tmp_path / "index.csv").read_text(), json.loads((tmp_path / "index.json").read_text())
    assert len(table.splitlines()) == len(content) + 1 == 8
    assert sum("True" in line for line in table.splitlines()) == 1
    for secret in (*NAME.split("^"), PATIENT_ID, "deep", ".dcm", "19700101"):
        assert secret not in table + json.dumps(content)
    with pytest.raises(ValueError, match=r"\.csv or \.json, not as '\.txt'"):
        write_series(series, tmp_path / "index.txt")


def test_a_dicomdir_names_what_is_lost(tmp_path: Path) -> None:
    shutil.copytree(DICOMDIR, tmp_path / "cd")
    whole = index_dicom(tmp_path / "cd" / "DICOMDIR")
    assert len(whole) == 13
    assert not [one for one in whole if one.problems and one.problems[0].code == "MISSING_FILES"]
    lost = next(one for one in whole if len(one.files) > 2)
    gone = next(one for one in whole if len(one.files) == 1)
    lost.files[0].unlink()
    gone.files[0].unlink()
    for source in (tmp_path / "cd" / "DICOMDIR", tmp_path):
        found = {one.series_uid: one for one in index_dicom(source)}
        assert {one.series_uid for one in whole} <= set(found)
        for one in (lost, gone):
            problem = found[one.series_uid].problem()
            assert problem is not None
            assert problem.code == "MISSING_FILES"
            assert "names 1 file(s)" in str(problem)
            assert str(tmp_path) not in str(problem)


def test_pseudonyms_need_the_projects_key(tmp_path: Path) -> None:
    make_series(tmp_path / "a", slices=1)
    keys = [project_key(tmp_path / "one.key"), project_key(tmp_path / "two.key")]
    first, second = (index_dicom(tmp_path / "a", key=key)[0].patient_key for key in keys)
    assert first != second
    assert first == patient_pseudonym(f" {PATIENT_ID} ", keys[0]) == patient_pseudonym(PATIENT_ID.encode(), keys[0])
    assert project_key(tmp_path / "one.key") == keys[0]
    assert (tmp_path / "one.key").stat().st_mode & 0o077 == 0
    assert patient_pseudonym("", keys[0]) == ""
    (tmp_path / "one.key").write_text("short")
    with pytest.raises(ValueError, match="is not a key of this project"):
        project_key(tmp_path / "one.key")


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("junk")
    for source, said in ((tmp_path / "absent", "does not exist"), (tmp_path / "file.txt", "no DICOMDIR")):
        with pytest.raises(ValueError, match=said) as caught:
            index_dicom(source)
        assert caught.value.code == "NO_DICOM"  # type: ignore[attr-defined]


def test_a_folder_that_cannot_be_opened_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_series(tmp_path / "open", slices=1)
    make_series(tmp_path / "closed", slices=1, seed=1)
    ordinary = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return ordinary(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the tests may run as root, whom nothing is closed to
    assert len(index_dicom(tmp_path)) == 1
    assert "1 file(s) or folder(s) cannot be opened" in caplog.text
    assert str(tmp_path) not in caplog.text


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
