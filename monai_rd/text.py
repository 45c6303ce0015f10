"""Text from outside: how its bytes are read, what counts as one and the same, how it is shown."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

__all__ = ["alike", "comparable", "decode", "name_of", "read_text"]


def decode(content: bytes, *encodings: str) -> str:
    """Decode bytes in the first encoding that fits, and in Latin-1, which always does.

    Args:
        content: the bytes.
        encodings: Python's names.
    """
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
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
    """Return the name of a class or a group as it counts everywhere: letters composed (NFC), blanks single."""
    return " ".join(unicodedata.normalize("NFC", value).split())


def alike(name: str) -> str:
    """Return what names share that people take for one: without case, blanks, underscores, the width of letters, .0."""
    folded = unicodedata.normalize("NFKC", comparable(name).casefold())
    joined = re.sub(r"(?<=[^\W\d_])(?:[\s_]+|-)(?=\w)|(?<=\w)(?:[\s_]+|-)(?=[^\W\d_])|^[\s_]+|[\s_]+$", "", folded)
    return re.sub(r"^(-?)0*(\d+)(?:[.,]0*)?$", r"\1\2", joined)
