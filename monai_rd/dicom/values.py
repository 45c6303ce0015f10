"""Values of a DICOM header, straight from its bytes.

Some forty values are needed of every file. pydicom converts and checks each of them, and its warning about an odd one
quotes it; here the stored bytes are decoded by what the caller wants, and an odd value counts as absent.
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

# Value representations that hold numbers, by the code of `struct` for one of them; all others hold characters.
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q", "US or SS": "H"}
_CODE = re.compile(r"[A-Za-z0-9._ ]{1,64}")
_UID = re.compile(r"[0-9.]+")
_WHOLE_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
# Digits alone could be a number or a date of birth, letters alone a name.
_HASH = re.compile(r"((id|uid|study|series|image|sop)[_-])?[0-9a-f]{8}[0-9a-f-]*", re.IGNORECASE)
_MIXED = re.compile(r"[0-9][a-f]|[a-f][0-9]", re.IGNORECASE)
# Bytes of a value that is decoded once, as most files of a series say the same; longer ones are not kept.
_SHORT = 64

_same_tag = cache(BaseTag)


@cache
def tag_of(keyword: str | int) -> BaseTag:
    """Return a tag, always as the same object: pydicom's comparison, which a dict asks for any other, takes long."""
    return _same_tag(int(Tag(keyword)))


@cache
def _known_kind(tag: BaseTag) -> str:
    return dictionary_VR(tag)


def element_of(dataset: Dataset, keyword: str | int) -> DataElement | RawDataElement | None:
    """Return an element as it was read, None where it is absent or undecodable."""
    try:
        return dataset.get_item(tag_of(keyword))
    except Exception:  # an undecodable element counts as absent
        return None


def has(dataset: Dataset, keyword: str | int) -> bool:
    """Tell whether a header has an element, be it empty."""
    return tag_of(keyword) in dataset


def items(dataset: Dataset, keyword: str | int) -> tuple[Dataset, ...]:
    """Return the items of a sequence, () where it is absent or empty.

    Raises:
        Exception: it is damaged.
    """
    return tuple(dataset[tag_of(keyword)].value or ()) if has(dataset, keyword) else ()


def raw(dataset: Dataset, keyword: str) -> bytes:
    """Return the stored bytes without padding; b"" where absent."""
    element = element_of(dataset, keyword)
    value = element.value if element is not None else None
    return (value if isinstance(value, bytes) else str(value or "").encode()).strip(b" \0")


def parts(dataset: Dataset, keyword: str | int) -> tuple[str, ...]:
    """Return the values of an attribute of characters, without the blanks around them; () where absent."""
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
    """Return a short code string or UID; "" where absent or where it holds anything but one code."""
    found = parts(dataset, keyword)
    return found[0] if len(found) == 1 and _CODE.fullmatch(found[0]) else ""


def uid(dataset: Dataset, keyword: str) -> str:
    """Return a UID; "" where absent or not a UID (free text there could name a person)."""
    found = text(dataset, keyword)
    return found if _UID.fullmatch(found) else ""


def known_uid(dataset: Dataset, keyword: str) -> str:
    """Return what stands for the value of a UID attribute, see `known_uid_of`; "" where it has none."""
    return known_uid_of(raw(dataset, keyword))


def known_uid_of(value: bytes | str) -> str:
    """Return a UID, and of another value something that tells it from others and names nobody.

    A UID stays, also where a part of it begins with 0. Files that were made anonymous often have a code in its place,
    such as `ID_eba422961c`: that stays too, so that lists that name it find it. Anything else could be a name, and
    becomes the start of its SHA-256.

    Args:
        value: as it stands in a header or a list; blanks and NUL around it do not count.
    """
    found = _stripped(value)
    return _uid_or_code(found) or (f"sha256-{hashlib.sha256(found).hexdigest()[:16]}" if found else "")


def uid_or_code(dataset: Dataset, keyword: str) -> str:
    """Return a UID or a code in its place, see `known_uid_of`; "" for other words, which all images may share."""
    return _uid_or_code(_stripped(raw(dataset, keyword)))


def _stripped(value: bytes | str) -> bytes:
    return (value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")).strip(b" \0\t\r\n")


def _uid_or_code(value: bytes) -> str:
    found = value.decode("latin-1")
    is_code = bool(_HASH.fullmatch(found) and _MIXED.search(found))
    return found if len(found) <= 64 and (is_code or _WHOLE_UID.fullmatch(found)) else ""


def all_numbers(dataset: Dataset, keyword: str | int, private_kind: str = "") -> tuple[float, ...]:
    """Return the values of a numeric attribute, () where absent or empty.

    Args:
        dataset: that holds it.
        keyword: of the attribute, or the tag of a private one.
        private_kind: value representation of a private one, for files that do not tell it.

    Raises:
        Exception: one is no number.
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
    if "_" in value:  # which Python takes for a separator of thousands
        raise ValueError("no number")
    return float(value)


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return ``count`` finite numbers, None where the attribute is absent, empty, of other length or not numeric."""
    try:
        found = tuple(map(float, all_numbers(dataset, keyword)))
    except Exception:  # an undecodable value counts as absent
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def integer(dataset: Dataset, keyword: str, default: int) -> int:
    """Return a whole number, the default where absent, not one, or undecodable."""
    try:
        (value,) = all_numbers(dataset, keyword)
        return int(value) if value == int(value) else default
    except Exception:  # an undecodable value counts as absent
        return default
