"""Lists of studies whose images are files, one for each role."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from monai_rd.datasets import DataListError, labelled_studies, make_datalist, studies_to_score, write_datalist
from monai_rd.datasets.splits import SPLITS
from monai_rd.dicom import SeriesRule
from tests.role_files import write_views
from tests.two_views import ROLES, write_two_views

KEY = b"k" * 32
VIEWS: dict[str, Any] = {"roles": {"pa": None, "lateral": None}}


def entries(root: Path, count: int = 12) -> list[dict[str, Any]]:
    """Two views of each patient; of every fourth a lateral one alone."""
    made = []
    for number in range(count):
        images = write_views(root, number, ("pa", "lateral") if number % 4 else ("lateral",))
        made.append({"image": images, "label": ["healthy", "ill"][number % 2], "patient": f"P-{number}"})
    return made


def as_json(path: Path, made: list[dict[str, Any]]) -> Path:
    content = {split: made[place::3] for place, split in enumerate(SPLITS)}
    path.write_text(json.dumps(content))
    return path


def as_sheet(path: Path, made: list[dict[str, Any]], **names: str) -> Path:
    rows = [
        {
            **{names.get(role, f"image:{role}"): one["image"].get(role) for role in ("pa", "lateral")},
            "label": one["label"],
            "patient": one["patient"],
            "split": SPLITS[place % 3],
        }
        for place, one in enumerate(made)
    ]
    table = pd.DataFrame(rows)
    table.to_excel(path, index=False) if path.suffix == ".xlsx" else table.to_csv(path, index=False)
    return path


def test_a_list_a_sheet_and_a_workbook_name_the_same_studies(tmp_path: Path) -> None:
    made = entries(tmp_path)
    lists = [
        make_datalist(tmp_path, path, key=KEY)
        for path in (
            as_json(tmp_path / "list.json", made),
            as_sheet(tmp_path / "rows.csv", made),
            as_sheet(tmp_path / "rows.xlsx", made, pa="Path: pa"),
        )
    ]
    assert all(one.series_roles is not None and set(one.series_roles["roles"]) == {"pa", "lateral"} for one in lists)
    for place, split in enumerate(SPLITS):
        for number, item in enumerate(lists[0][split]):
            asked = made[place::3][number]["image"]
            assert item["image"] == {role: str(tmp_path / file) for role, file in asked.items()}
            assert (item["id"], item["series"]) == ("", "")
    assert lists[1].series_roles == lists[2].series_roles == VIEWS
    assert lists[0].test == lists[1].test == lists[2].test
    assert lists[0].identity() == lists[1].identity()
    other = as_json(tmp_path / "other.json", [{**one, "image": dict(list(one["image"].items())[:1])} for one in made])
    assert make_datalist(tmp_path, other, key=KEY).identity() != lists[0].identity()


def test_a_rule_orders_the_roles_and_names_them_all(tmp_path: Path) -> None:
    path = as_sheet(tmp_path / "rows.csv", entries(tmp_path))
    turned = make_datalist(tmp_path, path, series_rule={"roles": {"lateral": None, "pa": None}})
    assert {tuple(item["image"]) for item in turned.training} == {("lateral", "pa"), ("lateral",)}
    assert make_datalist(tmp_path, path, series_rule=ROLES).series_roles == ROLES
    with pytest.raises(DataListError, match="the list names the role 'pa'; the roles are ap, lateral"):
        make_datalist(tmp_path, path, series_rule={"roles": {"ap": None, "lateral": None}})
    with pytest.raises(DataListError, match="the series rule has no roles: leave the rule out"):
        make_datalist(tmp_path, path, series_rule={"modality": "DX"})
    assert SeriesRule.of(VIEWS).roles_config == VIEWS  # type: ignore[union-attr]


def test_a_written_list_is_read_again(tmp_path: Path) -> None:
    """A path that holds the ID of its patient is written as a hash, for one role of a study as for all."""
    made = entries(tmp_path)
    named = made[1]["image"]["pa"]
    (tmp_path / named).rename(tmp_path / "P-1_pa.png")
    made[1]["image"]["pa"] = "P-1_pa.png"
    lists = make_datalist(tmp_path, as_json(tmp_path / "list.json", made), key=KEY)
    write_datalist(lists, tmp_path, tmp_path / "written.json", KEY)
    text = (tmp_path / "written.json").read_text()
    assert "P-1_pa" not in text
    (hashed,) = (one for split in SPLITS for one in json.loads(text)[split] if "sha256" in one)
    assert (list(hashed["image"]), list(hashed["sha256"])) == (["lateral"], ["pa"])
    again = make_datalist(tmp_path, tmp_path / "written.json", key=KEY)
    for split in SPLITS:
        assert [item["image"] for item in again[split]] == [item["image"] for item in lists[split]]
        assert [item["patient"] for item in again[split]] == [item["patient"] for item in lists[split]]


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    made = entries(tmp_path)
    write_two_views(tmp_path, "NORMAL", 1)
    (tmp_path / "a.webp").touch()
    wrong: list[Any] = [
        {"pa": "none.png"},
        {"pa": "../outside.png"},
        {"pa": "0_lateral.png", "lateral": "0_lateral.png"},
        {"pa": "1_0.dcm"},
        {"pa": "a.webp", "lateral": "1_lateral.png"},
        {},
        {"pa": None, "lateral": ""},
        "1_pa.png",
        {"pa": 3},
        {"pa": "1_pa.png"},
    ]
    (tmp_path.parent / "outside.png").touch()
    made += [{"image": one, "label": "ill"} for one in wrong]
    content = {"training": made, "validation": [], "test": []}
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(DataListError) as error:
        make_datalist(tmp_path, tmp_path / "list.json")
    told = str(error.value)
    for rows, message in {
        "item 13": "the image does not exist",
        "item 14": "the image lies outside dataset_dir",
        "item 15": "one file is named for two roles",
        "item 16": "a role names DICOM: name its study, and give a --series_rule with the roles",
        "item 17": "UNREADABLE_IMAGE",
        "items 18-19": "NO_ROLE: names no image for any role",
        "item 20": "names one image, and there are the roles",
        "item 21": "'pa' is a number: give a text",
        "item 22": "the same image stands in an earlier row",
    }.items():
        assert f"{rows}: {message}" in told


def test_a_study_without_a_role_is_left_out_by_the_policy(tmp_path: Path) -> None:
    made = entries(tmp_path)
    made[4]["image"] = {}
    path = as_sheet(tmp_path / "rows.csv", made)
    assert sum(len(make_datalist(tmp_path, path, policy={"NO_ROLE": "skip"})[split]) for split in SPLITS) == 11
    for text in ("image,image:pa,label\n", "image:pa,image:pa,label\n"):
        (tmp_path / "twice.csv").write_text(text + "a.png,b.png,ill\n")
        with pytest.raises(DataListError, match=r"more than one column of image"):
            make_datalist(tmp_path, tmp_path / "twice.csv")
    (tmp_path / "name.csv").write_text("image:left MLO,label\na.png,ill\n")
    with pytest.raises(ValueError, match="the role 'left MLO' may have letters, digits"):
        make_datalist(tmp_path, tmp_path / "name.csv")


@pytest.mark.parametrize("name", ["new.csv", "new.json"])
def test_studies_to_score(name: str, tmp_path: Path) -> None:
    made = entries(tmp_path, 5)
    without = [{"image": one["image"]} for one in made]
    if name == "new.json":
        (tmp_path / name).write_text(json.dumps({"test": without}))
    else:
        pd.DataFrame([{f"image:{r}": f for r, f in one["image"].items()} for one in made]).to_csv(tmp_path / name)
    found = studies_to_score(tmp_path / name, series_rule=VIEWS)
    assert [item["image"] for item in found.items] == [
        {role: str(tmp_path / one["image"][role]) for role in ("pa", "lateral") if role in one["image"]} for one in made
    ]
    assert len({item["id"] for item in found.items}) == 5
    assert all(item["id"].startswith(f"{n}-") for n, item in enumerate(found.items, start=1))
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    (tmp_path / name).rename(elsewhere / name)
    assert studies_to_score(tmp_path, elsewhere / name, series_rule=VIEWS).items == found.items
    with pytest.raises(DataListError, match="the image does not exist"):
        studies_to_score(elsewhere / name, series_rule=VIEWS)
    with pytest.raises(ValueError, match="the role 'pa' has no rule that selects its images in a folder: give a list"):
        studies_to_score(tmp_path, series_rule=VIEWS)
    (elsewhere / "empty.json").write_text('{"test": []}')
    with pytest.raises(DataListError, match="the list names no study that can be read"):
        studies_to_score(elsewhere / "empty.json")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        studies_to_score(tmp_path, tmp_path / "none.csv")


def test_labelled_studies_have_ids_of_all_their_files(tmp_path: Path) -> None:
    made = entries(tmp_path)
    path = as_sheet(tmp_path / "rows.csv", made)
    first = labelled_studies(tmp_path, path, series_rule=VIEWS).items
    Image.new("L", (9, 9)).save(tmp_path / next(iter(made[2]["image"].values())))
    second = labelled_studies(tmp_path, path, series_rule=VIEWS).items
    assert [a["id"] == b["id"] for a, b in zip(first, second, strict=True)] == [False, True, True, True]
