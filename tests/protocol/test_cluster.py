"""Runs as jobs, by submitit's local executor: each is trained once, whatever happens to its job."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from monai_rd.cli.app import main
from monai_rd.protocol import cluster
from monai_rd.protocol.runs import Run
from monai_rd.protocol.scheduler import Failure
from tests.protocol.conftest import FakeRun, a_run
from tests.protocol.test_scheduler import ROOT, starts
from tests.waiting import wait_for

submitit = pytest.importorskip("submitit")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="clusters are of Linux machines")


class Jobs:
    """A machine as a cluster: the queue is what still runs."""

    def __init__(self, out: Path) -> None:
        self.executor, self.made = submitit.LocalExecutor(out / "jobs"), list[Any]()
        self.executor.update_parameters(timeout_min=30)
        submit = self.executor._internal_process_submissions
        self.executor._internal_process_submissions = lambda given: self._kept(submit(given))

    def _kept(self, jobs: list[Any]) -> list[Any]:
        self.made += jobs
        return jobs

    def queued(self) -> set[str]:
        return {job.job_id for job in self.made if not job.done()}

    def run(self, runs: list[Run], out: Path) -> tuple[list[Failure], str]:
        shown = io.StringIO()
        console = Console(file=shown, width=200)
        return cluster.run_as_jobs(runs, out, self.executor, self.queued, 4, console), shown.getvalue()


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cluster, "_LOOK", 0.05)
    monkeypatch.setattr(cluster, "_GRACE", 0.5)
    made = Jobs(tmp_path)
    yield made
    for job in made.made:
        job._process.kill()


def test_a_job_for_each_unfinished_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: Jobs) -> None:
    monkeypatch.setenv("FAKE_FAILS", "rd")
    runs = [a_run(data, FakeRun), a_run(data, FakeRun), a_run(data, FakeRun, method="rd")]
    failures, shown = jobs.run(runs, tmp_path)
    assert [(one.run, one.cause) for one in failures] == [(runs[2], "the teacher's file is gone")]
    assert "2 runs, 0 finished before, 2 to run, 2 at a time" in shown
    assert "FAILED: the teacher's file is gone" in shown
    found = runs[0].result(tmp_path)
    assert found is not None
    assert found.metrics["settings"]["threads"] == "1"
    monkeypatch.delenv("FAKE_FAILS")
    assert not jobs.run(runs, tmp_path)[0]
    assert (starts(runs[0], tmp_path), starts(runs[2], tmp_path), len(jobs.made)) == (1, 2, 3)


def process_of_job(run: Run, out: Path) -> int:
    """The parent of the training that began last."""
    note = run.folder(out) / "starts.txt"
    wait_for(lambda: note.is_file() and note.read_text().endswith("\n"))
    training = note.read_text().split()[-1]
    return int(Path(f"/proc/{training}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_a_preempted_job_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: Jobs) -> None:
    """SLURM says so by SIGUSR2, to the training too; the job is queued again with the same work."""
    monkeypatch.setenv("FAKE_SECONDS", "3")
    run = a_run(data, FakeRun)
    ((_, job),) = cluster._submitted([run], tmp_path, jobs.executor, set())
    parent = process_of_job(run, tmp_path)
    os.kill(int((run.folder(tmp_path) / "starts.txt").read_text()), signal.SIGUSR2)
    os.kill(parent, signal.SIGUSR2)
    wait_for(lambda: starts(run, tmp_path) == 2)
    failures, shown = jobs.run([run], tmp_path)  # a second command finds the job that is there
    assert (failures, len(jobs.made), starts(run, tmp_path)) == ([], 1, 2)
    assert "this job is preempted" in job.stderr()
    assert "1/1" in shown


def test_a_job_killed_from_outside_is_told_and_the_same_command_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: Jobs
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "60")
    run = a_run(data, FakeRun)
    ((_, job),) = cluster._submitted([run], tmp_path, jobs.executor, set())
    os.kill(process_of_job(run, tmp_path), signal.SIGKILL)
    with monkeypatch.context() as patched:
        patched.setattr(cluster, "_submitted", lambda *_: [(run, job)])
        ((failure,), _) = jobs.run([run], tmp_path)
    assert failure.cause.startswith(f"job {job.job_id} was ended from outside: ")
    monkeypatch.setenv("FAKE_SECONDS", "0")
    assert not jobs.run([run], tmp_path)[0]
    assert (len(jobs.made), starts(run, tmp_path)) == (2, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--slurm", "time=60"), "--slurm is for --launcher slurm"),
        (("--launcher", "slurm"), "say how many minutes a job may take"),
        (("--launcher", "slurm", "--slurm", "time=1:00"), "--slurm time=1:00: time is a number of minutes"),
        (("--launcher", "slurm", "--slurm", "time=4"), "--slurm time=4: time is a number of minutes, 5 at least"),
        (("--launcher", "slurm", "--slurm", "time=60,gpus=0"), "--slurm gpus=0: gpus is a number of GPUs"),
        (("--launcher", "slurm", "--slurm", "time=60,partition=a b"), "partition is the name of a partition"),
        (
            ("--launcher", "slurm", "--slurm", "time=60,nodes=2"),
            "--slurm: no option 'nodes'; there are partition, time",
        ),
        (("--launcher", "pbs"), "'pbs' is not one of 'local', 'slurm'"),
    ],
)
def test_wrong_options(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["monai-rd", "benchmark", "table3", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(ValueError, match="Start it on a machine that has SLURM's sbatch, srun and squeue"):
        cluster.run_on_slurm([], tmp_path, "time=10", None, Console())
