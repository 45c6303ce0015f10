"""Runs whose trainings are not real: seconds become milliseconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from monai_rd.protocol import runs
from monai_rd.protocol.runs import Run, data_fingerprint

FAKE = Path(__file__).with_name("fake_bundle.py")


def fake_command(run: Run, out: Path) -> list[str]:
    """As `Run.command`, for the fake."""
    folder = run.folder(out)
    words = {"output_dir": folder, "student": run.student, "method": run.method, "seed": run.seed}
    words["method_options"] = dict(run.method_options)
    if (folder / "last.pt").is_file():
        words["resume"] = True
    return [sys.executable, str(FAKE), *(str(text) for name, value in words.items() for text in (f"--{name}", value))]


class FakeRun(Run):
    """A run of the fake, also in another process."""

    command = fake_command

    def finish(self, out: Path, seconds: float) -> None:
        runs.versions = dict  # which imports torch: seconds
        super().finish(out, seconds)


@pytest.fixture
def fake_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is of the fake."""
    monkeypatch.setattr(Run, "command", fake_command)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Something like a data set."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "labels.csv").write_text("image,label\na.png,x\n")
    (folder / "a.png").write_bytes(b"12345")
    return folder


def a_run(data: Path, made: type[Run] = Run, **fields: Any) -> Run:
    """A run of class `made`; `fields` are its own."""
    given = {"bundle": "rd_ct", "student": "resnet18", "method": "ce", "seed": 0, **fields}
    return made(dataset_dir=str(data), data=data_fingerprint(data), **given)
