"""Mosaics of Siemens scanners: the slices of one volume as tiles of one image, used for functional and diffusion MR.

The number of slices and their direction are stated in private elements only. Without these, as in many de-identified
files, a mosaic cannot be read as a volume, and it must never be read as one slice.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from monai_rd.dicom.values import element_of, numbers, parts

__all__ = ["MOSAIC_TAGS", "TILED_TAGS", "Tiles", "csa_fields", "is_tiled", "tiles_apart", "tiles_of"]

# Private elements (PS3.5 7.8.1) by their creator, group, and last byte of the element.
_COUNT = ("SIEMENS MR HEADER", 0x0019, 0x0A)  # NumberOfImagesInMosaic
_CSA = ("SIEMENS CSA HEADER", 0x0029, 0x10)  # CSA Image Header Info
_SIEMENS_COUNT, _UIH_COUNT = 0x0019100A, 0x00651050  # the usual tag, and that of United Imaging
_BLOCKS = range(0x10, 0x20)  # a creator may use any block; in practice one of the first


def _tags(group: int, last: int, blocks: range) -> frozenset[int]:
    return frozenset(group << 16 | tag for block in blocks for tag in (block, block << 8 | last))


# Elements that show that an image is tiled, and elements that describe the tiles.
TILED_TAGS = frozenset({0x00190010, _SIEMENS_COUNT, _UIH_COUNT})
MOSAIC_TAGS = _tags(*_COUNT[1:], _BLOCKS) | _tags(*_CSA[1:], _BLOCKS)
_MOST_TAGS, _MOST_ITEMS = 1000, 1000  # limits for a CSA header, which has about a hundred fields
_MOST_SLICES = 2048


@dataclass(frozen=True)
class Tiles:
    """The slices of a mosaic.

    Attributes:
        side: number of tiles in each row and column of the mosaic.
        shape: rows and columns of a slice.
        positions: position of the first pixel of each slice, in mm in LPS.
    """

    side: int
    shape: tuple[int, int]
    positions: tuple[tuple[float, ...], ...]


def is_tiled(dataset: Dataset) -> bool:
    """Return whether the header says that the image holds several images side by side."""
    if "MOSAIC" in (value.upper() for value in parts(dataset, "ImageType")):
        return True
    if _SIEMENS_COUNT in dataset and _count(dataset, _private(dataset, _COUNT)) > 1:
        return True
    maker = "".join(parts(dataset, "Manufacturer")).upper()
    return _UIH_COUNT in dataset and maker.startswith("UIH") and _count(dataset, _stored(dataset, _UIH_COUNT)) > 1


def tiles_of(
    dataset: Dataset,
    shape: tuple[int, int],
    position: tuple[float, ...],
    orientation: tuple[float, ...],
    spacing: tuple[float, ...],
) -> Tiles:
    """Return the positions of the slices of a mosaic.

    The position in the header is that of an image as large as the mosaic which has the same centre as the first slice.

    Args:
        dataset: the header, with its elements of `MOSAIC_TAGS`.
        shape: rows and columns of the mosaic.
        position: position of its first pixel as stated in the header, in mm in LPS.
        orientation: direction cosines (row 3, column 3).
        spacing: spacing between rows and between columns, in mm.

    Raises:
        ValueError: the needed elements are missing or contradict each other; the message says which.
    """
    fields = csa_fields(_private(dataset, _CSA), {"NumberOfImagesInMosaic", "SliceNormalVector"})
    stated = (_private(dataset, _COUNT), *fields.get("NumberOfImagesInMosaic", ())[:1])
    counts = {_count(dataset, one) for one in stated} - {0}
    if not counts:
        raise ValueError("the private header that tells how many slices there are is missing")
    count = counts.pop()
    side = int(np.ceil(np.sqrt(count)))
    if counts or count < 1 or shape[0] % side or shape[1] % side:
        raise ValueError("its private header contradicts its size")
    normal = _vector(fields.get("SliceNormalVector", ()))
    across = np.cross(orientation[:3], orientation[3:])
    if normal is None:
        raise ValueError("the private header that tells the direction of the slices is missing")
    if abs(abs(float(normal @ across)) - 1) > 1e-3 or abs(float(normal @ normal) - 1) > 1e-3:
        raise ValueError("its private header contradicts its orientation")
    distance = numbers(dataset, "SpacingBetweenSlices", 1) or numbers(dataset, "SliceThickness", 1)
    if distance is None or distance[0] <= 0:
        raise ValueError("the distance of its slices is not stated")
    rows, columns = shape[0] // side, shape[1] // side
    first = (
        np.array(position)
        + np.array(orientation[:3]) * spacing[1] * (shape[1] - columns) / 2
        + np.array(orientation[3:]) * spacing[0] * (shape[0] - rows) / 2
    )
    step = across * np.sign(normal @ across) * distance[0]
    return Tiles(side, (rows, columns), tuple(tuple(map(float, first + n * step)) for n in range(count)))


def tiles_apart(mosaic: npt.NDArray[Any], side: int, count: int) -> npt.NDArray[Any]:
    """Return the tiles `[count, rows, columns]` of a mosaic `[rows, columns]`, row by row."""
    rows, columns = (size // side for size in mosaic.shape)
    return mosaic.reshape(side, rows, side, columns).swapaxes(1, 2).reshape(side * side, rows, columns)[:count]


# ---------------------------------------------------------------------------------------------- private elements


def _stored(dataset: Dataset, tag: int) -> bytes:
    """Return the stored bytes of an element, b"" if it is absent."""
    element = element_of(dataset, tag)
    value = None if element is None else element.value
    return value if isinstance(value, bytes) else str("" if value is None else value).encode()


def _private(dataset: Dataset, element: tuple[str, int, int]) -> bytes:
    """Return the stored bytes of a private element (creator, group, last byte), b"" if it is absent."""
    creator, group, last = element
    for block in _BLOCKS:
        if _stored(dataset, group << 16 | block).strip(b" \0") == creator.encode():
            return _stored(dataset, group << 16 | block << 8 | last)
    return b""


def _count(dataset: Dataset, stored: bytes) -> int:
    """Return a number of slices stored in two bytes or as text, 0 if there is none."""
    number = int.from_bytes(stored, "little" if dataset.original_encoding[1] else "big")
    if len(stored) == 2 and number <= _MOST_SLICES:  # two ASCII digits read as one number are far above this
        return number
    digits = stored.strip(b" \0")
    return int(digits) if digits.isdigit() and len(digits) <= 4 else 0


def _vector(values: tuple[bytes, ...]) -> npt.NDArray[np.float64] | None:
    try:
        found = np.array([float(value) for value in values[:3]])
    except ValueError:
        return None
    return found if found.shape == (3,) and np.isfinite(found).all() else None


def csa_fields(data: bytes, names: set[str]) -> dict[str, tuple[bytes, ...]]:
    """Return values of a Siemens CSA header, of both layouts (with "SV10" at its start or without), as stored text.

    A header is a list of fields: name, number of values, items. Each item is preceded by its length; in the older
    layout the length is too high by the number of items of the first field.

    Args:
        data: the header; b"" has no fields.
        names: names of the wanted fields.

    Raises:
        ValueError: the header is damaged.
    """
    if not data:
        return {}
    new = data.startswith(b"SV10")
    place, base = 8 if new else 0, None
    found: dict[str, tuple[bytes, ...]] = {}
    try:
        (count,) = struct.unpack_from("<I", data, place)
        place += 8
        if not 0 < count <= _MOST_TAGS:
            raise ValueError("its private header is damaged")
        for _ in range(count):
            name, values, _, _, items, _ = struct.unpack_from("<64si4siii", data, place)
            place += 84
            base = items if base is None else base
            if not 0 <= items <= _MOST_ITEMS:
                raise ValueError("its private header is damaged")
            content = []
            for _ in range(items):
                lengths = struct.unpack_from("<4i", data, place)
                place += 16
                length = lengths[1] if new else lengths[0] - base
                if not new and length < 0:  # the remaining items are absent
                    break
                if not 0 <= length <= len(data) - place:
                    raise ValueError("its private header is damaged")
                content.append(data[place : place + length].split(b"\0")[0].strip())
                place += -(-length // 4) * 4
            text = name.split(b"\0")[0].decode("latin-1")
            if text in names:
                found[text] = tuple(content[:values] if values > 0 else filter(None, content))
    except struct.error:
        raise ValueError("its private header is damaged") from None
    return found
