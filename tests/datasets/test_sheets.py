"""Sheets and lists as programs and people store them: what is missing is no class, and what would match is said."""

from __future__ import annotations

import csv
import datetime
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpyxl import Workbook
from PIL import Image

from monai_rd.datasets import DataListError, make_datalist, write_datalist
from monai_rd.datasets.datalist import read_datalist
from monai_rd.datasets.near_matches import near_ids, near_paths
from monai_rd.datasets.sheets import read_table
from monai_rd.text import name_key
from tests.dicom_files import make_series


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """40 images in a folder with an accent."""
    folder = tmp_path / "data" / unicodedata.normalize("NFC", "Süd")
    folder.mkdir(parents=True)
    for number in range(40):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(folder / f"{number:04d}.png")
    return tmp_path / "data"


def path_of(number: int) -> str:
    return f"Süd/{number:04d}.png"


def sheet(path: Path, labels: list[Any], header: tuple[str, ...] = ("image", "label")) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *((path_of(n), label) for n, label in enumerate(labels))])
    return path


def json_list(path: Path, labels: list[Any], **more: Any) -> Path:
    content: dict[str, Any] = {"training": [], "validation": [], "test": [], **more}
    for number, label in enumerate(labels):
        split = ("training", "validation", "test", "training")[number % 4]
        content[split].append({"image": path_of(number), "label": label})
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def said(root: Path, source: Path, **options: Any) -> str:
    with pytest.raises(DataListError) as caught:
        make_datalist(root, source, **options)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- missing labels

HALVES = ["ill", "healthy"] * 20


@pytest.mark.parametrize(
    "label", [None, True, 1.0, float("nan"), {"a": 1}, ["ill"], "", "  ", "nan", "None", "null", -1]
)
def test_a_missing_label_is_no_class_in_json(label: Any, images: Path, tmp_path: Path) -> None:
    path = json_list(tmp_path / "list.json", [*HALVES[:39], label])
    told = said(images, path)
    assert "label" in told
    assert "item 20" in told
    assert "class 'None'" not in told
    assert "'nan' is not" not in told


@pytest.mark.parametrize("label", ["", " ", "nan", "NaN", "None", "NA", "<NA>", "null", "#N/A"])
def test_a_missing_label_is_no_class_in_a_sheet(label: str, images: Path, tmp_path: Path) -> None:
    assert "row 41: no label" in said(images, sheet(tmp_path / "a.csv", [*HALVES[:39], label]))


def test_a_class_may_have_such_a_name_if_it_is_named(images: Path, tmp_path: Path) -> None:
    path = sheet(tmp_path / "a.csv", ["NA", "tumour"] * 20)
    assert make_datalist(images, path, ["NA", "tumour"]).class_names == ("NA", "tumour")
    assert make_datalist(images, sheet(path, ["none", "tumour"] * 20)).class_names == ("none", "tumour")


def test_a_sheet_without_a_header_shows_no_patient(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Smith^Anna,4711,ill\nDoe^Jane,4712,healthy\n")
    assert "it has: 3 columns, of which are known: none" in said(images, path)
    path.write_text("PatientID,Diagnosis\n4711,ill\n")
    assert "it has: 2 columns, of which are known: patient" in said(images, path)


def test_rows_that_are_cut_short_have_no_label(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "image,label\n" + "".join(f"{path_of(n)},{HALVES[n]}\n" for n in range(39)) + path_of(39) + "\n\n,\n"
    )
    assert "row 41: no label" in said(images, path)
    path.write_text(path.read_text().replace("0003.png,healthy", "0003.png,a,healthy"))
    assert "more cells in row 5 than in its header" in said(images, path)


def test_patients_without_an_id_are_not_one_patient(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [(path_of(n), HALVES[n], "nan" if n < 5 else f"P{n}") for n in range(40)]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "patient"), *rows])
    assert "rows 2-6: no patient" in said(images, path)


