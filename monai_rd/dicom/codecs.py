"""Decoding of compressed frames by `imagecodecs` (libjpeg-turbo, CharLS, OpenJPEG), with checks before decoding.

Decoders written in C trust their input: a forged image size makes them allocate gigabytes, a cut-off scan can make them
read past the end of the data. Therefore, before decoding, the codestream's own header must agree with the DICOM header,
its image size must be possible for the number of bytes, and zeros are appended to the data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.pixels import convert_color_space
from pydicom.uid import RLELossless

from monai_rd.dicom.end_markers import complete_jpeg, complete_jpeg_2000, complete_jpeg_ls

__all__ = ["MOST_SAMPLES", "STARTS", "FrameShape", "decoder"]

# Largest number of samples in a frame, far above any detector's or scanner's; OpenJPEG needs 6 bytes for each.
MOST_SAMPLES = 100_000_000
# Largest number of pixels per byte: an 8 x 8 block takes at least 2 bits in DCT, a pixel 1 bit in lossless JPEG.
_DCT_PIXELS_PER_BYTE, _LOSSLESS_PIXELS_PER_BYTE = 512, 8
_RUN_PIXELS_PER_BYTE = 64
_AFTER_THE_END = bytes(64)
# First bytes of JPEG and JPEG-LS, and of JPEG 2000.
STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
_JPEG_FAMILY = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (*range(50, 67), 70))
_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7})
_LOSSLESS, _JPEG_LS = 0xC3, 0xF7


@dataclass(frozen=True)
class FrameShape:
    """Size and pixel format of a frame, as stated in the DICOM header."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    photometric: str


Decoder = Callable[[bytes, FrameShape], npt.NDArray[Any]]


def decoder(syntax: str) -> Decoder | None:
    """Return the decoder for frames of a compressed transfer syntax, None if there is none or none is needed.

    The decoder returns integers `[rows, columns]`, or RGB `[rows, columns, 3]`, and raises ValueError or an error of
    the library if the frame is invalid.
    """
    if syntax in _JPEG_FAMILY:
        return _jpeg
    return {
        "1.2.840.10008.1.2.4.80": _jpeg_ls,
        "1.2.840.10008.1.2.4.81": _jpeg_ls,
        "1.2.840.10008.1.2.4.90": _jpeg_2000,
        "1.2.840.10008.1.2.4.91": _jpeg_2000,
        "1.2.840.10008.1.2.4.201": _jpeg_2000,
        "1.2.840.10008.1.2.4.202": _jpeg_2000,
        "1.2.840.10008.1.2.4.203": _jpeg_2000,
        str(RLELossless): _run_length,
    }.get(syntax)


def _check(shape: FrameShape, found: tuple[int, int, int], size: int, pixels_per_byte: int | None = None) -> None:
    """Compare the size of a codestream with the DICOM header.

    Args:
        shape: frame as stated in the DICOM header.
        found: rows, columns and samples stated in the codestream.
        size: bytes of the codestream.
        pixels_per_byte: largest number of pixels that a byte can hold; None skips this check.

    Raises:
        ValueError: they differ, or there are too few bytes for so many pixels.
    """
    pixels = shape.rows * shape.columns
    if found != (shape.rows, shape.columns, shape.samples) or shape.samples not in (1, 3):
        raise ValueError("the sizes of codestream and header differ")
    if pixels * shape.samples > MOST_SAMPLES:
        raise ValueError("an image of that size is not read")
    if pixels_per_byte is not None and pixels > pixels_per_byte * size:
        raise ValueError("the codestream is too short for its size")


def _jpeg_header(frame: bytes, bits_allocated: int) -> tuple[int, tuple[int, int, int], int]:
    """Return the frame marker, (rows, columns, components) and the position of the first scan (ITU-T T.81 B.2).

    Args:
        frame: a JPEG or JPEG-LS codestream.
        bits_allocated: largest allowed number of bits per sample.

    Raises:
        ValueError: not a valid JPEG or JPEG-LS codestream.
    """
    found: tuple[int, tuple[int, int, int]] | None = None
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 4 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xDA and found is not None:
            return *found, place
        length = int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker in _START_OF_FRAME:
            if found is not None or length < 11 or place + 10 > len(frame):
                break
            depth, rows, columns, components = struct.unpack_from(">BHHB", frame, place + 4)
            if length != 8 + 3 * components or depth > bits_allocated:
                break
            found = marker, (rows, columns, components)
        if length < 2:
            break
        place += 2 + length
    raise ValueError("no JPEG codestream")


