"""Rows of a sheet that name DICOM by a patient, a folder, a series or one slice."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from monai_rd.datasets import DataListError, make_datalist, write_datalist
from tests.datasets.labelled_files import KEY, named, table
from tests.dicom_files import make_series


def test_excel_with_patients_and_the_rule_chooses_the_series(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = named(tmp_path, 20)

    def longer(k: int, ds: Dataset) -> None:
        ds.PatientID, ds.SeriesDescription = "PAT-003", "abdomen"

    long, _ = make_series(tmp_path / "x", slices=7, shape=(4, 4), change=longer, seed=99)
    pd.DataFrame([{"PatientID": p, "Label": c, "Site": "Jena"} for p, c in pairs]).to_excel(
        tmp_path / "labels.xlsx", index=False
    )
    found = make_datalist(tmp_path)
    items = [item for split in ("training", "validation", "test") for item in found[split]]
    assert len(items) == 20
    assert long in [item["series"] for item in items]
    assert {item["site"] for item in items} == {"Jena"}
    assert len({item["patient"] for item in items}) == 20
    with caplog.at_level(logging.INFO):
        thorax = make_datalist(tmp_path, series_rule={"description": "thorax"})
    said = "series: 20 of 21 taken (description like 'thorax'; of each patient the one with the most slices)"
    assert said in caplog.text
    chosen = [item["series"] for split in ("training", "validation", "test") for item in thorax[split]]
    assert long not in chosen
    assert len(chosen) == 20


def test_dicom_named_by_path_brings_its_patient(tmp_path: Path) -> None:
    pairs = named(tmp_path, 24)
    rows = [("image", "label")]
    for number, (patient, label) in enumerate(pairs):
        rows.append((f"export_{patient}" if number % 2 else f"export_{patient}/CT", label))
    table(tmp_path / "labels.csv", rows)
    found = make_datalist(tmp_path)
    items = [item for split in ("training", "validation", "test") for item in found[split]]
    assert len({item["patient"] for item in items}) == 24
    assert all(len(item["image"]) == 3 for item in items)


def test_a_row_may_name_one_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the folder is written, and the list is read back."""
    named(tmp_path / "data", 24)
    (tmp_path / "data" / "report.dcm").write_bytes(Path(get_testdata_file("test-SR.dcm")).read_bytes())
    rows = [("image", "label")]
    for number in range(24):
        slices = sorted((tmp_path / "data" / f"export_PAT-{number:03d}" / "CT").iterdir())
        rows += [(f"./export_PAT-{number:03d}/../export_PAT-{number:03d}/CT/{slices[1].name}", "ab"[number % 2])]
    monkeypatch.chdir(tmp_path)
    made = make_datalist("data", table(tmp_path / "list.csv", rows), key=KEY)
    items = [item for split in ("training", "validation", "test") for item in made[split]]
    assert all(len(item["image"]) == 1 and item["id"] != item["series"] for item in items)
    write_datalist(made, "data", tmp_path / "list.json", KEY)
    assert make_datalist(tmp_path / "data", tmp_path / "list.json", key=KEY) == made
    with pytest.raises(DataListError, match="row 26: the DICOM file holds no image"):
        make_datalist("data", table(tmp_path / "list.csv", [*rows, ("report.dcm", "a")]))
    content = json.loads((tmp_path / "list.json").read_text())
    content["training"][0]["sop"] = "1.2.3"
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    with pytest.raises(DataListError, match="item 1: no DICOM image with these SeriesInstanceUID and SOPInstanceUID"):
        make_datalist("data", tmp_path / "wrong.json")


def test_everything_wrong_with_dicom_rows_is_said_at_once(tmp_path: Path) -> None:
    named(tmp_path, 2)
    bad, _ = make_series(tmp_path / "bad", skip=(2,), seed=50)
    make_series(tmp_path / "two" / "a", seed=51)
    make_series(tmp_path / "two" / "b", seed=52)
    (tmp_path / "empty").mkdir()
    rows = [
        ("image", "series", "patient", "label", "split"),
        ("", "1.2.3", "x", "a", "test"),
        ("bad", "", "y", "a", "test"),
        ("two", "", "z", "b", "test"),
        ("empty", "", "z", "b", "test"),
        ("../outside", "", "z", "b", "test"),
        ("", "", "PAT-777", "b", "test"),
        ("export_PAT-000", "", "q", "b", "training"),
        ("export_PAT-001", "", "q", "b", "test"),
    ]
    (tmp_path.parent / "outside").mkdir(exist_ok=True)
    with pytest.raises(DataListError) as caught:
        make_datalist(tmp_path, table(tmp_path / "list.csv", rows))
    said = str(caught.value)
    for words in (
        "row 2: no DICOM series with this SeriesInstanceUID",
        f"row 3: MISSING_SLICES: Series {bad}",
        "row 4: the folder holds 2 DICOM series",
        "row 5: there is no DICOM image in this folder",
        "row 6: the image lies outside dataset_dir",
        "row 7: no DICOM series of this patient",
        "rows 8-9: the patient stands in two splits",
        "class 'b' has no item in validation",
    ):
        assert words in said
    assert "PAT-" not in said
    with pytest.raises(DataListError) as caught:
        make_datalist(tmp_path, tmp_path / "list.csv", policy={"default": "skip"})
    assert "MISSING_SLICES" not in str(caught.value)
