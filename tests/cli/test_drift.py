"""`monai-rd drift`, as a person or cron runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.data import Dataset
from PIL import Image
from typer.testing import CliRunner, Result

from monai_rd.cli.app import app
from monai_rd.drift import Reference, reference_of_training
from monai_rd.inference import Predictor, TrainedBundle
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
    assert f"50 studies of the first weeks (1, from {made[5].monday} on)" in accepted.output


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
    assert "weeks of fewer than 20 studies, tested only together with the two before them: 2" in done.output


def test_wrong_input_says_what_to_do(known: Path, tmp_path: Path) -> None:
    scores = written(tmp_path / "a.csv", weeks(np.random.default_rng(1), {}))
    other = tmp_path / "other.json"
    other.write_text(known.read_text().replace(MODEL, "cd" * 32))
    for words, told in (
        ((scores,), "give either --reference FILE"),
        ((scores, "--reference", known, "--first-weeks", 3), "give either --reference FILE"),
        ((scores, "--reference", tmp_path / "none.json"), "no reference '.*none.json'"),
        ((scores, "--reference", other), "the scores are of the model.pt with SHA-256 abababababab..., the reference"),
        ((scores, "--first-weeks", 1), r"of the weeks of these scores \(1\) none is left to compare"),
        ((tmp_path / "b.csv", "--reference", known), "no scores file '.*b.json'"),
    ):
        done = say(*words)
        assert re.search(told, str(done.exception)), (words, done.exception)
        assert isinstance(done.exception, (ValueError, OSError))


def test_what_predict_wrote_can_be_compared(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    """A reference of these very studies, written as at the end of a training, finds nothing in them."""
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(24):
        pixels = random.integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    root = bundle_of()
    words = ["rd_ct", "--from", str(tmp_path / "in"), "--to", str(tmp_path / "out"), "--", "--bundle_root", str(root)]
    done = CliRunner().invoke(app, ["predict", *words, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    predictor = Predictor(TrainedBundle("rd_ct", bundle_root=str(root), device="cpu"))
    known = predictor.classifier
    items = [{**item, "patient": ""} for item in known.prepare.dataset(predictor.find(tmp_path / "in").items)]
    p = np.array([list(one.probabilities.values()) for one in predictor.score(predictor.find(tmp_path / "in").items)])
    made = reference_of_training(
        Dataset(items), p, known.class_names, known.multi_label, known.decision, known.model_sha256, None
    )
    made.write(root / "models" / "reference.json")
    page = tmp_path / "page.html"
    done = say(tmp_path / "out" / "scores.csv", "--reference", root / "models" / "reference.json", "--page", page)
    assert done.exit_code == 0, done.output
    assert "weeks: 1, studies scored: 24" in done.output
    assert "Not compared" not in page.read_text()
