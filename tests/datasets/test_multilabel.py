"""Lists whose items have several classes, or none: from sheets and JSON, split, written, audited."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from monai.data import load_decathlon_datalist

from monai_rd.datasets import DataList, DataListError, make_datalist, make_folds, write_datalist
from monai_rd.datasets.splits import SPLITS
from tests.datasets.labelled_files import KEY, table


def cell(number: int) -> str:
    """Of 40 images 14 with a, 20 with b, 10 with c, some with a and another, some with none."""
    named = [name for name, has in (("a", number % 3 == 0), ("b", number % 2 == 0), ("c", number % 4 == 1)) if has]
    return "|".join(named)


def rows_of(label: Callable[[int], str] = cell, each: int = 1) -> list[tuple[str, ...]]:
    """Rows of 40 images, so many of each patient."""
    return [("image", "label", "patient"), *((f"{n:02d}.png", label(n), f"P{n // each}") for n in range(40))]


def named(made: DataList, item: dict) -> str:
    return "|".join(made.class_names[index] for index in made.classes(item))


@pytest.mark.parametrize("empty", ["", "No Finding", "none", "NONE "])
def test_a_sheet_with_several_classes_in_a_cell(images: Path, empty: str) -> None:
    table(images / "labels.csv", rows_of(lambda n: cell(n).replace("|", " | ") or empty))
    made = make_datalist(images)
    assert made.multi_label
    assert made.class_names == ("a", "b", "c")
    for split in SPLITS:
        for item in made[split]:
            assert named(made, item) == cell(int(Path(item["image"]).stem))
            assert len(item["label"]) == 3
            assert set(map(type, item["label"])) == {float}
    assert [sum(made.class_counts(split)[n] for split in SPLITS) for n in range(3)] == [14, 20, 10]
    without = sum(not any(item["label"]) for item in made.test)
    a, b, c = made.class_counts("test")
    assert f"test {len(made.test)} ({a} a, {b} b, {c} c, {without} without any)" in str(made)


def test_every_class_has_its_share_of_every_split(images: Path) -> None:
    table(images / "labels.csv", rows_of())
    for seed in range(6):
        made = make_datalist(images, seed=seed)
        assert [made.class_counts(split)[2] for split in SPLITS] == [6, 2, 2], "the rarest"
        assert min(made.class_counts("test")) >= 2


def test_patients_stay_on_one_side(images: Path) -> None:
    table(images / "labels.csv", rows_of(each=2))
    for seed in range(4):
        made = make_datalist(images, seed=seed)
        sides = [{item["patient"] for item in made[split]} for split in SPLITS]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 20
    for fold in make_folds(images, 4):
        assert fold.multi_label
        sides = [{item["patient"] for item in fold[split]} for split in SPLITS]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 20
        assert min(fold.class_counts("test")) >= 1


def test_a_column_of_0_and_1_for_each_class(images: Path) -> None:
    header = ("image", "C", "a", "b", "age")
    rows = [(f"{n:02d}.png", *(str(int(name in cell(n))) for name in "cab"), "50") for n in range(40)]
    table(images / "labels.csv", [header, *rows])
    made = make_datalist(images, class_names=["a", "b", "c"])
    assert made.multi_label
    assert made.class_names == ("a", "b", "c")
    assert all(named(made, item) == cell(int(Path(item["image"]).stem)) for s in SPLITS for item in made[s])
    table(images / "labels.csv", [header, *rows[:-1], ("39.png", "1", "-1", "", "50")])
    with pytest.raises(DataListError, match=r"(?s)row 41: the column 'a' holds neither.*row 41: the column 'b' holds"):
        make_datalist(images, class_names=["a", "b", "c"])
    with pytest.raises(DataListError, match=r"needs the columns 'label'.*name the classes .class_names"):
        make_datalist(images)


def test_one_class_in_every_cell_stays_single_label(images: Path) -> None:
    table(images / "labels.csv", rows_of(lambda n: ["none", "a"][n % 2]))
    made = make_datalist(images)
    assert not made.multi_label
    assert made.class_names == ("a", "none")
    assert made.training[0]["label"] in (0, 1)


def test_everything_wrong_with_multi_label_rows_is_said_at_once(images: Path) -> None:
    rows = [("image", "label", "split"), *((f"{n:02d}.png", cell(n), SPLITS[n % 3]) for n in range(38))]
    table(images / "labels.csv", [*rows, ("38.png", "a|No Finding", "training"), ("00.png", "d|a", "test")])
    with pytest.raises(DataListError) as caught:
        make_datalist(images, class_names=["a", "b", "c"])
    for words in (
        "row 40: the label names classes and says that there is none",
        "row 41: label 'd' is not among the class names ['a', 'b', 'c']",
        "row 41: the same image stands in an earlier row with another label",
        "class 'a' has no item in test",
        "every item of training has class 'a'",
    ):
        assert words in str(caught.value)
    assert "validation" not in str(caught.value), "which need not have every class"


def test_few_data_are_said_to_be_few(images: Path) -> None:
    table(images / "labels.csv", rows_of(lambda n: "a|b" if n < 5 else "a"))
    with pytest.raises(DataListError, match=r"class 'b' has 5 patients .*; a split needs at least 10"):
        make_datalist(images)
    table(images / "labels.csv", rows_of(lambda n: "a|b" if n % 2 else "a"))
    with pytest.raises(DataListError, match="every item of test has class 'a'; the data are too few"):
        make_datalist(images)


@pytest.mark.parametrize("by", ["index", "name"])
def test_json(by: str, images: Path, tmp_path: Path) -> None:
    content: dict = {"class_names": ["a", "b", "c"], "multi_label": True, **{split: [] for split in SPLITS}}
    for n in range(40):
        own = cell(n).split("|") if cell(n) else []
        label = own if by == "name" else ["abc".index(name) for name in own]
        content[SPLITS[n % 7 // 3]].append({"image": f"{n:02d}.png", "label": label})
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))
    made = make_datalist(images, path)
    assert made.multi_label
    assert all(named(made, item) == cell(int(Path(item["image"]).stem)) for s in SPLITS for item in made[s])
    write_datalist(made, images, tmp_path / "again.json", KEY)
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["multi_label"] is True
    assert [entry["label"] for entry in again["test"]] == [list(made.classes(item)) for item in made.test]
    assert make_datalist(images, tmp_path / "again.json") == made
    assert len(load_decathlon_datalist(str(tmp_path / "again.json"), True, "test")) == len(made.test)


@pytest.mark.parametrize(
    ("multi_label", "label", "said"),
    [
        (True, [1.0, 0.0], r"item 1: a multi-label label lists class indices or names, each once; it is no vector"),
        (True, [0, 1, 1], "each once; it is no vector"),
        (True, [True], "each once; it is no vector"),
        (True, 1, "each once; it is no vector"),
        (True, [7], "label '7' is not among the class names"),
        (False, [0], 'item 1: the label is a list: a multi-label data list says so, "multi_label": true'),
    ],
)
def test_wrong_labels_in_json(multi_label: bool, label: object, said: str, images: Path, tmp_path: Path) -> None:
    right = [0] if multi_label else 0
    content = {"class_names": ["a", "b"], "multi_label": multi_label, "validation": [], "test": []}
    content["training"] = [{"image": "00.png", "label": label}, {"image": "01.png", "label": right}]
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(DataListError, match=said):
        make_datalist(images, tmp_path / "list.json")