def _jpeg(frame: bytes, shape: FrameShape) -> npt.NDArray[Any]:
    marker, found, scan = _jpeg_header(frame, shape.bits_allocated)
    if marker == _JPEG_LS:
        raise ValueError("JPEG-LS where JPEG is announced")
    lossless = marker == _LOSSLESS
    _check(shape, found, len(frame), _LOSSLESS_PIXELS_PER_BYTE if lossless else _DCT_PIXELS_PER_BYTE)
    colours: dict[str, Any] = {}
    if shape.samples == 3:  # libjpeg converts colours of lossy JPEG only
        kept = "YCBCR" if shape.photometric.startswith("YBR") else "RGB"
        colours = {"colorspace": kept, "outcolorspace": kept if lossless else "RGB"}

    def decode(stream: bytes) -> npt.NDArray[Any]:
        return imagecodecs.jpeg8_decode(stream + _AFTER_THE_END, **colours)

    decoded = _shaped(decode(complete_jpeg(frame, scan, decode)), shape)
    return _rgb(decoded, shape) if lossless and shape.samples == 3 else decoded


def _jpeg_ls(frame: bytes, shape: FrameShape) -> npt.NDArray[Any]:
    marker, found, _ = _jpeg_header(frame, shape.bits_allocated)
    if marker != _JPEG_LS:
        raise ValueError("JPEG where JPEG-LS is announced")
    _check(shape, found, len(frame))

    def decode(stream: bytes) -> npt.NDArray[Any]:
        return imagecodecs.jpegls_decode(stream + _AFTER_THE_END)

    return _rgb(_shaped(decode(complete_jpeg_ls(frame, decode)), shape), shape)


def _jpeg_2000(frame: bytes, shape: FrameShape) -> npt.NDArray[Any]:
    """Decode JPEG 2000 or HTJ2K after checking its SIZ marker segment (ITU-T T.800 A.5.1)."""
    start = 0 if frame[:2] == b"\xff\x4f" else frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or frame[start : start + 4] != b"\xff\x4f\xff\x51" or len(frame) < start + 60:
        raise ValueError("no JPEG 2000 codestream")
    length, _, x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack_from(
        ">HHIIIIIIIIH", frame, start + 4
    )
    depths = frame[start + 42 : start + 42 + 3 * components]
    whole = x0 < x1 and y0 < y1 and tile_x0 <= x0 < tile_x0 + tile_x and tile_y0 <= y0 < tile_y0 + tile_y
    if length != 38 + 3 * components or len(depths) != 3 * components or not whole:
        raise ValueError("contradictory JPEG 2000 sizes")
    if len(set(depths[::3])) != 1 or set(depths[1::3]) | set(depths[2::3]) != {1}:
        raise ValueError("JPEG 2000 components differ in depth or size")
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    if tiles > max(1, len(frame) // 14):  # the headers of one tile take 14 bytes
        raise ValueError("more JPEG 2000 tiles than there can be")
    _check(shape, (y1 - y0, x1 - x0, components), len(frame))
    ended = complete_jpeg_2000(frame, start, tiles)
    decoded = _shaped(imagecodecs.jpeg2k_decode(ended + _AFTER_THE_END, numthreads=1), shape)
    # The codec's own colour transforms, RCT and ICT, are undone by the codec.
    return decoded if shape.photometric in ("YBR_RCT", "YBR_ICT") else _rgb(decoded, shape)


def _run_length(frame: bytes, shape: FrameShape) -> npt.NDArray[Any]:
    if shape.bits_allocated not in (8, 16, 32):
        raise ValueError("RLE of a depth that is not read")
    found = (shape.rows, shape.columns, shape.samples)
    _check(shape, found, len(frame), _RUN_PIXELS_PER_BYTE * 8 // shape.bits_allocated)
    # The header of the frame: the number of segments and the offset of each (PS3.5 G.5).
    segments = shape.samples * shape.bits_allocated // 8
    count, *starts = struct.unpack_from("<16L", frame)
    starts = starts[:segments]
    if count != segments or starts[0] != 64 or sorted(set(starts)) != starts or starts[-1] >= len(frame):
        raise ValueError("contradictory RLE segments")
    kind = np.dtype(f"<u{shape.bits_allocated // 8}")
    planes = np.frombuffer(imagecodecs.dicomrle_decode(frame, kind), kind)
    planes = planes.reshape(shape.samples, shape.rows, shape.columns)
    return planes[0] if shape.samples == 1 else _rgb(np.moveaxis(planes, 0, -1), shape)


def _shaped(decoded: npt.NDArray[Any], shape: FrameShape) -> npt.NDArray[Any]:
    expected = (shape.rows, shape.columns, *([3] if shape.samples == 3 else []))
    if decoded.shape != expected or decoded.dtype.kind not in "iu":
        raise ValueError("the decoded size differs from the header")
    return decoded


def _rgb(decoded: npt.NDArray[Any], shape: FrameShape) -> npt.NDArray[Any]:
    """Convert full-range YCbCr to RGB; other colours are returned unchanged."""
    return convert_color_space(decoded, "YBR_FULL", "RGB") if shape.photometric.startswith("YBR_FULL") else decoded
