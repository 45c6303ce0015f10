"""Cells run once each, whatever happens: failures, kills, a second benchmark on the same folder."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from monai_rd.protocol import grid
from monai_rd.protocol.cells import Cell
from tests.protocol.conftest import a_cell

ROOT = Path(__file__).parents[2]
BENCHMARK = """
import sys
from pathlib import Path
from rich.console import Console
from monai_rd.protocol import cells, grid
from tests.protocol.conftest import a_cell, fake_command
cells.Cell.command = fake_command
cells.versions, grid.gpus = dict, list  # which import torch: seconds
data, out, seeds, jobs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sys.exit(len(grid.run_cells([a_cell(data, seed=seed) for seed in range(seeds)], out, jobs, Console())))
"""


def run(cells: list[Cell], out: Path, jobs: int = 2) -> tuple[list[grid.Failure], str]:
    shown = io.StringIO()
    failures = grid.run_cells(cells, out, jobs, Console(file=shown, width=200))
    return failures, shown.getvalue()


def starts(cell: Cell, out: Path) -> int:
    file = cell.folder(out) / "starts.txt"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def benchmark(data: Path, out: Path, seeds: int, jobs: int, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", BENCHMARK, str(data), str(out), str(seeds), str(jobs)]
    environment = {**os.environ, "FAKE_SECONDS": str(seconds), "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, cwd=ROOT, env=environment, text=True, **pipes)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Not so for a process that ended and that nobody has asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.usefixtures("fake_bundle")
def test_a_finished_cell_never_runs_again(data: Path, tmp_path: Path) -> None:
    cells = [a_cell(data, seed=seed) for seed in (0, 1, 1)]
    failures, shown = run(cells, tmp_path)
    assert not failures
    assert "2 cells, 0 finished before, 2 to run, 2 at a time" in shown
    assert "2/2" in shown
    failures, shown = run([*cells, a_cell(data, seed=2)], tmp_path)
    assert not failures
    assert "3 cells, 2 finished before, 1 to run" in shown
    assert [starts(a_cell(data, seed=seed), tmp_path) for seed in range(3)] == [1, 1, 1]
    assert not list(tmp_path.rglob("last.pt"))


@pytest.mark.usefixtures("fake_bundle")
def test_a_failure_stops_no_other(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAILS", "rd")
    broken, sound = a_cell(data, method="rd"), a_cell(data)
    failures, shown = run([broken, sound], tmp_path, jobs=1)
    assert [(one.cell, one.cause) for one in failures] == [(broken, "the teacher's file is gone")]
    assert failures[0].log.is_file()
    assert "FAILED: the teacher's file is gone" in shown
    assert sound.result(tmp_path) is not None
    assert broken.result(tmp_path) is None
    monkeypatch.delenv("FAKE_FAILS")
    assert not run([broken, sound], tmp_path)[0]
    assert (starts(broken, tmp_path), starts(sound, tmp_path)) == (2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.usefixtures("fake_bundle")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_in_the_middle(data: Path, tmp_path: Path, number: int) -> None:
    """What is finished stays, what runs ends with us, nothing is repeated."""
    cells = [a_cell(data, seed=seed) for seed in range(4)]
    process = benchmark(data, tmp_path, seeds=4, jobs=1, seconds=0.5)
    wait_for(lambda: cells[0].result(tmp_path) is not None and (cells[1].folder(tmp_path) / "last.pt").is_file())
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    running = int((cells[1].folder(tmp_path) / "starts.txt").read_text())
    wait_for(lambda: not alive(running), seconds=5)
    assert [cell.result(tmp_path) is not None for cell in cells] == [True, False, False, False]
    assert not run(cells, tmp_path)[0]
    assert [starts(cell, tmp_path) for cell in cells] == [1, 2, 1, 1]


def test_two_benchmarks_share_the_work(data: Path, tmp_path: Path) -> None:
    cells = [a_cell(data, seed=seed) for seed in range(6)]
    both = [benchmark(data, tmp_path, seeds=6, jobs=2, seconds=0.3) for _ in range(2)]
    shown = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], shown
    assert [starts(cell, tmp_path) for cell in cells] == [1] * 6
    assert all("6/6" in each for each in shown)


@pytest.mark.usefixtures("fake_bundle")
def test_a_gpu_for_each(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "gpus", lambda: ["3", "GPU-7"])
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    cells = [a_cell(data, seed=seed) for seed in range(2)]
    assert grid.default_jobs() == 2
    assert not run(cells, tmp_path, grid.default_jobs())[0]
    settings = [json.loads((cell.folder(tmp_path) / "metrics.json").read_text())["settings"] for cell in cells]
    assert {one["device"] for one in settings} == {"3", "GPU-7"}
    assert {one["threads"] for one in settings} == {str(max((os.cpu_count() or 1) // 2, 1))}


def test_no_jobs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--jobs 0"):
        run([], tmp_path, jobs=0)