# ------------------------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_json_and_csv_in_any_encoding(encoding: str, images: Path, tmp_path: Path) -> None:
    labels = [("krank", "unauffällig")[number // 4 % 2] for number in range(40)]
    for path in (json_list(tmp_path / "list.json", labels), sheet(tmp_path / "a.csv", labels)):
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            content = json.dumps(json.loads(content), ensure_ascii=False)
        path.write_bytes(content.encode(encoding))
        assert make_datalist(images, path).class_names == ("krank", "unauffällig")


def test_json_says_what_is_wrong_with_it(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    for content, words in (
        ('{"training": [], "validation": [], "test": [], "test": []}', "'test' stands twice"),
        (
            '{"training": [{"image": "a", "label": 1, "label": 2}], "validation": [], "test": []}',
            "'label' stands twice",
        ),
        ('{"training": [], "x": {"Doe^Jane": 1, "Doe^Jane": 2}}', "a key stands twice"),
        ('{"training": [],\n oops}', "no JSON (line 2)"),
        ("[" * 100000, "no JSON"),
        ('{"training": [], "validation": [], "test": [], "class_names": [null, "a"]}', "class_names is no list"),
        ('{"training": [{"image": null, "label": 1}], "validation": [], "test": []}', "item 1: 'image' is null"),
        ('{"training": [{"image": ["a"], "label": 1}], "validation": [], "test": []}', "item 1: 'image' is a list"),
        ('{"training": [{"series": 1.5, "label": 1}], "validation": [], "test": []}', "item 1: 'series' is a number"),
    ):
        path.write_text(content)
        assert words in said(images, path)


def test_a_patients_id_in_a_foreign_list_leaves_as_a_pseudonym(images: Path, tmp_path: Path) -> None:
    path = json_list(tmp_path / "list.json", HALVES[:40])
    content = json.loads(path.read_text())
    for split in ("training", "validation", "test"):
        for number, item in enumerate(content[split]):
            item["patient"], item["age"] = f"SMITH_JANE_{split}_{number}", 0
    path.write_text(json.dumps(content))
    made, _ = read_datalist(images, path, key=b"k" * 32)
    write_datalist(made, images, tmp_path / "written.json", b"k" * 32)
    written = (tmp_path / "written.json").read_text()
    assert "SMITH" not in written
    assert json.loads(written)["training"][0]["age"] == "0-17"
    again, _ = read_datalist(images, tmp_path / "written.json", key=b"k" * 32)
    assert [item["patient"] for item in again.training] == [item["patient"] for item in made.training]


def test_a_quote_that_is_not_closed_swallows_no_row(images: Path, tmp_path: Path) -> None:
    path = sheet(tmp_path / "a.csv", HALVES)
    path.write_text(path.read_text(encoding="utf-8").replace("0007.png,healthy", '0007.png,"healthy'), encoding="utf-8")
    assert "a quote is not closed" in said(images, path)


def test_a_published_list_says_what_would_match(tmp_path: Path) -> None:
    for kind in ("COVID", "NonCOVID"):
        folder = tmp_path / "Images-processed" / f"CT_{kind}"
        folder.mkdir(parents=True)
        for split in ("train", "val", "test"):
            Image.new("L", (4, 4)).save(folder / f"{split}.png")
            listing = tmp_path / "Data-split" / kind / f"{split}CT_{kind}.txt"
            listing.parent.mkdir(parents=True, exist_ok=True)
            listing.write_text(f"{split}.{'PNG' if kind == 'COVID' else 'png'}\n", encoding="utf-16")
    with pytest.raises(DataListError) as caught:
        make_datalist(tmp_path)
    told = str(caught.value)
    assert "1 of the 1 images of trainCT_COVID.txt are not in CT_COVID; 1 would match in other case" in told
    assert "NonCOVID.txt are not" not in told


# ----------------------------------------------------------------------------------------------------------- Excel


def workbook(path: Path, rows: list[list[Any]], formats: dict[str, str] | None = None) -> Path:
    book = Workbook()
    for row in rows:
        book.active.append(row)
    for cell, number_format in (formats or {}).items():
        book.active[cell].number_format = number_format
    book.save(path)
    return path


def test_cells_of_excel_are_read_as_they_are_shown(tmp_path: Path) -> None:
    rows = [
        [None],
        ["Patient ID", " Label ", None],
        [4711, 1],
        [4712.0, 1.0],
        [4713, "a"],
        [None, None],
        ["=1+1", 0.5],
        [12345678901234567, True],
        [datetime.date(2024, 3, 1), "b"],
    ]
    table = read_table(workbook(tmp_path / "a.xlsx", rows, {"A5": "0000000"}))
    assert list(table.columns) == ["Patient ID", " Label "]
    assert list(table.index) == [3, 4, 5, 7, 8, 9]
    assert list(table["Patient ID"])[:3] == ["4711", "4712", "0004713"]
    assert list(table[" Label "])[:4] == ["1", "1", "a", "0.5"]
    assert "15 digits" in table["Patient ID"][8].reason
    assert "TRUE or FALSE" in table[" Label "][8].reason
    assert "date" in table["Patient ID"][9].reason


def test_it_is_the_content_that_tells_a_workbook(images: Path, tmp_path: Path) -> None:
    rows = [["image", "label"], *([path_of(n), HALVES[n]] for n in range(40))]
    workbook(tmp_path / "a.xlsx", rows).rename(tmp_path / "a.csv")
    assert make_datalist(images, tmp_path / "a.csv").class_names == ("healthy", "ill")
    for content in (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), b"PK\x03\x04" + bytes(600)):
        (tmp_path / "c.xls").write_bytes(content)
        assert "cannot be read" in said(images, tmp_path / "c.xls")


def test_what_excel_made_of_text_is_told_by_row_and_column(images: Path, tmp_path: Path) -> None:
    rows: list[list[Any]] = [["image", "label", "note"], *([path_of(n), HALVES[n], True] for n in range(40))]
    rows[3][1], rows[5][1], rows[7][1] = datetime.date(2024, 3, 1), True, None
    told = said(images, workbook(tmp_path / "a.xlsx", rows))
    assert "row 4: the cell below 'label' is a date" in told
    assert "row 6: the cell below 'label' is TRUE or FALSE" in told
    assert "row 8: no label" in told
    assert "note" not in told


def test_headers_may_be_written_in_many_ways(images: Path, tmp_path: Path) -> None:
    for header in (("File Name", "CLASS"), ("file_path", "Class "), ("\ufeffImage", "label"), ("ＦＩＬＥ", "Label")):
        assert len(make_datalist(images, sheet(tmp_path / "a.csv", HALVES, header)).training) > 20
    path = tmp_path / "excel.csv"
    lines = ["sep=;", "image;label", *(f"{path_of(n)};{HALVES[n]}" for n in range(40))]
    path.write_text("\r\n".join(lines), encoding="utf-8")
    assert make_datalist(images, path).class_names == ("healthy", "ill")


# ------------------------------------------------------------------------------------------------- classes alike


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mass", "mass"),
        ("1", "1.0"),
        ("no mass", "no_mass"),
        ("COVID-19", "covid 19"),
        (unicodedata.normalize("NFKC", "Ｍass"), "Ｍass"),
    ],
)
@pytest.mark.parametrize("kind", ["sheet", "json", "folders"])
def test_classes_that_look_alike_are_told(kind: str, one: str, other: str, images: Path, tmp_path: Path) -> None:
    labels = [one, "clear"] * 18 + [other] * 4
    if kind == "folders":
        root = tmp_path / "classes"
        for number, label in enumerate(labels):
            (root / label).mkdir(parents=True, exist_ok=True)
            (images / path_of(number)).rename(root / label / f"{number}.png")
        with pytest.raises(DataListError) as caught:
            make_datalist(root)
        told = str(caught.value)
    else:
        path = sheet(tmp_path / "a.csv", labels) if kind == "sheet" else json_list(tmp_path / "a.json", labels)
        told = said(images, path)
        assert ("rows 38-41" if kind == "sheet" else "item") in told
        assert "differ only" not in said(images, path, class_names=["x", "y"])
    assert f"{one!r}, {other!r} differ only in how they are written" in told


