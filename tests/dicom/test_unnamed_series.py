"""Series, studies and images whose UIDs are none, or are missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from monai_rd.datasets import find_studies, make_datalist, write_datalist
from monai_rd.datasets.studies import items_of_series
from monai_rd.dicom import index_dicom, load_series
from monai_rd.dicom.values import known_uid_of
from monai_rd.errors import MixedSeriesError, NoSeriesUidError, Policy
from tests.dicom_files import CORONAL, NAME, PATIENT_ID, make_series

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")

AS_THEY_ARE = [
    *("ID_eba422961c", "6897fa9de148", "id-0A1B2C3D4E", "d41d8cd98f00b204e9800998ecf8427e"),
    *("123e4567-e89b-12d3-a456-426614174000", "1.2.826.0.01.007", "1.2.3", "2.25.4711"),
]
HASHED = [
    *(
        "DOE^JANE",
        "Doe_Jane_1950",
        "19500101",
        "4711",
        PATIENT_ID,
        "series 1",
        "a",
        "0",
        "PANCREAS_0001",
        "1.2.3\\1.2.4",
    ),
    *("ID_19500101", "1.2." + "3" * 70, "DOE_eba422961c", "M\xfcller", "abcdefabcdef"),
]


@pytest.mark.parametrize("value", AS_THEY_ARE)
def test_uids_and_codes_stay(value: str) -> None:
    assert known_uid_of(value) == known_uid_of(value.encode() + b"\0") == known_uid_of(f" {value} ") == value


@pytest.mark.parametrize("value", HASHED)
def test_what_could_be_a_name_does_not(value: str) -> None:
    known = known_uid_of(value)
    assert known.startswith("sha256-")
    assert len(known) == 23
    assert known == known_uid_of(f"{value}  ")
    assert known != known_uid_of(f"{value}1")


def test_nothing_is_nothing() -> None:
    assert [known_uid_of(value) for value in ("", " ", b"\0\0", b"")] == [""] * 4


def write(root: Path, uids: dict[str, str | None], **more: Any) -> None:
    """A series with such UIDs, None for none."""

    def change(k: int, ds: Dataset) -> None:
        for keyword, value in uids.items():
            if value is None:
                delattr(ds, keyword)
            elif keyword == "SOPInstanceUID":
                ds.SOPInstanceUID = f"{value}{k:02x}"
                ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
            else:
                setattr(ds, keyword, value)

    make_series(root, change=change, **more)


@pytest.mark.parametrize("value", [*AS_THEY_ARE, *HASHED[:8]])
def test_series_are_told_apart_by_what_stands_there(
    value: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two series in one folder, as of two series with proper UIDs; the same by index, by load_series and in lists."""
    for number in range(2):
        own = {"SeriesInstanceUID": f"{value}{number}", "StudyInstanceUID": f"{value}{number}5"}
        write(tmp_path / "in" / str(number), own, seed=number)
    caplog.clear()
    found = {one.series_uid: one for one in index_dicom(tmp_path / "in")}
    assert set(found) == {known_uid_of(f"{value}{number}") for number in range(2)}
    assert [(len(one.files), one.problem()) for one in found.values()] == [(6, None)] * 2
    for uid, one in found.items():
        volume = load_series(one.files)
        assert (volume.series_uid, volume.array.shape[-1]) == (uid, 6)
        assert load_series(one.files[0].parent).array.tobytes() == volume.array.tobytes()
    (tmp_path / "mixed").mkdir()
    for number in range(2):
        for file in sorted((tmp_path / "in" / str(number)).iterdir()):
            shutil.copy(file, tmp_path / "mixed" / f"{number}{file.name}")
    with pytest.raises(MixedSeriesError) as caught:
        load_series(tmp_path / "mixed")
    if value in HASHED and len(value) > 3:
        shown = str([one.row() for one in found.values()]) + str(caught.value) + caplog.text
        assert f"{value}0" not in shown.replace("Secretname", "")


@pytest.fixture
def unnamed(tmp_path: Path) -> Path:
    """Five series without UID in two folders: of another number, orientation, size and folder than the first."""
    none: dict[str, str | None] = {"SeriesInstanceUID": None, "StudyInstanceUID": "1.2.3.4"}
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("a", "1", {"slices": 6}),
        ("a", "2", {"slices": 4}),
        ("a", "1", {"slices": 5, "orientation": CORONAL}),
        ("a", "1", {"slices": 7, "shape": (12, 9)}),
        ("b", "1", {"slices": 8}),
    ]
    for seed, (folder, number, more) in enumerate(kinds):
        write(tmp_path / "made", {**none, "SeriesNumber": number}, seed=seed, **more)
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        for file in (tmp_path / "made").iterdir():
            file.rename(tmp_path / "in" / folder / f"{seed}_{file.name}")
    return tmp_path / "in"


