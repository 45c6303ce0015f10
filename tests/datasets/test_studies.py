"""Which studies a folder holds, and which of them are measured on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from monai_rd.datasets import DataList, DataListError, find_studies, labelled_studies, make_datalist, write_datalist
from monai_rd.datasets.studies import GROUPS
from monai_rd.dicom import index_dicom
from tests.datasets.labelled_files import KEY, labelled, names, picture, rows_of, table
from tests.dicom_files import make_series


def test_studies_to_measure_on_are_all_or_the_test_split(images: Path, tmp_path: Path) -> None:
    table(images / "labels.csv", rows_of())
    every = labelled_studies(images, class_names=["clear", "covid"])
    assert names(every.items) == [f"{n:02d}.png" for n in range(40)]
    assert [item["label"] for item in every.items] == [int(labelled(n) == "covid") for n in range(40)]
    assert len({item["id"] for item in every.items}) == 40
    assert all(item["id"] for item in every.items)
    header, *rows = rows_of()
    split = [(*row, ("train", "val", "test")[n % 3]) for n, row in enumerate(rows)]
    other = table(tmp_path / "split.csv", [(*header, "split"), *split])
    tested = labelled_studies(images, other, ["clear", "covid"])
    assert names(tested.items) == [f"{n:02d}.png" for n in range(2, 40, 3)]
    one_class = table(tmp_path / "one.csv", [header, rows[0], rows[4]])
    assert [item["label"] for item in labelled_studies(images, one_class, ["clear", "covid"]).items] == [1, 1]
    with pytest.raises(DataListError, match="'covid' is not among the class names"):
        labelled_studies(images, other, ["clear", "tumour"])
    unsplit = table(tmp_path / "train.csv", [(*header, "split"), (*rows[0], "train")])
    with pytest.raises(DataListError, match="no labelled item in the test split"):
        labelled_studies(images, unsplit, ["clear", "covid"])


def test_a_sheet_tells_groups_and_counts_more_than_the_header(cohort: Path, images: Path, tmp_path: Path) -> None:
    header = ("image", "label", "sex", "age", "scanner", "site")
    rows = [("00.png", "a", "F", "67", "Maker 3", "Anytown"), ("01.png", "b", "", "40-59", "", "")]
    first, second = labelled_studies(images, table(tmp_path / "groups.csv", [header, *rows])).items
    assert {name: first[name] for name in GROUPS} == {
        "sex": "F",
        "age": "60-79",
        "scanner": "Maker 3",
        "site": "Anytown",
    }
    assert {name: second[name] for name in GROUPS} == {"sex": "", "age": "40-59", "scanner": "", "site": ""}
    folders = sorted(path.name for path in cohort.iterdir() if path.is_dir())[:2]
    sheet = table(tmp_path / "cohort.csv", [("image", "label", "site"), (folders[0], "a", "X"), (folders[1], "b", "")])
    one, other = labelled_studies(cohort, sheet).items
    assert (one["site"], one["modality"], one["orientation"]) == ("X", "CT", "axial")
    assert other["site"] != "X"


def test_studies_of_a_mixed_folder(cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(cohort / "study_0000", tmp_path / "a" / "Anna_Secretname")
    shutil.copytree(cohort / "study_0001", tmp_path / "b")
    for name in ("IM0004.dcm", "IM0006.dcm"):
        (tmp_path / "b" / name).unlink()
    picture(tmp_path / "z" / "Anna_Secretname.png", 3)
    (tmp_path / "notes.txt").write_text("junk")
    with pytest.raises(DataListError, match=r"1 DICOM series cannot be read \(1 MISSING_SLICES\)") as caught:
        find_studies(tmp_path)
    assert "Anna" not in str(caught.value)
    studies = find_studies(tmp_path, policy={"default": "skip"})
    assert len(studies.items) == 2
    assert studies.items[0]["id"].startswith("1-")
    assert len(studies.items[0]["id"]) == 14
    assert studies.items[1]["id"] == index_dicom(cohort / "study_0000")[0].series_uid
    assert [problem.code for problem in studies.problems] == ["MISSING_SLICES"]
    assert all("Anna" not in item["id"] + item["patient"] for item in studies.items)


def test_studies_that_cannot_be_read_are_counted_by_code(cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(cohort / "study_0001", tmp_path / "b")
    for name in ("IM0004.dcm", "IM0006.dcm"):
        (tmp_path / "b" / name).unlink()
    with pytest.raises(DataListError, match="1 DICOM series cannot be read: 1 MISSING_SLICES"):
        find_studies(tmp_path, policy={"default": "skip"})


def test_pictures_of_a_series_are_items_of_their_own(tmp_path: Path) -> None:
    def radiograph(k: int, ds: Dataset) -> None:
        del ds.ImagePositionPatient
        ds.PatientID = f"P{k // 2}"

    uid, _ = make_series(tmp_path / "data", slices=40, shape=(4, 4), modality="DX", change=radiograph)
    (one,) = index_dicom(tmp_path / "data")
    assert one.pictures
    rows = [("series", "label"), (uid, "a")]
    with pytest.raises(DataListError, match="at least two classes"):
        make_datalist(tmp_path / "data", table(tmp_path / "list.csv", rows))
    made = find_studies(tmp_path / "data")
    assert [item["id"] for item in made.items] == list(one.sop_uids)
    lists = DataList(("a", "b"), [item | {"label": n % 2} for n, item in enumerate(made.items)], [], [])
    write_datalist(lists, tmp_path / "data", tmp_path / "list.json", KEY)
    content = json.loads((tmp_path / "list.json").read_text())
    assert content["training"][3] == {
        "series": uid,
        "sop": one.sop_uids[3],
        "label": 1,
        "patient": one.patient_key,
        "sex": "O",
        "scanner": "test",
    }
