"""Runs of a benchmark as jobs of a SLURM cluster, by submitit: pre-empted and requeued jobs go on where they were."""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from monai_rd.files import atomic_write
from monai_rd.protocol import children, scheduler
from monai_rd.protocol.runs import Run
from monai_rd.protocol.scheduler import Failure, RunProgress

__all__ = ["Training", "read_options", "run_as_jobs", "run_on_slurm"]

logger = logging.getLogger(__name__)

_LOOK = 5.0  # seconds between two looks at the queue
_GRACE = 60.0  # seconds until files that a job wrote on another machine must be seen here
_AT_A_TIME = 256
_ARRAY = 1000  # jobs; SLURM's own limit is 1001

_NOTE = "job.txt"  # in a run's folder: the id of its job

_NUMBER, _NAME = r"[1-9][0-9]*", r"[A-Za-z0-9_.-]+(\+[A-Za-z0-9_.-]+)*"
# Options of `--slurm`: what they look like, in words, and submitit's name.
_OPTIONS = {
    "partition": (_NAME, "the name of a partition, or several with + between", "partition"),
    "time": ("[5-9]|" + _NUMBER + "[0-9]", "a number of minutes, 5 at least", "time"),
    "gpus": (_NUMBER, "a number of GPUs", "gpus_per_node"),
    "cpus": (_NUMBER, "a number of CPU cores", "cpus_per_task"),
    "memory": (_NUMBER, "a number of GB", "mem"),
}


def read_options(text: str) -> dict[str, Any]:
    """Read what each job asks of SLURM.

    Args:
        text: such as "partition=gpu,time=60,gpus=1": `time` in minutes, needed; `partition`; numbers of `gpus` and
            `cpus`; `memory` in GB.

    Returns:
        Arguments of `update_parameters` of submitit's `SlurmExecutor`.

    Raises:
        ValueError: an unknown option, or a value that is none; no `time`.

    Example:
        >>> from monai_rd.protocol.cluster import read_options
        >>> read_options("partition=gpu,time=60")
        {'partition': 'gpu', 'time': 60}
    """
    found: dict[str, Any] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition("=")
        if name not in _OPTIONS:
            raise ValueError(
                f"--slurm: no option '{name}'; there are {', '.join(_OPTIONS)}, as in partition=gpu,time=60"
            )
        pattern, needed, theirs = _OPTIONS[name]
        if not re.fullmatch(pattern, value):
            raise ValueError(f"--slurm {part}: {name} is {needed}")
        found[theirs] = value.replace("+", ",") if pattern == _NAME else int(value)
    if "mem" in found:
        found["mem"] = f"{found['mem']}GB"
    if "time" not in found:
        raise ValueError(
            "--slurm: say how many minutes a job may take, as in time=60; a longer training goes on in another job"
        )
    return found


class Training:
    """The work of a job: train a run, or go on with it. A requeued job calls the same object again."""

    def __init__(self, run: Run, out: Path) -> None:
        self.run, self.out = run, out

    def __call__(self) -> str | None:
        """Return None if the run is finished, otherwise why it failed."""
        folder = self.run.folder(self.out)
        folder.mkdir(parents=True, exist_ok=True)
        while (lock := children.lock(folder / "lock")) is None:
            time.sleep(_LOOK)  # the first process of a requeued job may not have ended yet, on another machine
        processes: list[subprocess.Popen[bytes]] = []
        try:
            if self.run.result(self.out) is not None:
                return None
            environment = {"OMP_NUM_THREADS": os.environ.get("SLURM_CPUS_ON_NODE", "1"), **os.environ}
            since = time.monotonic()
            # SLURM signals each process of the job that its time is over; it is for this one alone.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
            processes = [scheduler.start(self.run, self.out, environment, lock)]
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
            failure = scheduler.finish(self.run, self.out, processes[0].wait(), time.monotonic() - since)
            return None if failure is None else failure.cause
        finally:
            children.end(processes)
            lock.release()

    def checkpoint(self) -> Any:
        """Return what the requeued job shall do: the same."""
        return _submitit().helpers.DelayedSubmission(self)


