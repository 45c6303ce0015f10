"""`monai-rd train`, `evaluate` and `score` from data to scores; what they refuse: tests/cli/test_bundles.py."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monai_rd.cli.app import app
from tests.bundles.commands import QUICK, copied
from tests.processes import run_module


@pytest.mark.slow
def test_three_commands_from_data_to_scores(
    cohort_of: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of its own, with a copy of the bundle."""
    root, data = copied("ct", tmp_path / "bundles"), ["--dataset_dir", cohort_of("ct")]
    output = tmp_path / "printed.txt"

    def copy(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        """The command in a copy of a process that has imported what it needs."""
        assert command[:3] == [sys.executable, "-m", "monai.bundle"]
        (code,) = run_module(*command[2:], cwd=Path.cwd(), output=output)
        return subprocess.CompletedProcess(command, code or 0)

    def run(*words: str) -> str:
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(subprocess, "run", copy)
            done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output + output.read_text()[-4000:]
        return output.read_text()

    printed = run("train", "rd_ct", *data, *QUICK)
    assert "epoch   2/2" in printed
    assert (root / "models" / "model.pt").is_file()
    accuracy = re.findall(r"student +│ +([\d.]+)", printed)
    assert re.findall(r"student +│ +([\d.]+)", run("evaluate", "rd_ct", *data, *QUICK)) == accuracy
    run("score", "rd_ct", "--dataset_dir", str(Path(cohort_of("ct")) / "study_0001"), "--output_dir", "scores")
    with open(tmp_path / "scores" / "scores.csv", newline="") as file:
        assert [row["class"] in ("clear", "opacity") for row in csv.DictReader(file)] == [True]
