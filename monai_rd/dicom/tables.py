"""Lookup tables: modality LUT (PS3.3 C.11.1), VOI LUT (C.11.2), colour palettes (C.7.6.3.1.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from monai_rd.dicom.stored import little_endian

__all__ = ["lookup", "palette_colours"]

_MOST_ENTRIES = 1 << 16


def lookup(dataset: Dataset, sequence: str, values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], int]:
    """Apply a modality or VOI LUT.

    Args:
        dataset: one file.
        sequence: "ModalityLUTSequence" or "VOILUTSequence"; its first item is used.
        values: integers of any shape.

    Returns:
        The table's entries for the values, float32 of the same shape; the number of bits of an entry.

    Raises:
        ValueError: the table contradicts itself.
    """
    table = dataset[sequence].value[0]
    count, first, bits = _descriptor(table.LUTDescriptor)
    entries = _entries(table, "LUTData", count, little=_is_little(dataset))
    return entries.astype(np.float32)[_indices(values, first, count)], bits


def palette_colours(dataset: Dataset, stored: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int]:
    """Return the colours of a palette image.

    If no entry is above 255, entries are taken to have 8 bits, whatever the descriptor says: writers differ in whether
    it states the bits used or the bits allocated.

    Args:
        dataset: one file with its palette.
        stored: palette indices, integers `[frames, rows, columns]`.

    Returns:
        RGB integers `[frames, rows, columns, 3]`; the bits per channel, 8 or 16.

    Raises:
        ValueError: the palette contradicts itself.
    """
    tables = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        count, first, bits = _descriptor(dataset[f"{name}Descriptor"].value)
        if f"{name}Data" in dataset:
            entries = _entries(dataset, f"{name}Data", count, little=_is_little(dataset))
        else:
            segments = little_endian(dataset, f"Segmented{name}Data", little=_is_little(dataset))
            entries = _expanded(segments, count, 1 if bits <= 8 else 2)
        tables.append((entries, _indices(stored, first, count)))
    depth = 8 if max(int(entries.max()) for entries, _ in tables) < 256 else 16
    return np.stack([entries[indices] for entries, indices in tables], axis=-1), depth


def _is_little(dataset: Dataset) -> bool:
    return str(dataset.file_meta.TransferSyntaxUID) != ExplicitVRBigEndian


def _descriptor(value: Sequence[int]) -> tuple[int, int, int]:
    """Return the number of entries, the input value of the first entry, and the bits per entry."""
    count, first, bits = (int(one) for one in value)
    if not 1 <= bits <= 16:
        raise ValueError("contradictory lookup table")
    return count or _MOST_ENTRIES, first, bits


def _entries(dataset: Dataset, keyword: str, count: int, *, little: bool) -> npt.NDArray[Any]:
    """Return the entries of a table; 8-bit entries may be stored in bytes or in words."""
    found = little_endian(dataset, keyword, little=little)
    if found.size >= 2 * count:
        return found[: 2 * count].view("<u2")
    if found.size < count or found.size > count + 1:
        raise ValueError("contradictory lookup table")
    return found[:count]


def _indices(values: npt.NDArray[Any], first: int, count: int) -> npt.NDArray[np.int64]:
    """Return the index of the entry for each value; values outside the table get its first or last entry."""
    if first >= 1 << 15 and values.min(initial=0) < 0:  # a negative value written as unsigned
        first -= 1 << 16
    return np.clip(values.astype(np.int64) - first, 0, count - 1)


def _expanded(segments: npt.NDArray[np.uint8], count: int, size: int) -> npt.NDArray[np.uint16]:
    """Expand the segments of a palette (PS3.3 C.7.9.2): discrete, linear and indirect ones.

    Args:
        segments: bytes of the segments, in little-endian order.
        count: number of entries that must result.
        size: bytes per number.

    Raises:
        ValueError: invalid segments, or another number of entries.
    """
    data = segments[: segments.size // size * size].view(f"<u{size}").astype(int)
    entries: list[int] = []

    def expand(place: int, most: int, *, nested: bool) -> None:
        while most and place + 2 < len(data) and len(entries) <= count:
            kind, length = data[place : place + 2]
            place, most = place + 2, most - 1
            if kind == 0:
                entries.extend(data[place : place + length])
                place += length
            elif kind == 1 and entries:
                entries.extend(np.rint(np.linspace(entries[-1], data[place], length + 1)[1:]).astype(int))
                place += 1
            elif kind == 2 and entries and not nested:
                words = 4 // size
                offset = sum(int(one) << (8 * size * n) for n, one in enumerate(data[place : place + words]))
                expand(offset // size, length, nested=True)
                place += words
            else:
                raise ValueError("contradictory segments of a lookup table")

    expand(0, len(data), nested=False)
    if len(entries) != count:
        raise ValueError("a segmented lookup table of another length")
    return np.array(entries, dtype=np.uint16)
