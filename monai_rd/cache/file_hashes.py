"""Hashes of files, kept in a database, so that large data sets are not read completely at every start."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from monai_rd.cache.fingerprints import Source, files_of, item_key
from monai_rd.errors import UnreadableFileError
from monai_rd.locks import can_lock
from monai_rd.processes import own_cores

__all__ = ["HASHES_FILE", "item_keys"]

logger = logging.getLogger(__name__)

HASHES_FILE = "hashes.sqlite"  # name of the database in a cache folder

_YOUNG = 2_000_000_000  # ns: on file systems with coarse times, a file may change again within them unnoticed
_WRITE_EVERY = 10.0  # s: the most hashing work that a killed run loses


def item_keys(sources: Sequence[Source], database: Path | None = None) -> list[str]:
    """Compute `item_key` of many items in several threads, with a database of earlier results.

    The database is an SQLite file. It maps a SHA-256 of device, inode, size, modification and change time of all files
    of an item to the item's key, and contains no paths. As in git's index, files that changed less than 2 s before they
    were hashed are not stored. Several processes may use it at the same time; a damaged database is created again.

    Args:
        sources: see `item_key`.
        database: the SQLite file; None stores nothing. Not used on Windows, which has no change time, nor on a disk
            without locks.

    Returns:
        The keys; "" for an item with a file that cannot be read (loading it will raise the error).

    Raises:
        OSError: the database cannot be written, or another process keeps it locked.
    """
    if database is None or os.name != "posix" or not can_lock(database.parent):
        return [found.key for found in _hashed(sources)]
    try:
        return _through_database(sources, database)
    except sqlite3.OperationalError as error:
        raise OSError(f"'{database}': {error}; give a --cache_dir that can be written to") from error
    except sqlite3.DatabaseError:
        logger.warning("the database of hashes is damaged and begun anew")
        database.unlink(missing_ok=True)
        return _through_database(sources, database)


def _through_database(sources: Sequence[Source], database: Path) -> list[str]:
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS hashes (stamp BLOB PRIMARY KEY, key BLOB NOT NULL) WITHOUT ROWID"
        )
        look = "SELECT key FROM hashes WHERE stamp = ?"
        rows = (connection.execute(look, (_stamp(source)[0],)).fetchone() for source in sources)
        keys = [row[0].hex() if row else "" for row in rows]
        unknown = [index for index, key in enumerate(keys) if not key]
        new, since = [], time.monotonic()
        for index, found in zip(unknown, _hashed([sources[index] for index in unknown]), strict=True):
            keys[index] = found.key
            new += [(found.stamp, bytes.fromhex(found.key))] if found.lasting else []
            if new and (index == unknown[-1] or time.monotonic() - since > _WRITE_EVERY):
                with connection:  # a short transaction: others may write meanwhile
                    connection.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?)", new)
                new, since = [], time.monotonic()
        return keys


class _Hashed(NamedTuple):
    key: str
    stamp: bytes
    lasting: bool


def _hashed(sources: Sequence[Source]) -> Iterator[_Hashed]:
    with ThreadPool(min(own_cores(), 8)) as pool:
        yield from pool.imap(_hash, sources)


def _hash(source: Source) -> _Hashed:
    stamp, newest = _stamp(source)
    began = time.time_ns()
    try:
        key = item_key(source)  # if the file changes meanwhile, its old stamp never occurs again
    except UnreadableFileError:
        return _Hashed("", stamp, lasting=False)
    return _Hashed(key, stamp, newest < began - _YOUNG)


def _arranged(source: Source) -> str:
    """Return what else than its files an item's key depends on: frames, and the files of each role."""
    if isinstance(source, Mapping):
        return str([(role, _stamp(one)[0], _arranged(one)) for role, one in source.items()])
    return str(getattr(source, "frames", None) or "")


def _stamp(source: Source) -> tuple[bytes, int]:
    """Return a hash of the stat values of all files of an item, which changes with them, and their newest time in ns.

    For files without stat values (missing, no permission) it is `b""` and 0.
    """
    try:
        found = files_of(source)
        stats = [path.stat() for path in ([found] if isinstance(found, Path) else found)]
    except OSError:
        return b"", 0
    each = sorted((one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in stats)
    text = f"{'file' if isinstance(found, Path) else 'files'} {each}{_arranged(source)}"
    return hashlib.sha256(text.encode()).digest(), max((max(one[3:]) for one in each), default=0)
