"""Unlabelled studies of several roles; nothing of validation or test is among them, not even in one role."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from monai_rd.datasets import DataListError, make_datalist, write_datalist
from monai_rd.datasets.splits import SPLITS
from tests.datasets.test_role_lists import KEY, as_json, as_sheet, entries
from tests.role_files import write_views
from tests.two_views import ROLES, write_two_views

CLASSES = ("NORMAL", "PNEUMONIA")


def named(items: list[Any]) -> set[frozenset[str]]:
    return {frozenset(Path(file).name for file in item["image"].values()) for item in items}


def test_each_image_of_an_unlabelled_study_is_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = entries(tmp_path)  # of each three one is of training, one of validation, one of test
    pool = {number: write_views(tmp_path, number) for number in range(100, 108)}
    lateral = Image.open(tmp_path / made[5]["image"]["lateral"])
    lateral.save(tmp_path / pool[101]["lateral"])  # equal to one of the test set
    scene = Image.effect_mandelbrot((96, 96), (-2, -1.5, 1, 1.5), 60)
    scene.save(tmp_path / made[4]["image"]["lateral"])
    scene.resize((80, 80)).save(tmp_path / pool[102]["pa"])  # nearly one of validation
    pool[103]["pa"] = made[3]["image"]["pa"]  # of training
    pool[104]["lateral"] = pool[100]["lateral"]
    (tmp_path / pool[105]["pa"]).write_bytes(b"\x89PNG damaged")
    (tmp_path / pool[106]["pa"]).rename(tmp_path / "P-11_pa.png")
    pool[106]["pa"] = "P-11_pa.png"
    del pool[107]["pa"]
    unlabelled = [{"image": images} for images in pool.values()]
    path = as_json(tmp_path / "list.json", made)
    path.write_text(json.dumps({**json.loads(path.read_text()), "unlabeled": unlabelled}))
    for _ in range(2):  # the second time from the database
        caplog.clear()
        with caplog.at_level(logging.INFO, "monai_rd.datasets"):
            lists = make_datalist(tmp_path, path, key=KEY, cache_dir=tmp_path / "cache")
        assert named(lists.unlabelled) == {frozenset(pool[100].values()), frozenset(pool[107].values())}
        (told,) = (text for text in caplog.messages if text.startswith("unlabelled:"))
        assert set(told.removeprefix("unlabelled: 2 of 8 images; left out: ").split("; ")) == {
            "1 equal to an image of validation or test",
            "1 near duplicate of an image of validation or test",
            "1 in the training list",
            "1 there twice",
            "1 not readable (1 UNREADABLE_IMAGE)",
            "1 with the ID of a patient of validation or test in their path",
        }
    write_datalist(lists, tmp_path, tmp_path / "written.json", KEY)
    assert named(make_datalist(tmp_path, tmp_path / "written.json", key=KEY).unlabelled) == named(lists.unlabelled)


def test_a_folder_of_dicom_by_the_same_rule(tmp_path: Path) -> None:
    data, pool = tmp_path / "data", tmp_path / "pool"
    for number in range(12):
        label = CLASSES[number % 2]
        write_two_views(data / ("train", "val", "test")[number // 2 % 3] / label, label, number)
    known = write_two_views(pool, "NORMAL", 50)[0], write_two_views(pool, "NORMAL", 51, ("LL",))[0]
    write_two_views(pool, "PNEUMONIA", 4)  # of the test set
    write_two_views(pool, "NORMAL", 52, ("TAN",))
    lists = make_datalist(data, series_rule=ROLES, unlabelled=pool)
    assert {item["id"]: list(item["image"]) for item in lists.unlabelled} == {
        known[0]: ["pa", "lateral"],
        known[1]: ["lateral"],
    }
    write_datalist(lists, tmp_path, tmp_path / "list.json", KEY)
    again = make_datalist(tmp_path, tmp_path / "list.json", series_rule=ROLES, key=KEY)
    assert [item["id"] for item in again.unlabelled] == [item["id"] for item in lists.unlabelled]


@pytest.mark.parametrize("as_list", [as_json, as_sheet])
def test_what_does_not_fit_is_refused(as_list: Callable[..., Path], tmp_path: Path) -> None:
    made = entries(tmp_path)
    path = as_list(tmp_path / ("list.json" if as_list is as_json else "list.csv"), made)
    pool = tmp_path / "pool"
    write_views(pool, 99)
    with pytest.raises(ValueError, match="has no rule that selects its images in a folder"):
        make_datalist(tmp_path, path, unlabelled=pool)
    for text, told in (
        ("image\npool/99_pa.png", "names one image, and there are the roles"),
        ("image:ap\npool/99_pa.png", "the list names the role 'ap'"),
    ):
        (tmp_path / "more.csv").write_text(text)
        with pytest.raises(DataListError, match=told):
            make_datalist(tmp_path, path, unlabelled=tmp_path / "more.csv")
    rows = [f"{next(iter(one['image'].values()))},{one['label']},{SPLITS[n % 3]}" for n, one in enumerate(made)]
    (tmp_path / "single.csv").write_text("\n".join(["image,label,split", *rows]))
    (tmp_path / "more.csv").write_text("image:pa\npool/99_pa.png")
    with pytest.raises(DataListError, match="are studies of several roles, and the labelled ones are single images"):
        make_datalist(tmp_path, tmp_path / "single.csv", unlabelled=tmp_path / "more.csv")
