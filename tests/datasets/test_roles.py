"""Lists of studies of several roles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from PIL import Image

from monai_rd.cache.file_hashes import item_keys
from monai_rd.datasets import DataList, DataListError, find_studies, make_datalist, make_folds, write_datalist
from monai_rd.datasets.splits import SPLITS
from monai_rd.datasets.studies import files_of_item
from tests.two_views import ROLES, write_two_views

CLASSES = ("NORMAL", "PNEUMONIA")
KEY = b"k" * 32


def cohort(root: Path, each: int = 10) -> dict[str, dict[str, Path]]:
    """Studies in a folder for each class, every fifth with one view alone; their files by StudyInstanceUID."""
    made = {}
    for number in range(2 * each):
        views = ("LL",) if number % 5 == 0 else ("PA", "LL")
        uid, files = write_two_views(root / CLASSES[number % 2], CLASSES[number % 2], number, views, 1 + number % 2)
        made[uid] = files
    return made


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Path]]]:
    root = tmp_path_factory.mktemp("studies")
    return root, cohort(root)


Studies = tuple[Path, dict[str, dict[str, Path]]]


def test_each_study_is_one_item(studies: Studies) -> None:
    root, made = studies
    found = find_studies(root, series_rule=ROLES)
    assert {item["id"] for item in found.items} == {item["study"] for item in found.items} == set(made)
    assert not found.problems
    for item in found.items:
        files = made[item["id"]]
        assert [[str(files[view])] for view in ("PA", "LL") if view in files] == list(item["image"].values())
        assert files_of_item(item) == tuple(Path(one) for (one,) in item["image"].values())
        assert item["modality"] == "DX"
    assert {len(item["series"].split("|")) for item in found.items} == {1, 2}


def test_a_studys_views_are_in_one_split(studies: Studies) -> None:
    root, made = studies
    lists = [make_datalist(root, series_rule=ROLES, seed=3), *make_folds(root, 3, series_rule=ROLES)]
    for one in lists:
        where = [item["id"] for split in SPLITS for item in one[split]]
        assert sorted(where) == sorted(made)
    alone = make_datalist(root, seed=3)  # without roles: views are items, and patients keep them together
    for split in SPLITS:
        others = {item["study"] for other in SPLITS if other != split for item in alone[other]}
        assert not {item["study"] for item in alone[split]} & others


def test_views_that_lie_in_two_splits_are_refused(tmp_path: Path) -> None:
    for number in range(8):
        for split, views in {"train": ("PA",), "test": ("LL",)}.items():
            write_two_views(tmp_path / split / CLASSES[number % 2], CLASSES[number % 2], number, views)
    with pytest.raises(DataListError, match="the patient stands in two splits"):
        make_datalist(tmp_path, series_rule=ROLES)


def test_a_list_names_studies_and_their_roles(studies: Studies, tmp_path: Path) -> None:
    root, _ = studies
    made = make_datalist(root, series_rule=ROLES, key=KEY)
    path = tmp_path / "list.json"
    write_datalist(made, root, path, KEY)
    assert {len(one["roles"]) for one in json.loads(path.read_text())["training"]} == {1, 2}
    assert make_datalist(root, path, series_rule=ROLES, key=KEY) == made
    other = {"roles": {"ap": {"view": "AP|PA"}, "lateral": {"view": "LL"}}}
    for rule in (None, {"modality": "DX"}, other):
        with pytest.raises(DataListError, match="the --series_rule that the list was made with"):
            make_datalist(root, path, series_rule=rule)


def rows(root: Path, text: str) -> Path:
    path = root / "rows.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("patient", lambda number, _: f"PHANTOM-{number}"),
        ("study", lambda number, _: f"1.2.{number + 1}"),
        ("StudyInstanceUID", lambda number, _: f"1.2.{number + 1}"),
        ("image", lambda number, _: f"{number}"),
    ],
)
def test_rows_of_a_sheet(column: str, value: Callable[[int, Path], str], tmp_path: Path) -> None:
    lines = [f"{column},label,split"]
    for number in range(12):
        write_two_views(tmp_path / str(number), CLASSES[number % 2], number)
        lines.append(f"{value(number, tmp_path)},{CLASSES[number % 2]},{SPLITS[number % 3]}")
    made = make_datalist(tmp_path, rows(tmp_path, "\n".join(lines)), series_rule=ROLES)
    assert [len(made[split]) for split in SPLITS] == [4, 4, 4]
    assert all(list(item["image"]) == ["pa", "lateral"] for split in SPLITS for item in made[split])


@pytest.mark.parametrize("column", ["image", "series"])
def test_a_row_of_one_image_is_refused(column: str, studies: Studies) -> None:
    root, _ = studies
    item = find_studies(root).items[0]
    name = item["series"] if column == "series" else Path(item["image"][0]).relative_to(root)
    with pytest.raises(DataListError, match="names one image, and there are the roles pa, lateral"):
        make_datalist(root, rows(root, f"{column},label\n{name},NORMAL\n"), series_rule=ROLES)


@pytest.mark.parametrize("uid", ["1.2.999", ""])
def test_a_study_that_is_not_there(uid: str, studies: Studies) -> None:
    root, _ = studies
    with pytest.raises(DataListError, match="no DICOM series with this StudyInstanceUID"):
        make_datalist(root, rows(root, f"study,label\n{uid},NORMAL\n"), series_rule=ROLES)


def test_a_study_without_a_role_and_a_picture(tmp_path: Path) -> None:
    cohort(tmp_path)
    lone, _ = write_two_views(tmp_path / "NORMAL", "NORMAL", 90, ("TAN",))
    Image.new("L", (40, 40)).save(tmp_path / "PNEUMONIA" / "a.png")
    found = find_studies(tmp_path, policy={"default": "skip"}, series_rule=ROLES)
    assert [one.code for one in found.problems] == ["NO_ROLE", "NO_ROLE"]
    assert found.problems[0].study_id == lone
    assert found.problems[1].study_id.startswith("1-")
    assert len(found.items) == 20
    with pytest.raises(DataListError, match="1 NO_ROLE"):
        make_datalist(tmp_path, series_rule=ROLES)
    assert len(make_datalist(tmp_path, series_rule=ROLES, policy={"NO_ROLE": "skip"}).training) > 8
    sheet = "\n".join(["patient,label", *(f"PHANTOM-{n},{CLASSES[n % 2]}" for n in (*range(20), 90))])
    with pytest.raises(DataListError, match="row 22: NO_ROLE: no image of the study fits"):
        make_datalist(tmp_path, rows(tmp_path, sheet), series_rule=ROLES)


def test_a_view_that_cannot_be_read_is_not_missing(tmp_path: Path) -> None:
    made = cohort(tmp_path)
    damaged = next(files["LL"] for files in made.values() if len(files) == 2)
    image = pydicom.dcmread(damaged)
    del image.Rows
    image.save_as(damaged)
    sheet = rows(tmp_path, "\n".join(["patient,label", *(f"PHANTOM-{n},{CLASSES[n % 2]}" for n in range(20))]))
    for source in (None, sheet):
        with pytest.raises(DataListError, match="TRUNCATED_PIXELS"):
            make_datalist(tmp_path, source, series_rule=ROLES)


def test_the_key_of_an_item_depends_on_its_roles(studies: Studies, tmp_path: Path) -> None:
    root, _ = studies
    item = next(one for one in find_studies(root, series_rule=ROLES).items if len(one["image"]) == 2)
    pa, lateral = item["image"].values()
    sources: list[Any] = [item["image"], {"pa": lateral, "lateral": pa}, {"pa": pa}, pa, [*pa, *lateral]]
    keys = item_keys(sources)
    assert len(set(keys)) == len(sources)
    assert "" not in keys
    for _ in range(2):  # from the database, the second time
        assert item_keys(sources, tmp_path / "hashes.sqlite") == keys


def test_equal_lists_have_equal_identities(studies: Studies) -> None:
    root, _ = studies
    made = make_datalist(root, series_rule=ROLES)
    assert made.identity() == make_datalist(root, series_rule=ROLES).identity()
    assert made.identity() != make_datalist(root, series_rule=ROLES, seed=5).identity()
    assert isinstance(made, DataList)
