"""Codestreams without an end marker: complete frames get one, frames with missing pixels are refused.

Some writers omit the marker, and all readers accept such frames. Decoders written in C continue with zeros where data
is missing, so a frame that is really cut off would look decoded. The functions here distinguish the two cases.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TruncatedError", "complete_jpeg", "complete_jpeg_2000", "complete_jpeg_ls"]

_END = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000
_SEQUENTIAL, _PROGRESSIVE, _LOSSLESS = (0xC0, 0xC1), 0xC2, 0xC3
# Bytes that may follow the data if the end marker is missing: padding to an even length, half a marker.
_BEHIND = (b"", b"\0", b"\xff", b"\xff\0")
# Continuations that decode to different pixels: zeros, ones (with byte stuffing), and two of random bytes.
_CONTINUATIONS = (
    bytes(64),
    b"\xff\x00" * 64,
    *(np.random.default_rng(seed).integers(0, 255, 64, dtype=np.uint8).tobytes() for seed in range(2)),
)

Decode = Callable[[bytes], npt.NDArray[Any]]


class TruncatedError(ValueError):
    """The codestream ends before its last pixel."""


# ------------------------------------------------------------------------------------------------------------ JPEG


@dataclass(frozen=True)
class _Scan:
    """One scan (ITU-T T.81 B.2.3): components, coefficients, lowest bit, number of restarts, restart interval."""

    components: frozenset[int]
    coefficients: range
    low: int
    restarts: int
    interval: int


def complete_jpeg(frame: bytes, scan: int, decode: Decode) -> bytes:
    """Return a JPEG codestream with its end marker, after checking that no pixels are missing.

    If the marker is missing, the frame is complete if all scans exist, the last one with all of its restarts, and the
    decoded pixels do not depend on the bytes appended. Trailing zeros that no pixel depends on, or depends on in part
    only, are not data: they fill up a file that was cut off.

    Args:
        frame: the codestream, whose header has been checked.
        scan: position of its first scan.
        decode: the decoder.

    Returns:
        The codestream, ending in EOI.

    Raises:
        TruncatedError: pixels are missing.
        ValueError: the marker is missing, and for this kind of codestream completeness cannot be checked.
    """
    if frame.rfind(_END, scan) > 0:
        return frame

    def pixels(part: bytes) -> npt.NDArray[Any] | None:
        """Decode a part of the codestream; None if its pixels depend on the bytes after it."""
        if not _has_all_scans(part):
            return None
        try:
            first, *others = (decode(part + more + _END) for more in _CONTINUATIONS)
        except Exception:  # the decoder has met an invalid code
            return None
        return first if all(np.array_equal(first, other) for other in others) else None

    for behind in sorted((len(rest) for rest in _BEHIND if frame.endswith(rest)), reverse=True):
        data = frame[: len(frame) - behind]
        whole = pixels(data)
        if whole is not None:
            break
    else:
        raise TruncatedError("pixels are missing")
    if data.endswith(bytes(3)) and pixels(data[:-3]) is not None:
        raise TruncatedError("zeros stand where pixels are missing")
    if data.endswith(b"\0") and not data.endswith(b"\xff\0"):
        other = pixels(data[:-1] + b"\1")  # the last byte is padded with ones (F.1.2.3), or it is not data
        if other is not None and np.array_equal(other, whole):
            raise TruncatedError("a zero stands where pixels are missing")
    return data + _END


def _has_all_scans(data: bytes) -> bool:
    """Return whether a JPEG codestream has all of its scans and restart intervals."""
    kind, sampling, lines, columns, scans = _scans(data)
    if not scans:
        return False
    last = scans[-1]
    if last.interval:
        across, down = (max(factors[axis] for factors in sampling.values()) for axis in (0, 1))
        own = sampling[min(last.components)] if len(last.components) == 1 else (1, 1)
        unit = 1 if kind == _LOSSLESS else 8
        units = -(-columns * own[0] // across // unit) * -(-lines * own[1] // down // unit)
        if last.restarts != -(-units // last.interval) - 1:
            return False
    if kind != _PROGRESSIVE:
        return frozenset().union(*(scan.components for scan in scans)) == frozenset(sampling)
    final = [scan for scan in scans if scan.low == 0]
    return all(
        {n for scan in final if component in scan.components for n in scan.coefficients} == set(range(64))
        for component in sampling
    )


def _scans(data: bytes) -> tuple[int, dict[int, tuple[int, int]], int, int, list[_Scan]]:
    """Return the frame marker, sampling factors by component, lines, columns, and scans of a JPEG codestream.

    Raises:
        ValueError: an arithmetic or hierarchical JPEG, or not a valid codestream.
    """
    kind, sampling, lines, columns, interval = 0, {}, 0, 0, 0
    scans: list[_Scan] = []
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            raise ValueError("no marker")
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : place + 2 + length]
        place += 2 + length
        if marker in (*_SEQUENTIAL, _PROGRESSIVE, _LOSSLESS):
            kind, (_, lines, columns, count) = marker, struct.unpack_from(">BHHB", segment)
            sampling = {segment[6 + 3 * n]: divmod(segment[7 + 3 * n], 16) for n in range(count)}
        elif marker == 0xDD:
            interval = int.from_bytes(segment, "big")
        elif marker == 0xDA:
            count = segment[0]
            first, final, bits = segment[1 + 2 * count : 4 + 2 * count]
            restarts, place = _end_of_scan(data, place)
            components = frozenset(segment[1 : 1 + 2 * count : 2])
            scans.append(_Scan(components, range(first, final + 1), bits & 15, restarts, interval))
        elif 0xC5 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise ValueError("a kind of JPEG whose end cannot be told")
    return kind, sampling, lines, columns, scans


def _end_of_scan(data: bytes, place: int) -> tuple[int, int]:
    """Return the number of restart markers in the data of a scan, and the position of the marker after the scan."""
    restarts = 0
    while (place := data.find(b"\xff", place)) >= 0 and place + 1 < len(data):
        marker = data[place + 1]
        if 0xD0 <= marker <= 0xD7:
            restarts += 1
        elif marker not in (0, 0xFF):  # neither byte stuffing nor a fill byte
            return restarts, place
        place += 1 if marker == 0xFF else 2
    return restarts, len(data)


# ---------------------------------------------------------------------------------------------------- other codecs


def complete_jpeg_ls(frame: bytes, decode: Decode) -> bytes:
    """Return a JPEG-LS codestream with its end marker; the decoder itself detects missing pixels.

    Args:
        frame: the codestream, whose header has been checked.
        decode: a decoder that raises an error for too few and for too many bytes.

    Returns:
        The codestream, ending in EOI.

    Raises:
        TruncatedError: pixels are missing.
    """
    if frame.rfind(_END) > 0:
        return frame
    for behind in (len(rest) for rest in _BEHIND if frame.endswith(rest)):
        ended = frame[: len(frame) - behind] + _END
        try:
            decode(ended)
        except Exception:  # too few bytes, or too many
            continue
        return ended
    raise TruncatedError("pixels are missing")


def complete_jpeg_2000(frame: bytes, start: int, tiles: int) -> bytes:
    """Return a JPEG 2000 codestream with its end marker, after checking by their lengths that no tile-part is missing.

    Args:
        frame: the codestream, whose main header has been checked.
        start: position of its first byte.
        tiles: number of tiles of the image.

    Returns:
        The codestream, ending in EOC.

    Raises:
        TruncatedError: tile-parts are missing, or their lengths are not stated.
        ValueError: a tile number beyond the image.
    """
    if frame.rfind(_END, frame.find(b"\xff\x90", start)) > 0:
        return frame
    end, seen, stated = start, [0] * tiles, [0] * tiles
    for part_end, tile, parts in _tile_parts(frame, start):
        end = part_end
        if tile >= tiles:
            raise ValueError("a tile that is not in the image")
        seen[tile] += 1
        stated[tile] = parts or stated[tile]
    if frame[end:] not in _BEHIND or end > len(frame) or 0 in seen or seen != stated:
        raise TruncatedError("tile-parts are missing")
    return frame[:end] + _END


def _tile_parts(frame: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield each tile-part's end, tile, and its tile's number of parts, 0 if not stated (ITU-T T.800 A.4.2)."""
    place = start + 2
    while place + 12 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, place)
        if marker == 0xFF90:
            tile, size, _, parts = struct.unpack_from(">HIBB", frame, place + 4)
            if size < 14:  # 0 means up to the end marker
                raise TruncatedError("the length of a tile-part is not stated")
            place += size
            yield place, tile, parts
        elif marker > 0xFF00:  # a segment of the main header
            place += 2 + length
        else:
            return
