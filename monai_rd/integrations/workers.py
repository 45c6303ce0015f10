"""Several workers of `monai-rd predict` on this machine: started, counted together, ended together."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from monai_rd.console import message_of, start_logging
from monai_rd.integrations.archives.state import State
from monai_rd.integrations.scoring import Tally, Task, listing, score

__all__ = ["score_by_workers"]

logger = logging.getLogger(__name__)

_GRACE = 20.0  # seconds that a worker may take to end its study when asked to end


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    name: str = ""  # in the state folder


def score_by_workers(task: Task, workers: int) -> Tally:
    """Score studies by several processes on one state folder, and list their scores.

    A worker that fails or dies does not stop the others, which take over its study. An interrupt, or the end of this
    process, ends them after their current study.

    Args:
        task: what is to be scored.
        workers: number of processes; the cores are divided among them, unless OMP_NUM_THREADS says otherwise.

    Returns:
        What they did together; studies that a dead worker left are among those left.

    Raises:
        ValueError: every worker failed, with the cause of the first one.
    """
    assert task.state is not None
    tally, causes = Tally(), []
    with closing(State(task.state)) as state, listing(state, task.to):
        started = _started(task, workers)
        try:
            for one in started:
                done = _received(one)
                if isinstance(done, Tally):
                    tally.join(done)
                else:
                    causes.append(done)
                    logger.warning("a worker has ended before its time: %s", done)
        finally:
            _end(started)
        state.adopt()
        tally.waiting = len(state.waiting())
        if causes:
            tally.left |= set(state.interrupted([one.name for one in started]))
    if len(causes) == workers:
        raise ValueError(f"no worker could go on: {causes[0]}")
    return tally


def _started(task: Task, workers: int) -> list[_Worker]:
    context, started = multiprocessing.get_context("spawn"), []
    threads = None if "OMP_NUM_THREADS" in os.environ else max(1, (os.cpu_count() or 1) // workers)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which they inherit: an interrupt is for this process alone
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(task, threads, theirs))
            process.start()
            theirs.close()  # so that the pipe ends with the worker
            started.append(_Worker(process, ours))
    finally:
        signal.signal(signal.SIGINT, before)
    return started


def _received(worker: _Worker) -> Tally | str:
    """Wait for a worker's end; return what it did, or why it did not."""
    try:
        worker.name = worker.pipe.recv()
        done: Tally | str = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(_GRACE)
        return f"exit code {worker.process.exitcode}"
    return done


def _end(workers: Sequence[_Worker]) -> None:
    for one in workers:
        one.pipe.close()
    limit = time.monotonic() + _GRACE
    for one in workers:
        one.process.join(max(0.0, limit - time.monotonic()))
        if one.process.is_alive():
            one.process.terminate()
            one.process.join()


def _work(task: Task, threads: int | None, pipe: Connection) -> None:
    """Be a worker: send its name, and at the end what it did or why it did not."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows does not inherit it
    start_logging()
    if threads is not None:
        torch.set_num_threads(threads)
    assert task.state is not None
    done: Tally | str | None
    try:
        with closing(State(task.state, lambda: _wanted(pipe))) as state:
            pipe.send(state.name)
            done = score(task, state)
    except Exception as error:
        done = message_of(error, sys.argv[1:])
        if done is None:
            raise
    with suppress(OSError):  # nobody waits for it any more
        pipe.send(done)


def _wanted(pipe: Connection) -> bool:
    """Whether who started this worker still waits for it; a closed pipe has its end to be read."""
    try:
        return not pipe.poll()
    except OSError:  # Windows
        return False