def test_without_uids_folder_number_and_geometry_tell_series_apart(unnamed: Path) -> None:
    found = index_dicom(unnamed)
    assert sorted(len(one.files) for one in found) == [4, 5, 6, 7, 8]
    assert all(len({file.name[0] for file in one.files}) == 1 for one in found)
    assert len({one.series_uid for one in found}) == 5
    for one in found:
        assert [problem.code for problem in one.problems] == ["NO_SERIES_UID"]
        assert one.series_uid in str(one.problem())
        assert one.problem(Policy({"NO_SERIES_UID": "warn"})) is None
        with pytest.raises(NoSeriesUidError) as caught:
            load_series(one.files)
        assert (str(caught.value), caught.value.series_uid) == (str(one.problem()), one.series_uid)
        volume = load_series(one.files, policy=Policy({"NO_SERIES_UID": "warn"}))
        assert (volume.series_uid, volume.array.shape[-1]) == (one.series_uid, len(one.files))
        assert volume.tolerated == ("NO_SERIES_UID",)
    with pytest.raises(MixedSeriesError, match="22 images of 4 series"):
        load_series(unnamed / "a", policy=Policy({"NO_SERIES_UID": "warn"}))
    shutil.copytree(unnamed, unnamed.parent / f"moved_{NAME}")
    moved = index_dicom(unnamed.parent / f"moved_{NAME}")
    assert [one.series_uid for one in moved] == [one.series_uid for one in found]
    studies = find_studies(unnamed, policy={"default": "skip", "NO_SERIES_UID": "warn"})
    assert {item["id"] for item in studies.items} == {one.series_uid for one in found}
    left = find_studies(unnamed, False, policy={"default": "skip"})
    assert [one.code for one in left.problems] == ["NO_SERIES_UID"] * 5


def as_picture(k: int, ds: Dataset) -> None:
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        delattr(ds, keyword)
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.1", "CR"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]


@pytest.mark.parametrize("sop", [None, "ID_eba422961c", f"{NAME} ", "0."])
@pytest.mark.parametrize("series", ["ID_eba422961c", None, NAME])
def test_pictures_have_names_of_their_own_that_lists_find(series: str | None, sop: str | None, tmp_path: Path) -> None:
    uids = {"SeriesInstanceUID": series, "SOPInstanceUID": sop}

    for patient in range(20):

        def change(k: int, ds: Dataset, patient: int = patient) -> None:
            as_picture(k, ds)
            ds.PatientID = f"P{patient}"

        folder = tmp_path / "data" / "ab"[patient % 2] / str(patient)
        make_series(folder, slices=2, modality="CR", change=change, seed=patient)
        for file in folder.iterdir():
            content = dcmread(file)
            for keyword, value in uids.items():
                if value is None:
                    delattr(content, keyword)
                else:
                    number = f"{patient:02d}{file.stem[-1]}" if keyword == "SOPInstanceUID" else f"{patient:02d}"
                    setattr(content, keyword, value + number)
            content.save_as(file, enforce_file_format=False)
    policy = {"NO_SERIES_UID": "warn"}
    found = index_dicom(tmp_path / "data")
    assert len(found) == 20
    assert all(one.pictures for one in found)
    assert {one.problem(Policy(policy)) for one in found} == {None}
    items = [item for one in found for item in items_of_series(one)]
    assert len({item["id"] for item in items}) == 40
    assert NAME not in str([(item["id"], item["series"], item["study"]) for item in items])
    made = make_datalist(tmp_path / "data", policy=policy)
    write_datalist(made, tmp_path / "data", tmp_path / "list.json", b"k" * 32)
    assert NAME not in (tmp_path / "list.json").read_text()
    again = make_datalist(tmp_path / "data", tmp_path / "list.json", policy=policy)
    assert str(again) == str(made)
    assert [item["image"] for item in again.test] == [item["image"] for item in made.test]


def test_a_sheet_may_name_a_series_as_the_header_does(tmp_path: Path) -> None:
    rows = ["series,label"]
    for number in range(20):
        value = (f"ID_eba42296{number:02d}", f"{NAME} {number}")[number % 2]
        write(
            tmp_path / "data" / str(number),
            {"SeriesInstanceUID": value, "PatientID": f"P{number}"},
            seed=number,
            slices=2,
        )
        rows.append(f"{value},{'ab'[number // 10]}")
    (tmp_path / "data" / "labels.csv").write_text("\n".join(rows))
    made = make_datalist(tmp_path / "data")
    assert sum(map(len, (made.training, made.validation, made.test))) == 20


def test_values_that_stand_for_no_uid_make_no_copies(tmp_path: Path) -> None:
    """Where every image has the same word for its SOPInstanceUID, as some programs write it, they are no duplicates."""
    for number, value in enumerate(("0", "anonymous", NAME, None)):

        def change(k: int, ds: Dataset, value: str | None = value) -> None:
            ds.SOPInstanceUID = value
            ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"

        make_series(tmp_path / str(number), change=change, seed=number)
    assert [one.problem() for one in index_dicom(tmp_path)] == [None] * 4
    assert np.isfinite(load_series(tmp_path / "0").array).all()


def test_without_any_uid_and_patient_nobody_shares_a_pseudonym(tmp_path: Path) -> None:
    missing: dict[str, str | None] = dict.fromkeys(("SeriesInstanceUID", "StudyInstanceUID", "PatientID"))
    for number in range(3):
        write(tmp_path / str(number), missing, seed=number)
    assert len({one.patient_key for one in index_dicom(tmp_path)}) == 3