def test_one_class_in_two_forms_that_nobody_sees_is_one(images: Path, tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "Rückfall") for form in ("NFC", "NFD")]
    path = sheet(tmp_path / "a.csv", [*forms, "clear", " cl\u200bear"] * 10)
    assert make_datalist(images, path).class_names == ("Rückfall", "clear")
    assert make_datalist(images, path, [forms[1], "clear"]).class_names == ("Rückfall", "clear")


def test_a_class_that_is_nearly_named_is_pointed_to(images: Path, tmp_path: Path) -> None:
    path = sheet(tmp_path / "a.csv", ["mass", "clear"] * 20)
    assert "label 'mass' is not among the class names ['Mass', 'clear']; is 'Mass' meant?" in said(
        images, path, class_names=["Mass", "clear"]
    )
    root = tmp_path / "classes"
    for number in range(40):
        folder = root / ("mass", "clear", "other")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (images / path_of(number)).rename(folder / f"{number}.png")
    with pytest.raises(DataListError, match="the folder 'mass' is not among the class names: is 'Mass' meant"):
        make_datalist(root, class_names=["Mass", "clear", "other"])


def test_what_is_alike_and_what_is_not() -> None:
    for same in (("Mass", " MASS"), ("1", "1.0", "01"), ("Ä", "A\u0308", "ä"), ("no-tumor", "No tumor", "no_tumor")):
        assert len(set(map(name_key, same))) == 1
    for name, other in (("grade 1", "grade -1"), ("HER2+", "HER2-"), ("1-2", "12"), ("0.5", "5"), ("a", "b")):
        assert name_key(name) != name_key(other)


