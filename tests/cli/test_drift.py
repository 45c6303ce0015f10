"""`monai-rd drift`, as a person or cron runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from monai_rd.cli.app import app
from monai_rd.drift import Reference
from tests.drift.streams import MODEL, studies, weeks, written


def say(*words: object) -> Result:
    return CliRunner().invoke(app, ["drift", *map(str, words)])


@pytest.fixture
def known(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "reference.json"
    Reference.of(studies(np.random.default_rng(0), 120), MODEL, "validation set").write(path)
    return path


def test_cron_hears_of_a_change_and_of_nothing_else(known: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    made = weeks(random, *[{}] * 5, {"scanners": ["Maker C"]}, {"scanners": ["Maker C"]})
    page = ("--page", tmp_path / "page.html")
    quiet = [written(tmp_path / "quiet.csv", made[:3]), written(tmp_path / "more.csv", made[3:5])]
    done = say(*quiet, "--reference", known, *page)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0] == "reference: 120 studies of the validation set"
    assert f"0 of 5 weeks differ; page: {tmp_path / 'page.html'}" in done.output
    done = say(*quiet, written(tmp_path / "late.csv", made[5:]), "--reference", known, *page)
    assert done.exit_code == 4, done.output
    told = f"week of {made[5].monday}: scanner differs: Maker C in 100 % of 50 studies, other than in the reference; "
    assert told + "and in 1 later week\n" in done.output
    assert "2 of 7 weeks differ" in done.output
    text = (tmp_path / "page.html").read_text()
    assert told in text
    assert "<script" not in text
    assert not re.search("|".join(one.id for week in made for one in week.scored), text + done.output)
    accepted = say(tmp_path / "late.csv", *quiet, "--first-weeks", 1, "--since", made[5].monday, *page)
    assert accepted.exit_code == 0, accepted.output
    assert f"50 studies of the first 1 weeks, from {made[5].monday} on" in accepted.output


def test_a_statistic_that_the_reference_lacks_is_named(known: Path, tmp_path: Path) -> None:
    content = json.loads(known.read_text())
    del content["categories"]["scanner"]
    known.write_text(json.dumps(content))
    scores = written(tmp_path / "a.csv", weeks(np.random.default_rng(1), {"scanners": ["Maker C"]}))
    assert say(scores, "--reference", known, "--page", tmp_path / "page.html").exit_code == 0
    assert "Not compared, as the reference does not tell: scanner." in (tmp_path / "page.html").read_text()


def test_few_studies_are_said(known: Path, tmp_path: Path) -> None:
    scores = written(tmp_path / "a.csv", weeks(np.random.default_rng(1), {}, {}, count=3))
    done = say(scores, "--reference", known, "--page", tmp_path / "page.html")
    assert done.exit_code == 0
    assert "2 weeks of fewer than 20 studies are tested only together with the two before them" in done.output


def test_wrong_input_says_what_to_do(known: Path, tmp_path: Path) -> None:
    scores = written(tmp_path / "a.csv", weeks(np.random.default_rng(1), {}))
    other = tmp_path / "other.json"
    other.write_text(known.read_text().replace(MODEL, "cd" * 32))
    for words, told in (
        ((scores,), "give either --reference FILE"),
        ((scores, "--reference", known, "--first-weeks", 3), "give either --reference FILE"),
        ((scores, "--reference", tmp_path / "none.json"), "no reference '.*none.json'"),
        ((scores, "--reference", other), "the scores are of the model.pt with SHA-256 abababababab..., the reference"),
        ((scores, "--first-weeks", 1), "the scores span 1 weeks, so none is left to be compared"),
        ((tmp_path / "b.csv", "--reference", known), "no scores file '.*b.json'"),
    ):
        done = say(*words)
        assert re.search(told, str(done.exception)), (words, done.exception)
        assert isinstance(done.exception, (ValueError, OSError))
