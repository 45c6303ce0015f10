"""Whether a disk has locks: some network file systems, such as NFS without a lock server, have none."""

from __future__ import annotations

import logging
import secrets
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["can_lock"]

logger = logging.getLogger(__name__)


@cache
def can_lock(folder: Path) -> bool:
    """Return whether files in a folder can be locked; the folder is created, and without locks a warning is logged.

    It is tried once in a process, on a file that no other process knows: if that cannot be locked, none can.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        return True
    path = folder / f"{secrets.token_hex(8)}.lock"
    try:
        with open(path, "wb") as file:
            for lock in (fcntl.flock, fcntl.lockf):  # ours, and SQLite's
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock(file, fcntl.LOCK_UN)
        return True
    except OSError as error:
        logger.warning("%s cannot be locked (%s): processes at work there do not share what they do", folder, error)
        return False
    finally:
        path.unlink(missing_ok=True)
