"""The files of an upload, stored under numbers."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from monai_rd.files import DICOM_SUFFIXES, READ_SUFFIXES, free_space, no_room, size_in_words, unread_kind
from monai_rd.serve.limits import Limits, RefusedError
from monai_rd.serve.zips import entries
from monai_rd.walk import is_system_name

__all__ = ["Uploads"]

_BLOCK = 1 << 20


class Uploads:
    """The files of one upload in a folder of their own, within limits for all of them together.

    A file is stored under its number and the end of its name that tells its kind (".nii.gz"); the rest of the name,
    which may be a patient's, is forgotten. Files that are ".zip" are unpacked, those inside them are not.

    Args:
        folder: created, and readable by its owner alone.
        limits: what is accepted.

    Attributes:
        folder: as given.
        count: number of files stored.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        folder.mkdir(mode=0o700)
        self.folder, self.limits = folder, limits
        self.count = self._sent = self._unpacked = 0
        self._lock = threading.Lock()  # zip files are unpacked beside the event loop, several at a time

    async def receive(self, number: int, name: str, size: int | None, chunks: AsyncIterator[bytes]) -> Path | None:
        """Store a file as it comes; one that belongs to a system (".DS_Store") is read and thrown away.

        Args:
            number: of the file in the upload, from 1.
            name: with the folders above it, as the browser tells it.
            size: bytes that are announced, None if not known.
            chunks: the content.

        Returns:
            Where a zip file lies, which is to be given to `unpack`; else None.

        Raises:
            RefusedError: a limit is reached, the disk is full, or the number was used before.
        """
        if not 1 <= number <= self.limits.files:
            raise RefusedError(self._too_many, 413)
        if size is not None:
            self._room_for(size)
        path = self.folder / f"{number:06d}{_kind(name)}"
        with self._writing(path) as file:
            async for chunk in chunks:
                self._add(sent=len(chunk), unpacked=len(chunk))
                file.write(chunk)
        if _is_of_system(name):
            path.unlink()
            return None
        self._add(files=1)
        return path if path.suffix == ".zip" else None

    def unpack(self, path: Path) -> None:
        """Unpack a zip file that was received, and remove it; nothing of one that is refused stays.

        Raises:
            RefusedError: see `entries`; or a limit is reached, or the disk is full.
        """
        made: list[Path] = []
        try:
            self._unpack(path, made)
        except BaseException:
            for part in made:
                part.unlink(missing_ok=True)
            raise
        finally:
            path.unlink()

    def _unpack(self, path: Path, made: list[Path]) -> None:
        packed, done = path.stat().st_size, 0
        most = max(self.limits.small, self.limits.ratio * packed)
        with entries(path, self.limits.files) as found:
            for number, (name, content) in enumerate(found, start=1):
                if _is_of_system(name):
                    continue
                self._add(files=1)
                made.append(path.with_name(f"{path.stem}_{number:06d}{_kind(name)}"))
                with content, self._writing(made[-1]) as file:
                    while block := content.read(_BLOCK):
                        done += len(block)
                        self._add(unpacked=len(block))
                        if done > most:
                            raise RefusedError("The zip file unpacks to far more than it is: it is refused.", 413)
                        file.write(block)
        self._add(files=-1, unpacked=-packed)

    @property
    def _too_many(self) -> str:
        return f"There are more than {self.limits.files} files. Send fewer at a time."

    def _room_for(self, size: int) -> None:
        if self._sent + size > self.limits.sent:
            raise RefusedError(f"That is more than {size_in_words(self.limits.sent)}. Send less at a time.", 413)
        if free_space(self.folder) - size < self.limits.free:
            raise RefusedError("The disk of the computer that runs this page is full.", 507)

    def _add(self, sent: int = 0, unpacked: int = 0, files: int = 0) -> None:
        with self._lock:
            self._sent += sent
            self._unpacked += unpacked
            self.count += files
            if self._sent > self.limits.sent:
                raise RefusedError(f"That is more than {size_in_words(self.limits.sent)}. Send less at a time.", 413)
            if self._unpacked > self.limits.unpacked:
                most = size_in_words(self.limits.unpacked)
                raise RefusedError(f"Unpacked it is more than {most}. Send less at a time.", 413)
            if self.count > self.limits.files:
                raise RefusedError(self._too_many, 413)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[IO[bytes]]:
        """Open a new file; it is removed if it cannot be written to its end."""
        self._room_for(0)
        try:
            file = open(path, "xb")  # noqa: SIM115
        except FileExistsError:
            raise RefusedError("A file with this number was sent before.", 409) from None
        try:
            with file:
                yield file
        except BaseException as error:
            path.unlink(missing_ok=True)
            if no_room(error):
                raise RefusedError("The disk of the computer that runs this page is full.", 507) from error
            raise


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", name) if part]


def _is_of_system(name: str) -> bool:
    return any(is_system_name(part) for part in _parts(name))


def _kind(name: str) -> str:
    """Return the end of a name that tells the kind of a file, one of those that readers know; "" if it tells none."""
    last = Path((_parts(name) or [""])[-1].lower())
    known = sorted((*READ_SUFFIXES, *DICOM_SUFFIXES), key=len, reverse=True)
    return next((end for end in known if last.name.endswith(end)), "") or unread_kind(last)
