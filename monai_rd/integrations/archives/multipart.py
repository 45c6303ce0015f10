"""Streaming multipart bodies (RFC 2046) to files, without holding them in memory; truncated bodies are detected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import BinaryIO

from monai_rd.integrations.archives.failures import ArchiveError, Failure

__all__ = ["save_parts"]

_MOST_HEADERS = 64 << 10  # bytes before the content of a part


def save_parts(chunks: Iterable[bytes], boundary: str, media_type: str, file_of: Callable[[int], Path]) -> list[Path]:
    """Write each part of a multipart body into a file.

    Args:
        chunks: the chunks of the body.
        boundary: the boundary from the header Content-Type.
        media_type: required type of every part; a part without a type is accepted.
        file_of: returns the path for part 0, 1, 2, ...

    Returns:
        The files, in order. If the body is invalid, the files written so far are kept.

    Raises:
        ArchiveError: the body is not multipart, truncated, or has a part of another type.
    """
    delimiter = b"\r\n--" + boundary.encode()
    data = bytearray(b"\r\n")  # missing before the first delimiter
    files: list[Path] = []
    out: BinaryIO | None = None
    between = False  # a delimiter was read, and not yet the headers that follow it
    try:
        for chunk in chunks:
            data += chunk
            while True:
                if between:
                    if data.startswith(b"--"):
                        return files
                    end = data.find(b"\r\n\r\n")
                    if end < 0:
                        if len(data) > _MOST_HEADERS:
                            raise ArchiveError("DICOMweb: a part of an answer has no end of headers", Failure.DAMAGED)
                        break
                    _require(bytes(data[:end]), media_type)
                    del data[: end + 4]
                    files.append(file_of(len(files)))
                    out, between = open(files[-1], "wb"), False  # noqa: SIM115 - open over several chunks
                end = data.find(delimiter)
                known = end if end >= 0 else max(0, len(data) - len(delimiter) + 1)
                if out is not None:
                    out.write(data[:known])
                if end < 0:
                    del data[:known]
                    break
                if out is not None:
                    out.close()
                del data[: end + len(delimiter)]
                out, between = None, True
    finally:
        if out is not None:
            out.close()
    raise ArchiveError("DICOMweb: an answer was cut off, or is no multipart one", Failure.DAMAGED)


def _require(headers: bytes, media_type: str) -> None:
    """Raise an error if a part has another media type."""
    said = BytesHeaderParser().parsebytes(headers.lstrip() + b"\r\n\r\n")
    if "content-type" in said and said.get_content_type() != media_type:
        raise ArchiveError(f"DICOMweb: a part of an answer is no {media_type}", Failure.DAMAGED)
