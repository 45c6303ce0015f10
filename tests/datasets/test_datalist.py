"""From a sheet, or from class folders, to training, validation and test lists."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from monai_rd.datasets import DataListError, make_datalist
from monai_rd.dicom import index_dicom
from tests.datasets.labelled_files import labelled, names, picture, rows_of, table


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


def test_a_folder_of_nothing_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataListError, match="Give one of: a CSV or Excel sheet with the columns image,label"):
        make_datalist(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        make_datalist(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        make_datalist(tmp_path, tmp_path / "absent.csv")


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


def test_the_same_image_under_another_label(images: Path) -> None:
    table(images / "labels.csv", [*rows_of(), ("00.png", "clear"), ("./04.png", "covid")])
    with pytest.raises(DataListError) as caught:
        make_datalist(images)
    assert "row 42: the same image stands in an earlier row with another label" in str(caught.value)
    assert "row 43: the same image stands in an earlier row\n" in str(caught.value) + "\n"
