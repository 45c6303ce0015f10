"""The private folder of a running server, and those that killed ones have left behind."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["new_folder"]

_PREFIX = "monai_rd_serve_"


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Make an empty folder that only its owner can read, and remove it at the end.

    First remove those of servers that were killed, which could not remove theirs: images of patients may be in them.

    Args:
        place: the folder for temporary files, which others may use too.
    """
    for folder in place.glob(f"{_PREFIX}*"):
        if _is_own(folder):
            _remove_if_left(folder)
    own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    try:
        with FileLock(own / "lock"):
            files = own / "uploads"
            files.mkdir(mode=0o700)
            yield files
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    """Whether it is a folder, and nobody else can have made it or written into it."""
    found = os.lstat(folder)
    mine = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
    return stat.S_ISDIR(found.st_mode) and mine


def _remove_if_left(folder: Path) -> None:
    if not (folder / "lock").is_file():  # its server starts just now
        return
    try:
        with FileLock(folder / "lock", blocking=False):
            pass
    except (Timeout, OSError):  # its server runs
        return
    shutil.rmtree(folder, ignore_errors=True)
