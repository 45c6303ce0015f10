"""The benchmark with real trainings, killed in the middle and started again."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from monai_rd.phantoms import phantom_cohort
from tests.processes import run_module, start_module
from tests.small import SMALL

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That finished runs are left alone is tested with trainings that are not real (test_scheduler.py)."""
    split = {"training": 8, "validation": 4, "test": 4}
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT", split)
    out = tmp_path / "out"
    words = ["table3", "--dataset", phantom_cohort(tmp_path), "--methods", "rd", "--seeds", "1", "--max-epochs", "3"]
    words += ["--students", SMALL, "--out", str(out)]
    words += ["--", "--image_size", "32", "--slices", "2", "--device", "cpu", "--unlabelled", "None"]
    command, log = ["monai_rd", "benchmark", *words], tmp_path / "log.txt"
    process = start_module(*command, cwd=ROOT, output=log)
    end = time.monotonic() + 240
    while not list(out.glob("runs/rd_*/last.pt")):  # it has an epoch
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.terminate()
    process.join(30)
    assert process.exitcode
    (run,) = out.glob("runs/rd_*")
    assert not (run / "run.json").exists()

    assert run_module(*command, cwd=ROOT, output=log) == [0], log.read_text()
    log_text = (run / "log.txt").read_text()
    assert "resume: going on after epoch" in log_text
    assert log_text.count("epoch   1/3") == 1  # in the part before the kill
    content = json.loads((out / "table3.json").read_text())
    assert not content["not_finished"]
    metrics = json.loads((run / "metrics.json").read_text())
    (rd,) = content["estimates"]
    assert rd["method"] == "rd"
    for name in ("accuracy", "roc_auc", "sensitivity", "specificity"):  # as the run itself measured
        assert rd["measures"][name]["mean"] == pytest.approx(metrics["test"]["student"][name]["value"])
    assert content["also"][0]["networks"].keys() == {"reprogrammed teacher"}
