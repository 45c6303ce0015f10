"""Image fingerprints for finding duplicates: computed once, and stored in a database by file content."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_rd.datasets.near_duplicates import IMAGES, VOLUMES, Fingerprint, Picture, digest_of, fingerprint
from monai_rd.errors import StudyError, UnreadableFileError, original_error
from monai_rd.processes import own_cores

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["CopyCache", "grey_picture", "image_fingerprint", "image_fingerprints"]

_FORMAT = 1  # increase with every change of the fingerprint or of the criteria for duplicates
_TABLES = (
    "CREATE TABLE IF NOT EXISTS fingerprints (key TEXT, format INTEGER, digest TEXT, bits BLOB, mirrored BLOB, "
    "side INTEGER, thumbnail BLOB, PRIMARY KEY (key, format)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS copies (others TEXT, key TEXT, copy INTEGER, PRIMARY KEY (others, key)) WITHOUT ROWID",
)
_WRITE_EVERY = 256  # items; a killed run reads at most these again


def image_fingerprint(image: MetaTensor) -> Fingerprint:
    """Return the fingerprint of an image `[C, X, Y]` or volume `[C, X, Y, Z]`, as `LoadImageOrSeriesd` loads it."""
    values = image.as_tensor().numpy()
    return fingerprint(grey_picture(image), digest_of(values), VOLUMES if values.ndim == 4 else IMAGES)


def grey_picture(image: MetaTensor) -> Picture:
    """Return an image in grey, uint8 `[rows, columns]`; for a volume, a 2 x 2 montage of four evenly spaced slices."""
    from monai_rd.transforms import SliceStackd

    stack = SliceStackd("image", 4)({"image": image})["image"].as_tensor().numpy()
    if len(stack) == 4:
        stack = np.block([[stack[0], stack[1]], [stack[2], stack[3]]])[None]
    if image.meta.get("intensity") != "display":
        low, high = np.percentile(stack, (0.5, 99.5))
        stack = (stack - low) * (255 / max(high - low, 1e-6))
    return stack[0].clip(0, 255).round().astype(np.uint8)


def image_fingerprints(
    items: Sequence[Mapping[str, Any]], keys: Sequence[str], database: Path | None = None
) -> Iterator[Fingerprint | StudyError]:
    """Compute the fingerprints of many items in threads; items that are in the database are not loaded again.

    Args:
        items: items with the key `image`.
        keys: hash of each item's files, see `item_key`; nothing is stored for "".
        database: an SQLite file, safe for several processes; None stores nothing.

    Yields:
        For each item its fingerprint, or the error why it cannot be read.

    Raises:
        OSError: the database cannot be used.
    """
    if database is None:
        yield from _fingerprinted(items)
        return
    with _open(database) as connection:
        for start in range(0, len(items), _WRITE_EVERY):
            block = slice(start, start + _WRITE_EVERY)
            yield from _through_database(connection, items[block], keys[block])


def _through_database(
    connection: sqlite3.Connection, items: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> list[Fingerprint | StudyError]:
    look = "SELECT digest, bits, mirrored, side, thumbnail FROM fingerprints WHERE key = ? AND format = ?"
    rows = [connection.execute(look, (key, _FORMAT)).fetchone() for key in keys]
    found: list[Any] = [row and _of_row(*row) for row in rows]
    unknown = [place for place, one in enumerate(found) if one is None]
    new = []
    for place, one in zip(unknown, _fingerprinted([items[place] for place in unknown]), strict=True):
        found[place] = one
        if isinstance(one, Fingerprint) and keys[place]:
            bits, mirrored = (np.packbits(bits).tobytes() for bits in (one.bits, one.mirrored_bits))
            side, thumbnail = len(one.thumbnail), one.thumbnail.tobytes()
            new.append((keys[place], _FORMAT, one.digest, bits, mirrored, side, thumbnail))
    if new:
        with connection:
            connection.executemany("INSERT OR REPLACE INTO fingerprints VALUES (?, ?, ?, ?, ?, ?, ?)", new)
    return found


class CopyCache:
    """Stores in a database which items are copies of a given set of images, as comparing takes longer than reading.

    Args:
        database: an SQLite file, see `image_fingerprints`; None stores nothing.
        others: keys of the images that items are compared with, in any order.
    """

    def __init__(self, database: Path | None, others: Sequence[str]) -> None:
        text = " ".join(sorted(others)) + f" {_FORMAT}"
        self._others, self._database = hashlib.sha256(text.encode()).hexdigest(), database

    def known(self, keys: Sequence[str]) -> dict[str, bool]:
        """Return the stored answers: for each known key, whether the item is a copy."""
        if self._database is None:
            return {}
        with _open(self._database) as connection:
            rows = connection.execute("SELECT key, copy FROM copies WHERE others = ?", (self._others,))
            found = {key: bool(copy) for key, copy in rows}
        return {key: found[key] for key in keys if key in found}

    def add(self, found: Mapping[str, bool]) -> None:
        """Store whether items are copies, by their keys."""
        if self._database is not None:
            with _open(self._database) as connection, connection:
                rows = [(self._others, key, int(copy)) for key, copy in found.items() if key]
                connection.executemany("INSERT OR REPLACE INTO copies VALUES (?, ?, ?)", rows)


@contextmanager
def _open(database: Path) -> Iterator[sqlite3.Connection]:
    """Open the database; create it if it does not exist.

    Raises:
        OSError: the database cannot be used.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            for table in _TABLES:
                connection.execute(table)
            yield connection
    except sqlite3.Error as error:
        raise OSError(f"the database of fingerprints in cache_dir: {error}; remove it, or give another") from error


def _of_row(digest: str, bits: bytes, mirrored: bytes, side: int, thumbnail: bytes) -> Fingerprint:
    first, second = (np.unpackbits(np.frombuffer(packed, np.uint8)).astype(bool) for packed in (bits, mirrored))
    return Fingerprint(digest, first, second, np.frombuffer(thumbnail, np.uint8).reshape(side, side))


def _fingerprinted(items: Sequence[Mapping[str, Any]]) -> Iterator[Fingerprint | StudyError]:
    from monai_rd.transforms import LoadImageOrSeriesd

    mine = threading.local()

    def look(item: Mapping[str, Any]) -> Fingerprint | StudyError:
        if not hasattr(mine, "load"):
            mine.load = LoadImageOrSeriesd("image")
        try:
            return image_fingerprint(mine.load({"image": item["image"]})["image"])
        except Exception as error:
            reason = original_error(error)
            if isinstance(reason, OSError):  # from a library; errors of the system are UnreadableFileError already
                return UnreadableFileError("It cannot be read.")
            if isinstance(reason, StudyError):
                return reason
            raise

    with ThreadPool(min(own_cores(), 4)) as pool:
        yield from pool.imap(look, items)
