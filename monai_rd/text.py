"""Text from outside: decoding, comparison of equivalent spellings, safe output."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["comparable", "csv_of", "decode", "name_key", "name_of", "printable", "read_text", "system_message"]

_JOINERS = "\u200c\u200d"
# Characters that begin a formula in a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def decode(content: bytes, *encodings: str) -> str:
    """Decode bytes in the first encoding that fits, else in Latin-1, which always fits.

    Args:
        content: the bytes.
        encodings: names of Python codecs; unknown names are ignored.
    """
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except (UnicodeError, LookupError):  # a file may name an unknown codec, or one that is not for text
            continue
    return content.decode("latin-1")


def read_text(path: Path) -> str:
    """Read a text file of any program: UTF-8, UTF-16 or UTF-32, with or without byte order mark, else Windows-1252.

    Raises:
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    guessed = json.detect_encoding(content)  # by the byte order mark and the positions of zeros
    return decode(content, guessed, "cp1252").removeprefix("\ufeff")


def comparable(value: str) -> str:
    """Return a normal form of a text that is equal for texts that look alike (Unicode NFKC, stripped).

    ``Mu\u0308l`` and ``Mül`` become equal, as do full-width and plain digits; invisible characters are removed.
    """
    found = unicodedata.normalize("NFKC", value)
    return "".join(c for c in found if unicodedata.category(c) != "Cf").strip(" \0\t\r\n\v\f")


def name_of(value: str) -> str:
    """Return the canonical name of a class or a group: composed letters (Unicode NFC), single blanks.

    Line breaks count as blanks. Unprintable characters are removed, except the joiners of emoji and of some scripts.
    """
    words = unicodedata.normalize("NFC", value).split()
    return " ".join("".join(c for c in word if c.isprintable() or c in _JOINERS) for word in words).strip()


def name_key(name: str) -> str:
    """Return a key that is equal for names that people consider equal: it ignores case, blanks, "_", width and ".0"."""
    folded = unicodedata.normalize("NFKC", comparable(name).casefold())
    joined = re.sub(r"(?<=[^\W\d_])(?:[\s_]+|-)(?=\w)|(?<=\w)(?:[\s_]+|-)(?=[^\W\d_])|^[\s_]+|[\s_]+$", "", folded)
    return re.sub(r"^(-?)0*(\d+)(?:[.,]0*)?$", r"\1\2", joined)


def printable(text: str) -> str:
    """Return a text with control characters and marks of text direction replaced by their escape codes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n" + _JOINERS else ascii(c)[1:-1] for c in text)


def csv_of(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table as CSV; text that a spreadsheet would take for a formula gets a leading apostrophe.

    Args:
        columns: names in the header, and keys of the rows.
        rows: rows by column name; a missing key gives an empty cell. Numbers are written unchanged.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([_no_formula(name) for name in columns])
    writer.writerows([_no_formula(row.get(name, "")) for name in columns] for row in rows)
    return text.getvalue()


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) and not _is_number(cell) else cell


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?", cell) is not None


def system_message(error: OSError) -> str:
    """Return the system's message of an error, such as "Permission denied", without the path."""
    return os.strerror(error.errno) if error.errno is not None else type(error).__name__