def run_on_slurm(runs: Sequence[Run], out: Path, options: str, jobs: int | None, console: Console) -> list[Failure]:
    """Make a job of each unfinished run, and wait for them.

    Args:
        runs: the runs; equal ones are run once.
        out: the benchmark's folder, on a disk that all machines of the cluster share.
        options: what each job asks for, see `read_options`.
        jobs: most jobs at a time; None: 256.
        console: where progress is shown.

    Returns:
        The runs that failed; all others are finished.

    Raises:
        ValueError: wrong options, no SLURM or no submitit, or a folder begun by an earlier version.
    """
    asked, submitit = read_options(options), _submitit()
    try:
        executor = submitit.SlurmExecutor(out.resolve() / "jobs")
    except RuntimeError as error:
        raise ValueError(
            f"--launcher slurm: {error} Start it on a machine that has SLURM's sbatch, srun and squeue"
        ) from error
    executor.update_parameters(
        job_name="monai_rd",
        array_parallelism=jobs or _AT_A_TIME,
        additional_parameters={"requeue": True},
        stderr_to_stdout=True,
        **asked,
    )
    return run_as_jobs(runs, out, executor, _queued, jobs or _AT_A_TIME, console)


def run_as_jobs(
    runs: Sequence[Run], out: Path, executor: Any, queued: Callable[[], set[str]], jobs: int, console: Console
) -> list[Failure]:
    """As `run_on_slurm`, by an executor of submitit.

    Args:
        runs: see `run_on_slurm`.
        out: see `run_on_slurm`.
        executor: submits the jobs.
        queued: returns the ids of the jobs that wait or run.
        jobs: most jobs at a time, for the estimate of the time that is left.
        console: see `run_on_slurm`.
    """
    total, waiting = scheduler.unfinished_of(runs, out)
    left = _submitted(waiting, out, executor, queued())
    progress = RunProgress(console, total, total - len(waiting), min(jobs, max(len(waiting), 1)))
    failures: list[Failure] = []
    gone: dict[str, float] = {}  # when a job was first not seen in the queue
    try:
        with progress:
            while left:
                there = queued()
                for run, job in tuple(left):
                    if job.job_id in there:
                        gone.pop(job.job_id, None)
                        continue
                    since, result = gone.setdefault(job.job_id, time.monotonic()), run.result(out)
                    if result is None and not _answered(job) and time.monotonic() - since < _GRACE:
                        continue
                    failure = None if result else Failure(run, _cause(job), run.folder(out) / "log.txt")
                    failures += [failure] if failure else []
                    progress.ended(run, result.seconds if result else 0.0, failure)
                    left.remove((run, job))
                if left:
                    time.sleep(_LOOK)
    except KeyboardInterrupt:
        names = " ".join(job.job_id for _, job in left)
        console.print(f"The jobs go on: the same command waits for them, and 'scancel {names}' ends them.")
        raise
    return failures


def _submitted(runs: Sequence[Run], out: Path, executor: Any, there: set[str]) -> list[tuple[Run, Any]]:
    """Return each run with its job: that of an earlier command if it is still there, or a new one."""
    found, new = [], []
    for run in runs:
        note = run.folder(out) / _NOTE
        known = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
        if known in there:
            found.append((run, executor.job_class(executor.folder, known)))
        else:
            new.append(run)
    for first in range(0, len(new), _ARRAY):
        part, jobs = new[first : first + _ARRAY], []
        try:
            with executor.batch():
                jobs = [executor.submit(Training(run, out.resolve())) for run in part]
        except _submitit().core.utils.FailedJobError as error:
            raise ValueError(
                f"--slurm: SLURM refused the jobs: {'; '.join(str(error).strip().splitlines())}"
            ) from error
        for run, job in zip(part, jobs, strict=True):
            atomic_write(job.job_id + "\n", run.folder(out) / _NOTE)
            found.append((run, job))
    return found


def _answered(job: Any) -> bool:
    return bool(job.paths.result_pickle.is_file())


def _cause(job: Any) -> str:
    """Return why a job that is gone left its run unfinished."""
    if not _answered(job):
        said = _last_line(job.stdout() or "") or "it never began"
        return f"job {job.job_id} was ended from outside: {said}"
    error = job.exception()
    return str(job.result()) if error is None else f"job {job.job_id} failed: see {job.paths.stdout}"


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1]


def _queued() -> set[str]:
    """Return the ids of the user's jobs that wait or run; asked again while SLURM does not answer."""
    while True:
        try:
            asked = subprocess.run(
                ["squeue", "--me", "--array", "--noheader", "--format=%i"], check=True, capture_output=True, text=True
            )
            return set(asked.stdout.split())
        except subprocess.CalledProcessError as error:
            logger.warning("squeue: %s", _last_line(error.stderr))
            time.sleep(_LOOK)


def _submitit() -> Any:
    try:
        return importlib.import_module("submitit")
    except ImportError as error:
        raise ValueError("--launcher slurm needs the package 'submitit': pip install 'monai_rd[slurm]'") from error
