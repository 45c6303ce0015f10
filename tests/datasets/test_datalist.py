"""From folders as they come to training, validation and test lists."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from monai.data import load_decathlon_datalist
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from monai_rd.datasets import (
    DataList,
    DataListError,
    find_studies,
    labelled_studies,
    make_datalist,
    make_folds,
    write_datalist,
)
from monai_rd.datasets.studies import GROUPS
from monai_rd.dicom import index_dicom
from monai_rd.phantoms import phantom_cohort
from tests.dicom_files import make_series

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value % 256, np.uint8)).save(path)
    return path


def table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """40 images of 20 patients, a.png of each patient's two shown early and late in the list."""
    for number in range(40):
        picture(tmp_path / "data" / f"{number:02d}.png", number)
    return tmp_path / "data"


def labelled(number: int) -> str:
    return "covid" if number % 4 == 0 else "clear"


def rows_of(count: int = 40) -> list[tuple[str, ...]]:
    return [("image", "label"), *((f"{n:02d}.png", labelled(n)) for n in range(count))]


def names(items: list[dict]) -> list[str]:
    return [Path(item["image"]).name for item in items]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 4, "validation": 2, "test": 2})
        return Path(phantom_cohort(tmp_path_factory.mktemp("cohort")))


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


def test_a_table_without_split_is_split_by_class_and_seed(images: Path) -> None:
    table(images / "labels.csv", rows_of())
    found = make_datalist(images)
    assert found.class_names == ("clear", "covid")
    sizes = {split: Counter(item["label"] for item in found[split]) for split in ("training", "validation", "test")}
    assert sizes == {"training": {0: 19, 1: 6}, "validation": {0: 5, 1: 2}, "test": {0: 6, 1: 2}}
    together = [name for split in sizes for name in names(found[split])]
    assert sorted(together) == sorted(path.name for path in images.glob("*.png"))
    for split in sizes:
        for item in found[split]:
            assert item["label"] == int(labelled(int(Path(item["image"]).stem)) == "covid")
    assert make_datalist(images) == found
    assert make_datalist(images, seed=1) != found


def test_no_patient_stands_on_two_sides(images: Path) -> None:
    rows = [("image", "label", "patient"), *((f"{n:02d}.png", "ab"[n % 2], f"P{n % 20}") for n in range(40))]
    table(images / "labels.csv", rows)
    for seed in range(5):
        found = make_datalist(images, seed=seed)
        sides = [{int(Path(item["image"]).stem) % 20 for item in found[s]} for s in ("training", "validation", "test")]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 20
        counts = [Counter(item["label"] for item in found[s]) for s in ("training", "validation", "test")]
        assert all(abs(count[0] - count[1]) <= 2 for count in counts), "not stratified"


def test_a_patient_of_two_classes_stands_for_the_rarer(images: Path) -> None:
    """20 patients of two images; 10 of them have one image of the rare class."""
    rows = [("image", "label", "patient"), *((f"{n:02d}.png", "ab"[n < 10], f"P{n % 20}") for n in range(40))]
    table(images / "labels.csv", rows)
    for seed in range(5):
        found = make_datalist(images, seed=seed)
        assert [sum(item["label"] for item in found[s]) for s in ("validation", "test")] == [2, 2]
        assert [len(found[s]) for s in ("training", "validation", "test")] in ([24, 8, 8], [26, 6, 8])


