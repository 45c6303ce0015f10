"""Unpacking of zip files from anywhere: no name in them is a path, and nothing is believed that they say of sizes."""

from __future__ import annotations

import errno
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from monai_rd.serve.limits import RefusedError

__all__ = ["entries"]

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may ask for gigabytes of memory by a header
_DIRECTORY_BYTES = 250  # of a file in the zip's directory, with its name
_LEAST_DIRECTORY = 1 << 20


class _Bounded(io.FileIO):
    """A file of which little is read at a time: `zipfile` reads the directory, of any length, at once."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path, "rb")
        self._most = max(most, _LEAST_DIRECTORY)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes, or all if it is negative."""
        few = size is not None and 0 <= size <= self._most
        found = super().read(size if few else self._most + 1) or b""
        if len(found) > self._most:
            raise RefusedError("The zip file holds too many files.", 413)
        return found


@contextmanager
def entries(path: Path, most: int) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Open a zip file, and give the names in it, sorted, each with its content.

    Args:
        path: of the zip file.
        most: number of files that it may hold.

    Raises:
        RefusedError: it is damaged, which may show inside the context only, encrypted or packed in a rare way; it holds
            too many files, a link, or a name that leads out of its folder.
    """
    try:
        with _Bounded(path, most * _DIRECTORY_BYTES) as file, zipfile.ZipFile(file) as opened:
            found = sorted((one for one in opened.infolist() if not one.is_dir()), key=lambda one: one.filename)
            if len(found) > most:
                raise RefusedError("The zip file holds too many files.", 413)
            for one in found:
                _check(one)
            yield ((one.filename, opened.open(one)) for one in found)
    except RefusedError:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError) as error:
        raise RefusedError("The zip file is damaged or not complete. Pack it again.") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # a place before the start of the file
            raise RefusedError("The zip file is damaged or not complete. Pack it again.") from error
        raise


def _check(one: zipfile.ZipInfo) -> None:
    if one.flag_bits & 1:
        raise RefusedError("The zip file has a password. Pack it without one.")
    if one.compress_type not in _METHODS:
        raise RefusedError("The zip file is packed in a way that is not read. Pack it as an ordinary zip file.")
    if stat.S_IFMT(one.external_attr >> 16) not in (0, stat.S_IFREG):
        raise RefusedError("The zip file holds a link or a device. Pack the files themselves.")
    name = one.orig_filename.replace("\\", "/")
    if "\0" in name or name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        raise RefusedError("The zip file holds names that lead out of its folder: it is not what it seems to be.")
