"""Which studies of scores files belong to a week."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_rd.drift import read_weeks
from monai_rd.inference import Prediction, write_scores
from tests.drift.streams import MODEL, NAMES, studies

KNOWN = {"sha256": MODEL, "temperature": 1.0}


def test_a_study_counts_once_and_weeks_begin_on_monday(tmp_path: Path) -> None:
    one, two, three, again = studies(np.random.default_rng(0), 4)
    sunday, monday, late = "2026-03-08", "2026-03-09", "2026-03-29"
    none = Prediction("9", "9", one.study, problem="LOCALIZER", model=MODEL, scored=sunday)
    alone = replace(none, id="10", study="10")
    first = [replace(one, scored=sunday), replace(two, study=three.study, scored=monday), none, alone]
    second = [replace(one, scored=late), replace(three, scored=monday), replace(again, scored=late)]
    write_scores(tmp_path / "a.csv", first, NAMES, KNOWN)
    write_scores(tmp_path / "b.csv", second, NAMES, KNOWN)
    paths = [tmp_path / name for name in ("a.csv", "a.json", "b.csv")]
    found = read_weeks(paths)
    assert [week.monday for week in found] == [date(2026, 3, day) for day in (2, 9, 16, 23)]
    assert [len(week.scored) for week in found] == [1, 1, 0, 1]
    assert [week.problems for week in found] == [["LOCALIZER"], [], [], []]
    assert found == read_weeks(reversed(paths))
    assert found[0].scored[0].facts == one.facts
    assert found[1].scored[0].id in (two.id, three.id)
    assert [len(week.scored) for week in read_weeks(paths, since=date(2026, 3, 9))] == [1, 0, 1]
    with pytest.raises(ValueError, match="no study in these scores files since 2026-04-01"):
        read_weeks(paths, since=date(2026, 4, 1))


def unscored(content: Any) -> None:
    del content["studies"][0]["scored"]


def of_another_model(content: Any) -> None:
    content["model"]["sha256"] = "cd" * 32


def of_other_classes(content: Any) -> None:
    for row in content["studies"]:
        row["probabilities"] = {"clear": 0.5, "nodule": 0.5}


def of_another_kind(content: Any) -> None:
    del content["studies"][1]["probabilities"]


def of_no_day(content: Any) -> None:
    content["studies"][0]["scored"] = "yesterday"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (unscored, r"b.json: has no day 'scored', as older versions wrote none; score its studies again"),
        (of_another_model, r"b.json is of another model.pt than .*a.json: give the scores of one student"),
        (of_other_classes, r"b.json has other classes than the files before it"),
        (of_another_kind, r"b.json is damaged, or no scores file of `monai-rd predict`"),
        (of_no_day, r"b.json is damaged, or no scores file of `monai-rd predict`"),
    ],
)
def test_files_that_do_not_fit_are_named(change: Callable[[Any], None], told: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a.csv", "b.csv"):
        write_scores(tmp_path / name, studies(random, 3), NAMES, KNOWN)
    content = json.loads((tmp_path / "b.json").read_text())
    change(content)
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=told):
        read_weeks([tmp_path / "a.csv", tmp_path / "b.csv"])
    with pytest.raises(FileNotFoundError, match=r"no scores file '.*c.json'"):
        read_weeks([tmp_path / "c.csv"])
