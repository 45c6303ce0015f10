"""Starts the runs of a benchmark, each once and several at a time; finished runs survive an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from monai_rd.protocol import children
from monai_rd.protocol.runs import BEGUN, Run

__all__ = ["Failure", "RunProgress", "default_jobs", "finish", "gpus", "run_all", "start", "unfinished_of"]

_LOOK = 0.1  # seconds between two checks of the running processes


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Args:
        run: the run.
        cause: the line of its log that names the cause.
        log: path of the log.
    """

    run: Run
    cause: str
    log: Path


@dataclass
class _Running:
    run: Run
    process: subprocess.Popen[bytes]
    lock: children.Lock
    slot: int
    since: float


def gpus() -> list[str]:
    """Return the usable CUDA devices, in the form of `CUDA_VISIBLE_DEVICES`."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()] if torch.cuda.is_available() else []
    return [str(index) for index in range(torch.cuda.device_count())]


def default_jobs() -> int:
    """Return one job per GPU, or one job without a GPU."""
    return max(len(gpus()), 1)


def run_all(
    runs: Sequence[Run],
    out: Path,
    jobs: int,
    console: Console,
) -> list[Failure]:
    """Start the unfinished runs, and wait for them.

    Several processes may work on one folder: a run is locked while it runs, and the lock is released when its process
    ends, for whatever reason. If this process is interrupted or terminated, the runs that it started are ended too.
    On Windows they go on if it is killed, and lock nothing then; their own lock (`RunLock`) keeps a second one out.

    Args:
        runs: the runs; equal ones are run once.
        out: the benchmark's folder.
        jobs: number of runs at a time; each gets its own GPU if there are any, and cores / jobs threads.
        console: where progress is shown.

    Returns:
        The runs that failed; all others are finished.

    Raises:
        ValueError: fewer than one job, or a folder begun by an earlier version.
    """
    if jobs < 1:
        raise ValueError(f"--jobs {jobs}: at least one is needed")
    total, unfinished = unfinished_of(runs, out)
    waiting = deque(unfinished)
    progress = RunProgress(console, total, total - len(waiting), jobs)
    running: list[_Running] = []
    failures: list[Failure] = []
    devices = gpus()
    with progress, _ended_with_us(running):
        while waiting or running:
            _start(waiting, running, out, jobs, devices, progress)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                seconds = time.monotonic() - one.since
                failure = finish(one.run, out, one.process.returncode, seconds)
                one.lock.release()
                failures += [failure] if failure else []
                progress.ended(one.run, seconds, failure)
            time.sleep(_LOOK)
    return failures


def unfinished_of(runs: Sequence[Run], out: Path) -> tuple[int, list[Run]]:
    """Return the number of different runs, and those of them that are not finished.

    Raises:
        ValueError: the folder was begun by an earlier version.
    """
    if (out / "cells").is_dir():
        raise ValueError(
            f"{out / 'cells'} holds trainings of an earlier version: to go on with them, rename that folder to 'runs' "
            "and each 'cell.json' in it to 'run.json'; or give another --out"
        )
    different = {run.key: run for run in runs}.values()
    return len(different), [run for run in different if run.result(out) is None]


def _start(
    waiting: deque[Run],
    running: list[_Running],
    out: Path,
    jobs: int,
    devices: Sequence[str],
    progress: RunProgress,
) -> None:
    """Fill the free slots; a run that is locked by another process goes to the end of the queue."""
    for _ in range(len(waiting)):
        if len(running) == jobs:
            return
        run = waiting.popleft()
        folder = run.folder(out)
        folder.mkdir(parents=True, exist_ok=True)
        lock = children.lock(folder / "lock")
        if lock is None:
            waiting.append(run)
            continue
        if run.result(out) is not None:  # another process was faster
            lock.release()
            progress.ended(run, 0.0, None)
            continue
        slot = min(set(range(jobs)) - {one.slot for one in running})
        environment = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // jobs, 1)), **os.environ}
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        process = start(run, out, environment, lock)
        running.append(_Running(run, process, lock, slot, time.monotonic()))
        progress.started(run)


def start(run: Run, out: Path, environment: Mapping[str, str], held: children.Lock) -> subprocess.Popen[bytes]:
    """Start the training of a run, whose lock is `held`, or go on with it; its log is `log.txt` in its folder."""
    folder = run.folder(out)
    (folder / "run.json").unlink(missing_ok=True)
    run.begin(out)
    words = run.command(out)
    with open(folder / "log.txt", "ab" if "--resume" in words else "wb") as log:
        return children.start(words, log, environment, held)


def finish(run: Run, out: Path, code: int, seconds: float) -> Failure | None:
    """Mark a run as finished, unless its training failed: `code` is the exit code of its process."""
    log = run.folder(out) / "log.txt"
    if code != 0:
        return Failure(run, _cause(log, code), log)
    try:
        run.finish(out, seconds)
    except ValueError as error:
        return Failure(run, str(error), log)
    for name in ("last.pt", "best_method.pt", BEGUN):  # checkpoints: hundreds of megabytes for each run
        (run.folder(out) / name).unlink(missing_ok=True)
    return None


def _cause(log: Path, code: int) -> str:
    """Return the line of a log that names the cause of the failure: the bundle's own message, else the last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}" + (" (out of memory?)" if code == -9 else "")
    named = [line for line in lines if line.startswith("The cause: ")]
    return (named or lines or [f"exit code {code} and nothing said"])[-1].removeprefix("The cause: ")


@contextmanager
def _ended_with_us(running: list[_Running]) -> Iterator[None]:
    """End the running processes when the block is left in any way; SIGTERM is handled like an interrupt."""

    def leave(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        children.end([one.process for one in running])
        for one in running:
            one.lock.release()
        signal.signal(signal.SIGTERM, before)


class RunProgress:
    """Progress display: a bar on a terminal, otherwise one line for each run, with rate and remaining time."""

    def __init__(self, console: Console, total: int, finished: int, jobs: int) -> None:
        self.console, self.total, self.jobs = console, total, jobs
        self.finished, self.failed = finished, 0
        self.seconds: list[float] = []
        self._now: list[str] = []
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=finished)

    def __enter__(self) -> RunProgress:
        self._bar.start()
        todo = self.total - self.finished
        self.console.print(f"{self.total} runs, {self.finished} finished before, {todo} to run, {self.jobs} at a time")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def started(self, run: Run) -> None:
        """Show a run as running."""
        self._now.append(run.name)
        self._show()

    def ended(self, run: Run, seconds: float, failure: Failure | None) -> None:
        """Show a run as finished or failed; 0 seconds if another process trained it."""
        if run.name in self._now:
            self._now.remove(run.name)
        if seconds:
            self.seconds.append(seconds)
        self.finished, self.failed = self.finished + (failure is None), self.failed + (failure is not None)
        how = f"FAILED: {failure.cause}" if failure else (f"{seconds:.0f} s" if seconds else "by another process")
        done = self.finished + self.failed
        self.console.print(f"{done}/{self.total} {run.name}: {how}{self._left()}", markup=False, soft_wrap=True)
        self._show()

    def _left(self) -> str:
        left = self.total - self.finished - self.failed
        if not left or not self.seconds:
            return ""
        mean = sum(self.seconds) / len(self.seconds)
        return f"; {3600 * self.jobs / mean:.3g} runs an hour, about {_duration(left * mean / self.jobs)} left"

    def _show(self) -> None:
        self._bar.update(self._task, completed=self.finished + self.failed, description=", ".join(self._now))


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