# ------------------------------------------------------------------------------------------------- what would match


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda n: path_of(n).replace("/", "\\"), "with / in place of \\"),
        (lambda n: unicodedata.normalize("NFD", path_of(n)), "with accents stored in the other way"),
        (lambda n: path_of(n).upper(), "in other case"),
        (lambda n: path_of(n)[:-4], "with another ending, or with one"),
        (lambda n: path_of(n).replace(".png", ".jpg"), "with another ending, or with one"),
        (lambda n: f"Süd/{n}.png", "with leading zeros: store the column as text"),
        (lambda n: f"Süd/{n}.0", "without .0 and with another ending, or with one and with leading zeros: store"),
        (lambda n: f"/home/smith/Süd/{n:04d}.png", "without the folders before it that are not in dataset_dir"),
        (lambda n: f"D:\\Smith\\Süd\\{n:04d}.png", "with / in place of \\ and without the folders before it"),
        (lambda n: f"{n:04d}.png", "with the folders of dataset_dir before it"),
        (lambda n: f"/home/smith/archive/{n:04d}.png", "by the file's name alone, in another folder"),
        (lambda n: f"D:\\Smith\\{n:04d}.png", "with / in place of \\ and by the file's name alone, in another folder"),
        (lambda n: f"S%C3%BCd/{n:04d}.png", "with %20 and the like as what they stand for"),
    ],
)
def test_paths_that_match_nothing(change: Any, told: str, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "label"), *((change(n), HALVES[n]) for n in range(40))])
    found = said(images, path)
    assert "rows 2-41: the image does not exist below dataset_dir" in found
    assert "40 of the rows that match nothing would match" in found
    assert told in found
    assert "smith" not in found.lower()


def test_no_advice_where_nothing_or_too_much_would_match() -> None:
    assert near_paths(["x.png", "a/1.png"], ["b/1.png", "c/1.png", "y.png"]) == {}
    found = near_paths(
        ["/other/ill/1.png", "/other/ILL/2.png", "/other/1.png"], ["ill/1.png", "well/1.png", "ill/2.png"]
    )
    assert found == {
        "/other/ill/1.png": "without the folders before it that are not in dataset_dir",
        "/other/ILL/2.png": "by the file's name alone, in another folder",
    }
    assert near_ids(["4711", "x"], {"5"}.__contains__) == {}


@pytest.mark.parametrize(
    ("ids", "written", "told"),
    [
        ("00{:05d}", "{}", "with leading zeros: store the column as text"),
        ("00{:05d}", "{}.0", "without .0 and with leading zeros: store the column as text"),
        ("{}", "{:07d}", "without leading zeros"),
        ("12345{:07d}", "1.2345{:07d}E+11", "written out, not as 4.7E+03: store the column as text"),
        ("Smith-{:03d}", "smith-{:03d}", ""),
        ("SMITH-{:03d}", "smith-{:03d}", "in other case"),
        ("SMITH-{:03d}", "SMITH_{:03d}", "with other separators or none"),
        ("{:07d}", "{:07d}^^^Hospital", "without what follows ^"),
    ],
)
def test_ids_that_match_nothing(ids: str, written: str, told: str, tmp_path: Path) -> None:
    for number in range(1, 5):
        identity = ids.format(number)
        make_series(
            tmp_path / "data" / str(number),
            slices=1,
            seed=number,
            change=lambda k, ds, identity=identity: setattr(ds, "PatientID", identity),
        )
    path = tmp_path / "a.csv"
    lines = ["PatientID,label", *(f"{written.format(number)},{'ab'[number % 2]}" for number in range(1, 5))]
    path.write_text("\n".join(lines))
    found = said(tmp_path / "data", path)
    assert "no DICOM series of this patient" in found
    assert (f"4 of the rows that match nothing would match {told}" in found) is bool(told)
    assert "smith" not in found.lower()


def test_a_study_uid_in_place_of_a_series_uid(tmp_path: Path) -> None:
    make_series(tmp_path / "data", slices=1, change=lambda k, ds: setattr(ds, "StudyInstanceUID", "1.2.3.4"))
    path = tmp_path / "a.csv"
    path.write_text("SeriesInstanceUID,label\n1.2.3.4,a\n")
    assert "1 of the rows that match nothing would match as a StudyInstanceUID" in said(tmp_path / "data", path)
