"""The elements that are wanted of an ordinary DICOM file, in a third of the time that pydicom takes for them.

pydicom looks at each of the hundred or two hundred elements of a file by itself. Here those that nobody asks for are
passed over, and of a well-formed little-endian file the wanted ones come as pydicom's own raw elements. Whatever is
unusual (big endian, deflated, without preamble, cut off, damaged, a wanted sequence of undefined length) is left to
pydicom: nothing is read otherwise here than there, except that damage in a sequence nobody asks for is passed over.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Set
from dataclasses import dataclass, field
from functools import cache
from struct import Struct
from typing import Any, cast

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.values import convert_string

from monai_rd.data.errors import UnreadableFileError, reading_files
from monai_rd.files import open_file

__all__ = ["PIXELS", "FilePart", "ordinary_elements"]

PIXELS = 0x7FE00000  # the pixel data and what belongs to it have tags from here on
_BLOCK = 1 << 14
_UNDEFINED = 0xFFFFFFFF
_CHARACTER_SET, _ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0x00080005, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SOP_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010
_PIXEL_DATA, _NATIVE = 0x7FE00010, (ExplicitVRLittleEndian.encode(), ImplicitVRLittleEndian.encode())
_NOT_ORDINARY = (DeflatedExplicitVRLittleEndian.encode(), ExplicitVRBigEndian.encode())
_HEAD, _LONG = Struct("<HHI"), Struct("<I")
# Value representations by their two letters as a number, with the bytes of a head (PS3.5 7.1.2).
_KINDS = {
    int.from_bytes(name.encode(), "little"): (name, head)
    for head, names in (
        (8, "AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US"),
        (12, "OB OD OF OL OV OW SQ SV UC UN UR UT UV"),
    )
    for name in names.split(" ")
}
_base_tag = cache(BaseTag)


class _Unusual(Exception):
    """The file is left to pydicom."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes in a file that are read when they are needed: pixels, of whose files a volume has hundreds.

    Attributes:
        path: of the file; can carry a name.
        start: place of the first one.
        size: how many there are.
    """

    path: str = field(repr=False)
    start: int
    size: int

    def __len__(self) -> int:
        return self.size

    def read(self) -> bytes:
        """Return them.

        Raises:
            UnreadableFileError: the file cannot be read any more, or has become shorter.
        """
        with reading_files(), open_file(self.path) as file:
            file.seek(self.start)
            found = file.read(self.size)
        if len(found) < self.size:
            raise UnreadableFileError(
                "A file has become shorter while it was read. Wait until it is written; try again."
            )
        return found


def ordinary_elements(stream: io.BufferedReader, wanted: Set[int], pixels: bool) -> Dataset | None:
    """Read what is wanted of an ordinary file.

    Args:
        stream: the open file.
        wanted: tags of the elements; the character set comes with them.
        pixels: whether to read on behind the header.

    Returns:
        The wanted elements that are there, with `file_meta` of the transfer syntax and the SOP class; uncompressed
        PixelData has a `FilePart` in place of its bytes. None for a file that is not ordinary.
    """
    try:
        return _read(stream, wanted, pixels)
    except _Unusual:
        return None


def _read(stream: io.BufferedReader, wanted: Set[int], pixels: bool) -> Dataset:
    stream.seek(128)
    if stream.read(4) != b"DICM":
        raise _Unusual
    size = os.fstat(stream.fileno()).st_size
    found, end = _elements(stream, 132, size, {_SOP_CLASS, _TRANSFER_SYNTAX}, stop=0x00030000)
    syntax = found.get(BaseTag(_TRANSFER_SYNTAX))
    name = cast(bytes, syntax.value or b"").strip(b" \0") if syntax is not None else b""
    if name in _NOT_ORDINARY or not re.fullmatch(rb"[0-9.]+", name):
        raise _Unusual
    meta, implicit = FileMetaDataset(found), name == ImplicitVRLittleEndian.encode()
    stop = 1 << 32 if pixels else PIXELS
    later = frozenset({_PIXEL_DATA} if name in _NATIVE else ())
    found, _ = _elements(stream, end, size, wanted | {_CHARACTER_SET}, implicit=implicit, stop=stop, later=later)
    dataset = Dataset(found)
    named = found.get(BaseTag(_CHARACTER_SET))
    characters = (
        default_encoding if named is None else convert_encodings(convert_string(cast(bytes, named.value or b""), True))
    )
    dataset.set_original_encoding(implicit, True, characters)
    dataset.file_meta = meta
    return dataset


def _elements(
    stream: io.BufferedReader,
    start: int,
    size: int,
    wanted: Set[int],
    *,
    implicit: bool = False,
    stop: int,
    later: Set[int] = frozenset(),
) -> tuple[dict[BaseTag, DataElement | RawDataElement], int]:
    """Return the wanted elements from a place in the file up to a tag or the end, and where that is."""
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    data, base, place, last, limit = b"", start, 0, -1, size - start
    inside: list[int] = []  # what ends the sequences and items of undefined length that the place is in
    while True:
        if place > last:  # the next head is not there yet
            base, place = base + place, 0
            stream.seek(base)
            data = stream.read(_BLOCK)
            last, limit = len(data) - 12, size - base
            if len(data) < 8:
                if data or inside:
                    raise _Unusual
                return found, base
        kind: str | None = None
        group, element, length = _HEAD.unpack_from(data, place)
        tag, head = group << 16 | element, 8
        if tag >= stop and not inside and group != 0xFFFE:
            return found, base + place
        if implicit:
            if base + place == start and data[place + 4 : place + 6].isalpha():  # it is explicit all the same
                raise _Unusual
        elif group != 0xFFFE:
            known = _KINDS.get(length & 0xFFFF)
            if known is None or (known[1] == 12 and place + 12 > len(data)):
                raise _Unusual
            kind, head = known
            length = length >> 16 if head == 8 else _LONG.unpack_from(data, place + 8)[0]
        if inside or length == _UNDEFINED or group == 0xFFFE:
            length = _nested(inside, tag, kind, length, wanted)
        elif tag in wanted:
            begin = place + head
            if tag in later and length:
                value: Any = FilePart(os.fsdecode(stream.raw.name), base + begin, length)  # type: ignore[attr-defined]
            elif begin + length > len(data):
                stream.seek(base + begin)
                value = stream.read(length)
            else:
                value = data[begin : begin + length]
            stored = value or cast("bytes | None", empty_value_for_VR(kind, raw=True))
            name = _base_tag(tag)
            found[name] = RawDataElement(name, kind, length, stored, base + begin, implicit, True)
        place += head + length
        if place > limit:
            raise _Unusual


def _nested(inside: list[int], tag: int, kind: str | None, length: int, wanted: Set[int]) -> int:
    """Follow sequences and items of undefined length, whose elements nobody asks for.

    Args:
        inside: what ends those that the place is in, the innermost last; changed.
        tag: of the element.
        kind: its VR.
        length: as it is stated.
        wanted: see `_elements`.

    Returns:
        How many bytes are to be passed over.
    """
    if tag >> 16 == 0xFFFE:
        if not inside or tag not in (inside[-1], _ITEM) or (tag == _ITEM and inside[-1] != _END_OF_SEQUENCE):
            raise _Unusual
        if tag != _ITEM:
            inside.pop()
            if length:
                raise _Unusual
        elif length == _UNDEFINED:
            inside.append(_END_OF_ITEM)
            length = 0
    elif inside and inside[-1] != _END_OF_ITEM:
        raise _Unusual
    elif length == _UNDEFINED:
        if (not inside and tag in wanted) or tag >= PIXELS or kind not in ("SQ", None):
            raise _Unusual
        inside.append(_END_OF_SEQUENCE)
        length = 0
    return length