def test_a_split_column_is_followed(images: Path, tmp_path: Path) -> None:
    splits = ["train", "Val", "testing", "training"]
    rows = [("Image", " Label", "SPLIT"), *((f"{n:02d}.png", labelled(n // 4), splits[n % 4]) for n in range(40))]
    path = table(tmp_path / "elsewhere.csv", rows)
    found = make_datalist(images, path)
    assert names(found.validation) == [f"{n:02d}.png" for n in range(1, 40, 4)]
    assert names(found.test) == [f"{n:02d}.png" for n in range(2, 40, 4)]
    assert len(found.training) == 20


def test_series_are_named_by_uid(cohort: Path, tmp_path: Path) -> None:
    series = index_dicom(cohort)
    rows = [("series", "label", "split")]
    for number, one in enumerate(series):
        rows.append((one.series_uid, "ab"[number % 2], ["training", "validation", "test", "test"][number // 2]))
    found = make_datalist(cohort, table(tmp_path / "list.csv", rows))
    assert [item["label"] for item in found.training] == [0, 1]
    assert [Path(file) for file in found.training[1]["image"]] == list(series[1].files)


def test_the_phantoms_own_table(cohort: Path) -> None:
    found = make_datalist(cohort)
    assert (len(found.training), len(found.validation), len(found.test)) == (4, 2, 2)
    assert found.class_names == ("clear", "opacity")
    assert str(found).startswith("training 4 (2 clear, 2 opacity)")


def test_everything_wrong_with_a_table_is_said_at_once(images: Path) -> None:
    rows = [
        ("image", "label", "patient", "split"),
        ("00.png", "clear", "Anna", "training"),
        ("absent_Anna.png", "clear", "Anna", "training"),
        ("01.png", "", "Bert", "test"),
        ("00.png", "clear", "Anna", "training"),
        ("02.png", "covid", "", "test"),
        ("03.png", "covid", "Carl", "holdout"),
    ]
    table(images / "labels.csv", rows)
    with pytest.raises(DataListError) as caught:
        make_datalist(images)
    said = str(caught.value)
    assert "(9 problems)" in said
    for words in (
        "row 3: the image does not exist",
        "row 4: no label",
        "row 5: the same image stands in an earlier row",
        "row 6: no patient",
        "row 7: the split is none of training, validation, test",
        "class 'covid' has no item in training",
        "class 'clear' has no item in validation",
    ):
        assert words in said
    assert "Anna" not in said


def test_a_patient_in_two_splits_is_refused_without_the_name(images: Path) -> None:
    rows = [("image", "label", "patient", "split")]
    for n in range(40):
        rows.append((f"{n:02d}.png", labelled(n // 4), f"Anna{n % 19}", ["training", "validation", "test"][n % 3]))
    table(images / "labels.csv", rows)
    with pytest.raises(DataListError, match=r"rows 2-41: the patient stands in two splits") as caught:
        make_datalist(images)
    assert "Anna" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([("picture", "label"), ("00.png", "a")], {}, "needs the columns 'label' and one of 'image', 'series'"),
        (
            rows_of(),
            {"class_names": ["clear", "flu"]},
            r"rows 2, 6, 10, .*, 38: label 'covid' is not among the class names",
        ),
        (rows_of(), {"num_classes": 3}, "num_classes is 3, but the data have 2"),
        ([("image", "label"), *((f"{n:02d}.png", "clear") for n in range(20))], {}, "at least two classes"),
        (rows_of(20), {}, "class 'covid' has 5 patients .*; a split needs at least 10"),
        (
            [("image", "label", "split"), *((f"{n:02d}.png", labelled(n), "test") for n in range(20))],
            {},
            "class 'clear' has no item in training",
        ),
    ],
)
def test_unusable_tables_are_refused(rows: list, options: dict, said: str, images: Path) -> None:
    table(images / "labels.csv", rows)
    with pytest.raises(DataListError, match=said):
        make_datalist(images, **options)


def test_class_names_set_the_order(images: Path) -> None:
    table(images / "labels.csv", rows_of())
    found = make_datalist(images, class_names=["covid", "clear"])
    assert sum(item["label"] == 0 for item in found.training) == 6


def test_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(30):
        picture(tmp_path / ["healthy", "ill"][number % 2] / "deep" / f"{number}.png", number)
    with caplog.at_level(logging.INFO):
        found = make_datalist(tmp_path)
    assert found.class_names == ("healthy", "ill")
    assert sum(len(found[split]) for split in ("training", "validation", "test")) == 30
    assert all(("ill" in item["image"].split("/")) == item["label"] for item in found.test)
    assert "training 19 (" in caplog.text


def test_copies_of_one_image_stay_together(tmp_path: Path) -> None:
    for number in range(60):
        picture(tmp_path / ["healthy", "ill"][number % 2] / f"{number}.png", number % 30)
    for seed in range(5):
        found = make_datalist(tmp_path, seed=seed)
        sides = [{int(Path(i["image"]).stem) % 30 for i in found[s]} for s in ("training", "validation", "test")]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 30


def test_class_folders_of_dicom_keep_patients_apart(cohort: Path, tmp_path: Path) -> None:
    """Two series of each of 12 patients a class: both on one side, in every run the same."""
    from pydicom import dcmread
    from pydicom.uid import generate_uid

    for patient in range(24):
        for twin in range(2):
            folder = tmp_path / ["clear", "opacity"][patient % 2] / f"{patient}_{twin}"
            folder.mkdir(parents=True)
            uid = generate_uid()
            for number in range(3):
                image = dcmread(cohort / "study_0000" / f"IM{number:04d}.dcm")
                image.PatientID, image.SeriesInstanceUID = f"P{patient}", uid
                image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
                image.ImagePositionPatient = [0, 0, 10 * number]
                image.save_as(folder / f"{number}.dcm")
    found = make_datalist(tmp_path)
    sides = [
        {Path(item["image"][0]).parent.name.split("_")[0] for item in found[split]}
        for split in ("training", "validation", "test")
    ]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 24
    for run in range(5):
        again = make_datalist(tmp_path, key=bytes([run]) * 32)
        for split in ("training", "validation", "test"):
            assert [item["image"] for item in again[split]] == [item["image"] for item in found[split]]


@pytest.mark.parametrize("by", ["index", "name"])
def test_monai_data_list(by: str, images: Path, tmp_path: Path) -> None:
    content: dict = {"training": [], "validation": [], "test": []}
    for n in range(40):
        label = int(labelled(n // 4) == "covid") if by == "index" else labelled(n // 4)
        content[["training", "validation", "test", "training"][n % 4]].append({"image": f"{n:02d}.png", "label": label})
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))
    found = make_datalist(images, path)
    assert found.class_names == (("0", "1") if by == "index" else ("clear", "covid"))
    assert [item["label"] for item in found.validation] == [int(labelled(n // 4) == "covid") for n in range(1, 40, 4)]
    if by == "index":
        assert make_datalist(images, path, class_names=["clear", "covid"]).class_names == ("clear", "covid")


def test_a_wrong_json_is_refused(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": []}))
    with pytest.raises(DataListError, match="needs the lists training, validation, test"):
        make_datalist(images, path)
    wrong = [{"image": "00.png"}, {"image": "absent.png", "label": 0}]
    path.write_text(json.dumps({"training": wrong, "validation": [], "test": []}))
    with pytest.raises(DataListError, match=r"(?s)item 1: needs .*item 2: the image does not exist"):
        make_datalist(images, path)


def covid_ct(root: Path) -> Path:
    """COVID-CT's layout, 2 images a class and split."""
    for name in ("COVID", "NonCOVID"):
        for split in ("train", "val", "test"):
            files = [picture(root / "Images-processed" / f"CT_{name}" / f"{split}_{n}.png").name for n in range(2)]
            listing = root / "Data-split" / name / f"{split}CT_{name}.txt"
            listing.parent.mkdir(parents=True, exist_ok=True)
            listing.write_text("\n".join(files) + "\n")
    return root


def test_covid_cts_official_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = make_datalist(covid_ct(tmp_path))
    assert found.class_names == ("NonCOVID", "COVID")
    for split, short in (("training", "train"), ("validation", "val"), ("test", "test")):
        assert names(found[split]) == [f"{short}_0.png", f"{short}_1.png"] * 2
        assert [item["label"] for item in found[split]] == [0, 0, 1, 1]
    assert "this copy differs from the published one: 2 of NonCOVID in training (published 234); 2 of" in caplog.text
    listing = tmp_path / "Data-split" / "COVID" / "testCT_COVID.txt"
    listing.write_text(listing.read_text() + "test_1.png\n")
    assert names(make_datalist(tmp_path).test) == ["test_0.png", "test_1.png", "test_0.png", "test_1.png", "test_1.png"]
    (tmp_path / "Images-processed" / "CT_COVID" / "val_1.png").unlink()
    shutil.rmtree(tmp_path / "Data-split" / "NonCOVID")
    with pytest.raises(DataListError) as caught:
        make_datalist(tmp_path)
    assert "1 of the 2 images of valCT_COVID.txt are not in CT_COVID" in str(caught.value)
    assert "no trainCT_NonCOVID.txt" in str(caught.value)


@pytest.mark.skipif(not (SHARED / "COVID-CT").is_dir(), reason="COVID-CT is not here; the project does not ship it")
def test_the_real_covid_ct(caplog: pytest.LogCaptureFixture) -> None:
    found = make_datalist(SHARED / "COVID-CT")
    assert (len(found.training), len(found.validation), len(found.test)) == (425, 118, 203)
    assert sum(item["label"] for item in found.test) == 98
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_folder_of_nothing_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataListError, match="Give one of: a CSV or Excel sheet with the columns image,label"):
        make_datalist(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        make_datalist(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        make_datalist(tmp_path, tmp_path / "absent.csv")


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


# ------------------------------------------------------------------------------------- sheets as people have them


def named(root: Path, patients: int, labels: str = "ab") -> list[tuple[str, str]]:
    """DICOM series below a folder, one of each patient, every other one of the second class; (patient, label)."""
    for number in range(patients):
        identity = f"PAT-{number:03d}"

        def change(k: int, ds: Dataset, identity: str = identity) -> None:
            ds.PatientID, ds.SeriesDescription = identity, "thorax"

        make_series(root / f"export_{identity}" / "CT", slices=3, shape=(4, 4), change=change, seed=number)
    return [(f"PAT-{number:03d}", labels[number % 2]) for number in range(patients)]


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


@pytest.mark.parametrize("text", ["image;label\n{0};{1}\n", "\ufeffimage,label\n{0},{1}\n", "image\tlabel\n{0}\t{1}\n"])
def test_separators_and_byte_order_marks_of_exports(images: Path, text: str) -> None:
    head, row = text.splitlines(keepends=True)
    body = "".join(row.format(f"{n:02d}.png", labelled(n)) for n in range(40))
    (images / "labels.csv").write_text(head + body, encoding="utf-8")
    assert sum(len(make_datalist(images)[split]) for split in ("training", "validation", "test")) == 40
    (images / "labels.csv").write_bytes((head.lstrip("\ufeff") + body.replace("clear", "unauffällig")).encode("cp1252"))
    assert "unauffällig" in make_datalist(images).class_names


def test_lines_may_end_with_a_separator(images: Path) -> None:
    rows = [(*row, "") if number else row for number, row in enumerate(rows_of())]
    found = make_datalist(images, table(images / "labels.csv", rows))
    assert found.class_names == ("clear", "covid")
    assert names(found.test) != []


def test_a_sheet_that_cannot_be_read(images: Path) -> None:
    (images / "labels.xlsx").write_bytes(b"no workbook")
    with pytest.raises(DataListError, match=r"cannot be read .*give a CSV, or Excel as \.xlsx"):
        make_datalist(images)


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


def test_the_same_image_under_another_label(images: Path) -> None:
    table(images / "labels.csv", [*rows_of(), ("00.png", "clear"), ("./04.png", "covid")])
    with pytest.raises(DataListError) as caught:
        make_datalist(images)
    assert "row 42: the same image stands in an earlier row with another label" in str(caught.value)
    assert "row 43: the same image stands in an earlier row\n" in str(caught.value) + "\n"


def test_a_lesion_keeps_its_images_together(images: Path) -> None:
    """Patients 0 to 19 have two images each; lesion L joins the patients 0 and 1, so that their four stay together."""
    rows = [("image", "label", "patient", "lesion")]
    for n in range(40):
        rows.append((f"{n:02d}.png", "ab"[n % 2], f"P{n % 20}", "L" if n in (0, 21) else ""))
    table(images / "labels.csv", rows)
    for seed in range(8):
        found = make_datalist(images, seed=seed)
        sides = [{int(Path(item["image"]).stem) for item in found[s]} for s in ("training", "validation", "test")]
        assert any({0, 20, 1, 21} <= side for side in sides)
        numbers = [int(Path(item["image"]).stem) for item in found.training]
        folds = dict(zip(numbers, found.folds(3, seed), strict=True))
        assert len({folds[number] for number in (0, 20, 1, 21) if number in folds}) <= 1
        assert all(folds[number] == folds.get(number + 20) for number in folds if number < 20)
    splits = ["split", *["training", "validation", "test", "training"] * 10]
    table(images / "labels.csv", [(r[0], r[1], r[3], split) for r, split in zip(rows, splits, strict=False)])
    with pytest.raises(DataListError, match="rows 2, 23: the lesion stands in two splits") as caught:
        make_datalist(images)
    assert "patient stands" not in str(caught.value)


def test_folds_test_everything_once(images: Path) -> None:
    rows = [
        ("image", "label", "patient", "split"),
        *((f"{n:02d}.png", "ab"[n % 2], f"P{n % 20}", "test") for n in range(40)),
    ]
    table(images / "labels.csv", rows)
    made = make_folds(images, 5)
    assert len(made) == 5
    assert sorted(name for one in made for name in names(one.test)) == [f"{n:02d}.png" for n in range(40)]
    for number, one in enumerate(made):
        assert names(one.validation) == names(made[(number + 1) % 5].test)
        sides = [{item["patient"] for item in one[s]} for s in ("training", "validation", "test")]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 20
        assert Counter(item["label"] for item in one.test) == {0: 4, 1: 4}
    again = make_folds(images, 5)
    assert [names(one.test) for one in again] == [names(one.test) for one in made]
    assert [names(one.test) for one in make_folds(images, 5, seed=1)] != [names(one.test) for one in made]
    with pytest.raises(ValueError, match="at least 3"):
        make_folds(images, 2)
    with pytest.raises(DataListError, match=r"class 'a' has 10 patients .*; 11 folds needs at least 11"):
        make_folds(images, 11)


KEY = b"0123456789abcdef" * 2


def test_a_written_list_is_read_back_and_names_nobody(tmp_path: Path) -> None:
    data = tmp_path / "data"
    pairs = named(data, 10)
    for number in range(10):
        picture(data / "pictures" / f"PAT-{number:03d}_scan.png", number)
        picture(data / "pictures" / f"plain{number}.png", 100 + number)
    rows = [("image", "label", "patient", "site")]
    rows += [(f"export_{patient}", label, patient, "Jena") for patient, label in pairs]
    rows += [(f"pictures/PAT-{n:03d}_scan.png", pairs[n][1], pairs[n][0], "Ulm") for n in range(10)]
    rows += [(f"pictures/plain{n}.png", "ab"[n % 2], f"PAT-{n + 10:03d}", "Ulm") for n in range(10)]
    table(data / "labels.csv", rows)
    made = make_datalist(data, key=KEY)
    write_datalist(made, data, tmp_path / "list.json", KEY)
    text = (tmp_path / "list.json").read_text()
    assert "PAT" not in text
    assert str(tmp_path) not in text
    content = json.loads(text)
    kinds = Counter(next(iter(entry)) for split in ("training", "validation", "test") for entry in content[split])
    assert kinds == {"series": 10, "sha256": 10, "image": 10}
    assert make_datalist(data, tmp_path / "list.json", key=KEY) == made
    items = load_decathlon_datalist(str(tmp_path / "list.json"), True, "training")
    assert len(items) == len(made.training)


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
