"""Each run is started once, whatever happens: failures, kills, a second benchmark on the same folder."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from monai_rd.protocol import scheduler
from monai_rd.protocol.runs import BEGUN, Run
from tests.protocol.conftest import a_run
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
BENCHMARK = """
import sys
from pathlib import Path
from rich.console import Console
from monai_rd.protocol import runs, scheduler
from tests.protocol.conftest import a_run, fake_command
runs.Run.command = fake_command
runs.versions, scheduler.gpus = dict, list  # which import torch: seconds
data, out, seeds, jobs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sys.exit(len(scheduler.run_all([a_run(data, seed=seed) for seed in range(seeds)], out, jobs, Console())))
"""


def execute(runs: list[Run], out: Path, jobs: int = 2) -> tuple[list[scheduler.Failure], str]:
    shown = io.StringIO()
    failures = scheduler.run_all(runs, out, jobs, Console(file=shown, width=200))
    return failures, shown.getvalue()


def starts(run: Run, out: Path) -> int:
    file = run.folder(out) / "starts.txt"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def benchmark(data: Path, out: Path, seeds: int, jobs: int, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", BENCHMARK, str(data), str(out), str(seeds), str(jobs)]
    environment = {**os.environ, "FAKE_SECONDS": str(seconds), "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, cwd=ROOT, env=environment, text=True, **pipes)


def alive(pid: int) -> bool:
    """Not so for a process that ended and that nobody has asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.usefixtures("fake_bundle")
def test_a_finished_run_never_runs_again(data: Path, tmp_path: Path) -> None:
    runs = [a_run(data, seed=seed) for seed in (0, 1, 1)]
    failures, shown = execute(runs, tmp_path)
    assert not failures
    assert "2 runs, 0 finished before, 2 to run, 2 at a time" in shown
    assert "2/2" in shown
    failures, shown = execute([*runs, a_run(data, seed=2)], tmp_path)
    assert not failures
    assert "3 runs, 2 finished before, 1 to run" in shown
    assert [starts(a_run(data, seed=seed), tmp_path) for seed in range(3)] == [1, 1, 1]
    assert not list(tmp_path.rglob("last.pt")) + list(tmp_path.rglob(BEGUN))


@pytest.mark.usefixtures("fake_bundle")
def test_a_failure_stops_no_other(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAILS", "rd")
    broken, sound = a_run(data, method="rd"), a_run(data)
    failures, shown = execute([broken, sound], tmp_path, jobs=1)
    assert [(one.run, one.cause) for one in failures] == [(broken, "the teacher's file is gone")]
    assert failures[0].log.is_file()
    assert "FAILED: the teacher's file is gone" in shown
    assert sound.result(tmp_path) is not None
    assert broken.result(tmp_path) is None
    monkeypatch.delenv("FAKE_FAILS")
    assert not execute([broken, sound], tmp_path)[0]
    assert (starts(broken, tmp_path), starts(sound, tmp_path)) == (2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.usefixtures("fake_bundle")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_killed_in_the_middle(data: Path, tmp_path: Path, number: int) -> None:
    """What is finished stays, what runs ends with us, nothing is repeated."""
    runs = [a_run(data, seed=seed) for seed in range(4)]
    process = benchmark(data, tmp_path, seeds=4, jobs=1, seconds=0.5)
    wait_for(lambda: runs[0].result(tmp_path) is not None and (runs[1].folder(tmp_path) / "last.pt").is_file())
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    running = int((runs[1].folder(tmp_path) / "starts.txt").read_text())
    wait_for(lambda: not alive(running), seconds=5)
    assert [run.result(tmp_path) is not None for run in runs] == [True, False, False, False]
    assert not execute(runs, tmp_path)[0]
    assert [starts(run, tmp_path) for run in runs] == [1, 2, 1, 1]


@pytest.mark.slow
def test_two_benchmarks_share_the_work(data: Path, tmp_path: Path) -> None:
    runs = [a_run(data, seed=seed) for seed in range(6)]
    both = [benchmark(data, tmp_path, seeds=6, jobs=2, seconds=0.3) for _ in range(2)]
    shown = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], shown
    assert [starts(run, tmp_path) for run in runs] == [1] * 6
    assert all("6/6" in each for each in shown)


@pytest.mark.usefixtures("fake_bundle")
def test_a_gpu_for_each(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "gpus", lambda: ["3", "GPU-7"])
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    runs = [a_run(data, seed=seed) for seed in range(2)]
    assert scheduler.default_jobs() == 2
    assert not execute(runs, tmp_path, scheduler.default_jobs())[0]
    settings = [json.loads((run.folder(tmp_path) / "metrics.json").read_text())["settings"] for run in runs]
    assert {one["device"] for one in settings} == {"3", "GPU-7"}
    assert {one["threads"] for one in settings} == {str(max((os.cpu_count() or 1) // 2, 1))}


def test_no_jobs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--jobs 0"):
        execute([], tmp_path, jobs=0)


def test_a_folder_of_an_earlier_version_is_not_begun_anew(data: Path, tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    with pytest.raises(ValueError, match=r"rename that folder to 'runs' and each 'cell\.json' in it to 'run\.json'"):
        execute([a_run(data)], tmp_path)
    assert not (tmp_path / "runs").exists()
