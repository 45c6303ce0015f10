"""The processes that a benchmark starts: each locks its run as long as it lives, and is ended with the benchmark."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from monai_rd.locks import can_lock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Lock", "end", "lock", "start"]

_GRACE = 10.0  # seconds that a process may take to end when asked


@dataclass(frozen=True)
class Lock:
    """A locked file.

    Args:
        release: unlocks it, unless a process that was started with it still lives.
        number: descriptor of the open file, which such a process inherits; None on Windows, where it cannot.
    """

    release: Callable[[], object]
    number: int | None = None


def lock(path: Path) -> Lock | None:
    """Lock a file; None if another process holds the lock. The system releases it when its last holder ends.

    On a disk without locks nothing is locked, with a warning.
    """
    if fcntl is None:
        held = FileLock(path)
        try:
            held.acquire(timeout=0)
        except Timeout:
            return None
        return Lock(held.release)
    file = open(path, "wb")  # noqa: SIM115 - held for as long as the run lasts
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if can_lock(path.parent):
            file.close()
            return None
    return Lock(file.close, file.fileno())


def start(words: Sequence[str], log: IO[Any], environment: Mapping[str, str], held: Lock) -> subprocess.Popen[bytes]:
    """Start a process.

    Args:
        words: its command.
        log: open file that takes what it prints.
        environment: its environment.
        held: the lock of its run. On Linux and macOS the run stays locked as long as the process lives, even if this
            one is killed; on Linux it then ends too.
    """
    own: dict[str, Any] = {}
    if held.number is not None:
        own = {"pass_fds": (held.number,), "start_new_session": True}  # so that its data loaders are ended with it
        own["preexec_fn"] = _die_with_parent if sys.platform == "linux" else None
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=dict(environment), **own
    )


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes of `start` and wait for them; those that do not end when asked are killed."""
    for wanted in ("SIGTERM", "SIGKILL"):
        for process in processes:
            if process.poll() is not None:
                continue
            if fcntl is None:
                process.terminate()  # their data loaders end by themselves
            else:
                os.killpg(process.pid, getattr(signal, wanted))
        limit = time.monotonic() + _GRACE
        while any(process.poll() is None for process in processes) and time.monotonic() < limit:
            time.sleep(0.025)


def _die_with_parent() -> None:
    """Ask Linux to terminate this process when its parent ends, even if the parent is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
