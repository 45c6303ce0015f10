"""Fingerprints of items, by which copies are found: made once, and remembered by the content of their files."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_rd.data.alike import IMAGES, VOLUMES, Fingerprint, Picture, digest_of, fingerprint
from monai_rd.data.errors import StudyError, UnreadableFileError, original_error
from monai_rd.processes import own_cores

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["grey_picture", "print_of", "prints_of"]

logger = logging.getLogger(__name__)

_FORMAT = 1  # another one for every change of what a fingerprint is
_WRITE_EVERY = 256  # items: what a killed run looks at again at most


def print_of(image: MetaTensor) -> Fingerprint:
    """The fingerprint of an image `[C, X, Y]` or a volume `[C, X, Y, Z]`, as `LoadImageOrSeriesd` gives it."""
    values = image.as_tensor().numpy()
    return fingerprint(grey_picture(image), digest_of(values), VOLUMES if values.ndim == 4 else IMAGES)


def grey_picture(image: MetaTensor) -> Picture:
    """An image in grey; of a volume four slices, evenly spread, two by two."""
    from monai_rd.transforms import SliceStackd

    stack = SliceStackd("image", 4)({"image": image})["image"].as_tensor().numpy()
    if len(stack) == 4:
        stack = np.block([[stack[0], stack[1]], [stack[2], stack[3]]])[None]
    if image.meta.get("intensity") != "display":
        low, high = np.percentile(stack, (0.5, 99.5))
        stack = (stack - low) * (255 / max(high - low, 1e-6))
    return stack[0].clip(0, 255).round().astype(np.uint8)


def prints_of(
    items: Sequence[Mapping[str, Any]], keys: Sequence[str], memory: Path | None = None
) -> Iterator[Fingerprint | StudyError]:
    """Look at items, in threads; those that were looked at before are not loaded again.

    Args:
        items: with `image`.
        keys: what they are, see `item_key`; "" is not remembered.
        memory: an SQLite file that several processes may use; None remembers nothing.

    Yields:
        Of each item its fingerprint, or why it cannot be read.

    Raises:
        OSError: the memory cannot be used.
    """
    if memory is None:
        yield from _looked_at(items)
        return
    memory.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(memory, timeout=60)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS prints (key TEXT, format INTEGER, digest TEXT, bits BLOB, mirrored BLOB, "
                "side INTEGER, thumbnail BLOB, PRIMARY KEY (key, format)) WITHOUT ROWID"
            )
            for start in range(0, len(items), _WRITE_EVERY):
                block = slice(start, start + _WRITE_EVERY)
                yield from _remembered(connection, items[block], keys[block])
    except sqlite3.Error as error:
        raise OSError(f"the memory of fingerprints in cache_dir: {error}; remove it, or give another") from error


def _remembered(
    connection: sqlite3.Connection, items: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> list[Fingerprint | StudyError]:
    look = "SELECT digest, bits, mirrored, side, thumbnail FROM prints WHERE key = ? AND format = ?"
    rows = [connection.execute(look, (key, _FORMAT)).fetchone() for key in keys]
    found: list[Any] = [row and _of_row(*row) for row in rows]
    unknown = [place for place, one in enumerate(found) if one is None]
    new = []
    for place, one in zip(unknown, _looked_at([items[place] for place in unknown]), strict=True):
        found[place] = one
        if isinstance(one, Fingerprint) and keys[place]:
            bits, mirrored = (np.packbits(bits).tobytes() for bits in (one.bits, one.mirrored_bits))
            side, thumbnail = len(one.thumbnail), one.thumbnail.tobytes()
            new.append((keys[place], _FORMAT, one.digest, bits, mirrored, side, thumbnail))
    if new:
        with connection:
            connection.executemany("INSERT OR REPLACE INTO prints VALUES (?, ?, ?, ?, ?, ?, ?)", new)
    return found


def _of_row(digest: str, bits: bytes, mirrored: bytes, side: int, thumbnail: bytes) -> Fingerprint:
    first, second = (np.unpackbits(np.frombuffer(packed, np.uint8)).astype(bool) for packed in (bits, mirrored))
    return Fingerprint(digest, first, second, np.frombuffer(thumbnail, np.uint8).reshape(side, side))


def _looked_at(items: Sequence[Mapping[str, Any]]) -> Iterator[Fingerprint | StudyError]:
    from monai_rd.transforms import LoadImageOrSeriesd

    mine = threading.local()

    def look(item: Mapping[str, Any]) -> Fingerprint | StudyError:
        if not hasattr(mine, "load"):
            mine.load = LoadImageOrSeriesd("image")
        try:
            return print_of(mine.load({"image": item["image"]})["image"])
        except Exception as error:
            reason = original_error(error)
            if isinstance(reason, OSError):  # a library's: the system's is an UnreadableFileError already
                return UnreadableFileError("It cannot be read.")
            if isinstance(reason, StudyError):
                return reason
            raise

    with ThreadPool(min(own_cores(), 4)) as pool:
        yield from pool.imap(look, items)
