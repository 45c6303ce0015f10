"""Text from outside: how its bytes are read, what counts as one and the same, how it is shown."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["comparable", "csv_of", "decode", "name_key", "name_of", "printable", "read_text"]

_JOINERS = "\u200c\u200d"
# What a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def decode(content: bytes, *encodings: str) -> str:
    """Decode bytes in the first encoding that fits, and in Latin-1, which always does.

    Args:
        content: the bytes.
        encodings: Python's names.
    """
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except (UnicodeError, LookupError):  # what a file names may be any of Python's codecs
            continue
    return content.decode("latin-1")


def read_text(path: Path) -> str:
    """Read a text file that any program may have written: UTF-8, -16 or -32, with a mark or without, else Windows-1252.

    Raises:
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    guessed = json.detect_encoding(content)  # by the mark, and by where zeros stand
    return decode(content, guessed, "cp1252").removeprefix("\ufeff")


def comparable(value: str) -> str:
    """Return what is the same of two texts that look alike: composed, of one width, without blanks around.

    ``Mu\u0308l`` and ``Mül`` are one, and so are full-width and plain digits (Unicode NFKC); invisible marks go.
    """
    found = unicodedata.normalize("NFKC", value)
    return "".join(c for c in found if unicodedata.category(c) != "Cf").strip(" \0\t\r\n\v\f")


def name_of(value: str) -> str:
    """Return the name of a class or a group as it counts everywhere: letters composed (NFC), blanks single.

    Line breaks are blanks; what is no character to be seen goes, but for the joiners of emoji and of some scripts.
    """
    words = unicodedata.normalize("NFC", value).split()
    return " ".join("".join(c for c in word if c.isprintable() or c in _JOINERS) for word in words).strip()


def name_key(name: str) -> str:
    """Return what names share that people take for one: without case, blanks, underscores, the width of letters, .0."""
    folded = unicodedata.normalize("NFKC", comparable(name).casefold())
    joined = re.sub(r"(?<=[^\W\d_])(?:[\s_]+|-)(?=\w)|(?<=\w)(?:[\s_]+|-)(?=[^\W\d_])|^[\s_]+|[\s_]+$", "", folded)
    return re.sub(r"^(-?)0*(\d+)(?:[.,]0*)?$", r"\1\2", joined)


def printable(text: str) -> str:
    """Return a text with control characters, and marks that turn its direction, as their codes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n" + _JOINERS else ascii(c)[1:-1] for c in text)


def csv_of(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table as CSV, in which no text is a formula to a spreadsheet: an apostrophe stands before such a one.

    Args:
        columns: of the header, and keys of the rows.
        rows: a key that is missing gives an empty cell. Numbers are written as they are.
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
