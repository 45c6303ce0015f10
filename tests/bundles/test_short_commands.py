"""`monai-rd train`, `evaluate` and `score` from data to scores; what they refuse: tests/cli/test_bundles.py."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundles.commands import QUICK, copied


@pytest.mark.slow
def test_three_commands_from_data_to_scores(cohort_of: Callable[[str], str], tmp_path: Path) -> None:
    """In a folder of its own, with a copy of the bundle, by the console script's own module."""
    root, data = copied("ct", tmp_path / "bundles"), ["--dataset_dir", cohort_of("ct")]

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "monai_rd", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    printed = run("train", "rd_ct", *data, *QUICK)
    assert "epoch   2/2" in printed
    assert (root / "models" / "model.pt").is_file()
    accuracy = re.findall(r"student +│ +([\d.]+)", printed)
    assert re.findall(r"student +│ +([\d.]+)", run("evaluate", "rd_ct", *data, *QUICK)) == accuracy
    run("score", "rd_ct", "--dataset_dir", str(Path(cohort_of("ct")) / "study_0001"), "--output_dir", "scores")
    with open(tmp_path / "scores" / "scores.csv", newline="") as file:
        assert [row["class"] in ("clear", "opacity") for row in csv.DictReader(file)] == [True]
