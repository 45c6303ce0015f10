"""Only one training at a time in a folder: a second one stops at its start, with a message about the first."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from monai_rd.files import atomic_write
from monai_rd.processes import rank

__all__ = ["RunLock"]

logger = logging.getLogger(__name__)

_GRACE = 15.0  # seconds that data loader processes of a killed training may survive it and keep its lock


class RunLock:
    """Locks folders against other trainings, from `acquire` to `release` or to the end of the object's life.

    The operating system releases the lock when the process ends for any reason, so a killed training blocks nothing; on
    a network disk this depends on the server's `flock`. `.training.json` in the folder describes the holder (host,
    process, start time and command; no path). Locks on the same folder within one process do not exclude each other;
    of the ranks of a distributed training only rank 0 holds the lock.

    Args:
        folders: the folders that a training writes to.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from monai_rd.handlers import RunLock
        >>> lock = RunLock(["models", "eval"])
        >>> lock.acquire()
        >>> sorted(json.loads(Path("eval/.training.json").read_text()))
        ['command', 'host', 'pid', 'since']
        >>> lock.release()
        >>> Path("eval/.training.json").exists()
        False
    """

    def __init__(self, folders: Sequence[str | os.PathLike[str]]) -> None:
        self.folders = sorted({Path(folder).resolve() for folder in folders})
        self._held: list[list[FileLock]] = []  # one list for each acquire
        weakref.finalize(self, _let_all_go, self._held)  # also at the end of the process after a failed training

    def acquire(self) -> None:
        """Lock the folders; missing ones are created.

        Raises:
            OSError: another training is running in one of them.
        """
        if rank() != 0:
            return
        self._held.append([])
        try:
            for folder in self.folders:
                folder.mkdir(parents=True, exist_ok=True)
                self._hold(folder)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Undo one `acquire`; a folder locked several times stays locked until the last `release`."""
        if self._held:
            _let_go(self._held.pop())

    def _hold(self, folder: Path) -> None:
        lock = FileLock(folder / ".training.lock", thread_local=False, is_singleton=True)
        owner = _owner(folder)
        try:
            lock.acquire(timeout=_GRACE if _is_gone(owner) else 0)
            if not Path(lock.lock_file).exists():  # it was released and removed while this one was acquired
                lock.release()
                lock.acquire(timeout=0)
        except Timeout:
            told = _owner(folder) or owner
            who = f" ({told['command']}, process {told['pid']} on {told['host']} since {told['since']})" if told else ""
            raise OSError(
                f"{folder}: another training is at work here{who}. Wait for it or end it, or give another "
                "--bundle_root and --output_dir"
            ) from None
        except (NotImplementedError, OSError) as error:
            logger.warning("%s cannot be locked (%s): see to it that no other training writes there", folder, error)
            return
        self._held[-1].append(lock)
        if lock.lock_counter == 1:
            atomic_write(json.dumps(_own_words()) + "\n", _words(folder))


def _let_go(held: list[FileLock]) -> None:
    while held:
        lock = held.pop()
        if lock.lock_counter == 1:
            for path in (Path(lock.lock_file), _words(Path(lock.lock_file).parent)):
                with suppress(OSError):  # Windows does not delete open files
                    path.unlink()
        lock.release()


def _let_all_go(held: list[list[FileLock]]) -> None:
    while held:
        _let_go(held.pop())


def _words(folder: Path) -> Path:
    return folder / ".training.json"


def _own_words() -> dict[str, Any]:
    program = Path(sys.argv[0])
    name = ".".join(program.parts[-3:-1]) if program.name == "__main__.py" else program.name
    first = next((word for word in sys.argv[1:2] if re.fullmatch(r"[a-z][a-z_-]*", word)), "")
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"command": f"{name} {first}".strip(), "pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _owner(folder: Path) -> dict[str, Any]:
    """Return the holder's description; empty if there is none yet."""
    try:
        told = json.loads(_words(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(told, dict) and {"command", "pid", "host", "since"} <= told.keys()
    return told if known else {}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    if not owner or owner["host"] != socket.gethostname() or os.name != "posix":
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False
