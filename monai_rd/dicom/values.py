"""Values of a DICOM header, decoded directly from the stored bytes.

About forty values are needed of every file. pydicom converts and checks each of them, and its warnings about invalid
values quote them. Here the bytes are decoded to the type that the caller needs; most functions treat an invalid value
as absent.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from functools import cache, lru_cache

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

__all__ = [
    "all_numbers",
    "element_of",
    "has",
    "integer",
    "items",
    "known_uid",
    "known_uid_of",
    "numbers",
    "parts",
    "raw",
    "tag_of",
    "text",
    "uid",
    "uid_or_code",
]

# Value representations that hold binary numbers, with the format character of `struct`; all others hold text.
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q", "US or SS": "H"}
_CODE = re.compile(r"[A-Za-z0-9._ ]{1,64}")
_UID = re.compile(r"[0-9.]+")
_WHOLE_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
# A code must hold both digits and letters: digits alone could be an ID or a date of birth, letters alone a name.
_HASH = re.compile(r"((id|uid|study|series|image|sop)[_-])?[0-9a-f]{8}[0-9a-f-]*", re.IGNORECASE)
_MIXED = re.compile(r"[0-9][a-f]|[a-f][0-9]", re.IGNORECASE)
# Largest size in bytes of a value that is cached once decoded, as most files of a series have the same values.
_SHORT = 64

_same_tag = cache(BaseTag)


@cache
def tag_of(keyword: str | int) -> BaseTag:
    """Return a tag, always the same object, so that dict lookups avoid pydicom's slow comparison of tags."""
    return _same_tag(int(Tag(keyword)))


@cache
def _known_kind(tag: BaseTag) -> str:
    return dictionary_VR(tag)


def element_of(dataset: Dataset, keyword: str | int) -> DataElement | RawDataElement | None:
    """Return an element as it was read, None if it is absent or cannot be decoded."""
    try:
        return dataset.get_item(tag_of(keyword))
    except Exception:  # an undecodable element counts as absent
        return None


def has(dataset: Dataset, keyword: str | int) -> bool:
    """Return whether a header has an element, even an empty one."""
    return tag_of(keyword) in dataset


def items(dataset: Dataset, keyword: str | int) -> tuple[Dataset, ...]:
    """Return the items of a sequence, () if it is absent or empty.

    Raises:
        Exception: the sequence is damaged.
    """
    return tuple(dataset[tag_of(keyword)].value or ()) if has(dataset, keyword) else ()


def raw(dataset: Dataset, keyword: str) -> bytes:
    """Return the stored bytes of an element without padding, b"" if it is absent."""
    element = element_of(dataset, keyword)
    value = element.value if element is not None else None
    return (value if isinstance(value, bytes) else str(value or "").encode()).strip(b" \0")


def parts(dataset: Dataset, keyword: str | int) -> tuple[str, ...]:
    """Return the values of a text attribute, stripped; () if it is absent."""
    element = element_of(dataset, keyword)
    if element is None or element.value is None:
        return ()
    if isinstance(element, RawDataElement):
        return (_parts if len(element.value) <= _SHORT else _parts.__wrapped__)(element.value)
    many = element.value if element.VM > 1 else [element.value]
    return tuple(str(value).strip() for value in many)


@lru_cache(1 << 12)
def _parts(value: bytes) -> tuple[str, ...]:
    found = value.decode("latin-1").strip(" \0")
    return tuple(part.strip() for part in found.split("\\")) if found else ()


def text(dataset: Dataset, keyword: str) -> str:
    """Return a short code string or UID; "" if absent, or anything other than a single code."""
    found = parts(dataset, keyword)
    return found[0] if len(found) == 1 and _CODE.fullmatch(found[0]) else ""


def uid(dataset: Dataset, keyword: str) -> str:
    """Return a UID; "" if it is absent or not a UID (free text could name a person)."""
    found = text(dataset, keyword)
    return found if _UID.fullmatch(found) else ""


def known_uid(dataset: Dataset, keyword: str) -> str:
    """Return the value of a UID attribute or its substitute, see `known_uid_of`; "" if it has none."""
    return known_uid_of(raw(dataset, keyword))


def known_uid_of(value: bytes | str) -> str:
    """Return a UID unchanged, and for any other value a substitute that is distinct and names nobody.

    UIDs are kept, even if a component begins with 0. De-identified files often hold a code instead, such as
    `ID_eba422961c`: it is kept too, so that lists can refer to it. Any other text could be a name and is replaced by
    the first digits of its SHA-256.

    Args:
        value: value of a header or a list; blanks and NUL around it are ignored.
    """
    found = _stripped(value)
    return _uid_or_code(found) or (f"sha256-{hashlib.sha256(found).hexdigest()[:16]}" if found else "")


def uid_or_code(dataset: Dataset, keyword: str) -> str:
    """Return a UID or a code used instead, see `known_uid_of`; "" for other text, which all images may share."""
    return _uid_or_code(_stripped(raw(dataset, keyword)))


def _stripped(value: bytes | str) -> bytes:
    return (value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")).strip(b" \0\t\r\n")


def _uid_or_code(value: bytes) -> str:
    found = value.decode("latin-1")
    is_code = bool(_HASH.fullmatch(found) and _MIXED.search(found))
    return found if len(found) <= 64 and (is_code or _WHOLE_UID.fullmatch(found)) else ""


def all_numbers(dataset: Dataset, keyword: str | int, private_kind: str = "") -> tuple[float, ...]:
    """Return the values of a numeric attribute, () if it is absent or empty.

    Args:
        dataset: data set that holds the attribute.
        keyword: keyword of the attribute, or tag of a private one.
        private_kind: value representation of a private attribute, for files that do not state it.

    Raises:
        Exception: a value is not a number.
    """
    element = element_of(dataset, keyword)
    if element is None or element.value is None:
        return ()
    if not isinstance(element, RawDataElement):
        return tuple(float(value) for value in (element.value if element.VM > 1 else [element.value]))
    kind = element.VR if element.VR not in (None, "UN") else private_kind or _known_kind(element.tag)
    decode = _numbers if len(element.value) <= _SHORT else _numbers.__wrapped__
    return decode(element.value, _BINARY.get(kind), element.is_little_endian)


@lru_cache(1 << 12)
def _numbers(value: bytes, code: str | None, little: bool) -> tuple[float, ...]:
    if code is None:
        found = value.decode("ascii").strip(" \0")
        return tuple(_decimal(part) for part in found.split("\\")) if found else ()
    count = len(value) // struct.calcsize(f"<{code}")
    return struct.unpack(f"{'<' if little else '>'}{count}{code}", value)


def _decimal(value: str) -> float:
    if "_" in value:  # which Python would accept as a separator of thousands
        raise ValueError("no number")
    return float(value)


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return ``count`` finite numbers, None if the attribute is absent, of another length, or not numeric."""
    try:
        found = tuple(map(float, all_numbers(dataset, keyword)))
    except Exception:  # an undecodable value counts as absent
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def integer(dataset: Dataset, keyword: str, default: int) -> int:
    """Return a single integer, or the default if the attribute is absent, not an integer, or cannot be decoded."""
    try:
        (value,) = all_numbers(dataset, keyword)
        return int(value) if value == int(value) else default
    except Exception:  # an undecodable value counts as absent
        return default
