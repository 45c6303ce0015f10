"""Labelled studies are measured as a whole and by groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import decollate_batch

from monai_rd.report import LabelledReport, classification_metrics
from monai_rd.report.labelled import group_metrics


def made(n: int = 40) -> tuple[np.ndarray, np.ndarray, list[dict[str, str]]]:
    random = np.random.default_rng(0)
    labels = np.arange(n) % 2
    second = np.clip(0.5 + 0.2 * (labels - 0.5) + 0.2 * random.normal(size=n), 0.01, 0.99)
    groups = [{"sex": "F" if i % 4 < 2 else "M", "age": "80+" if i < 3 else "40-59", "site": "A"} for i in range(n)]
    return np.stack([1 - second, second], axis=1), labels, groups


def test_groups_have_the_metrics_of_their_own_studies() -> None:
    p, y, groups = made()
    found = group_metrics(p, y, groups)
    assert list(found) == ["sex"]  # three aged 80 and more are too few to tell of, and one site is no comparison
    women = np.array([one["sex"] == "F" for one in groups])
    assert found["sex"]["F"] == classification_metrics(p[women], y[women])
    assert found["sex"]["M"]["n"] == 20


def test_a_group_of_one_class_has_what_it_allows() -> None:
    p, y, _ = made()
    found = group_metrics(p, y, [{"site": "AB"[label]} for label in y])["site"]
    assert set(found["A"]) == {"n", "accuracy"}
    assert found["A"]["accuracy"]["value"] == (p[y == 0].argmax(axis=1) == 0).mean()


def test_several_labels() -> None:
    p, y, groups = made()
    both = np.stack([y, np.zeros_like(y)], axis=1)
    found = group_metrics(p[:, ::-1], both, groups, multi_label=True)
    assert found["sex"]["F"]["classes"][1]["roc_auc"] is None
    none = group_metrics(p, np.zeros_like(both), groups, multi_label=True)
    assert none["sex"]["F"] == {"n": 20}


def run(
    report: LabelledReport, p: np.ndarray, y: np.ndarray, groups: list[dict[str, str]], problems: list[str]
) -> None:
    def step(engine: Engine, place: int) -> Any:
        engine.state.batch = [
            {**groups[i], "label": int(y[i]), "problem": problems[i]} for i in range(place, min(place + 7, len(y)))
        ]
        return decollate_batch({"pred": torch.tensor(p[place : place + 7])})

    engine = Engine(step)
    report.attach(engine)
    engine.run(range(0, len(y), 7), max_epochs=1)


def test_the_report_leaves_out_what_could_not_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p, y, groups = made()
    problems = ["" if i % 10 else "MISSING_SLICES" for i in range(len(y))]
    report = LabelledReport(tmp_path / "metrics.json", ["clear", "opacity"])
    for _ in range(2):  # a second run starts anew
        run(report, p, y, groups, problems)
    written = json.loads((tmp_path / "metrics.json").read_text())
    kept = np.array([not problem for problem in problems])
    expected = classification_metrics(p[kept], y[kept])
    assert written["metrics"]["n"] == 36
    assert written["metrics"]["roc_auc"]["value"] == pytest.approx(expected["roc_auc"]["value"])
    assert 0 <= written["metrics"]["calibration_error"]["value"] <= 1
    printed = capsys.readouterr().out
    assert "36 labelled studies" in printed
    assert "sex F" in printed
    assert f"{expected['accuracy']['value']:.3f}" in printed


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    p, y, groups = made(8)
    with pytest.raises(ValueError, match="none of the labelled studies"):
        run(LabelledReport(tmp_path / "metrics.json", ["a", "b"]), p, y, groups, ["X"] * 8)
