"""Stored pixels: checks that they exist, byte order, decoding to integers or floats.

The meaning of the values is handled in `pixels`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.pixels import convert_color_space
from pydicom.uid import UID, ExplicitVRBigEndian, RLELossless

from monai_rd.dicom import codecs
from monai_rd.dicom.elements import FilePart
from monai_rd.dicom.end_markers import TruncatedError
from monai_rd.dicom.header import Header
from monai_rd.dicom.mosaic import tiles_apart
from monai_rd.dicom.syntaxes import syntax_hint, syntax_name
from monai_rd.dicom.values import element_of, has, integer, text
from monai_rd.errors import (
    DicomSeriesError,
    TruncatedPixelsError,
    UnreadableFileError,
    UnreadablePixelsError,
    UnsupportedImageError,
    UnsupportedSyntaxError,
)

__all__ = ["check_pixels", "little_endian", "stored_values", "unreadable"]

# Bits per value of each pixel element; for integers they are stated in the header.
_BITS = {"PixelData": None, "FloatPixelData": 32, "DoubleFloatPixelData": 64}
# Bytes per unit whose order is reversed in a big-endian file (PS3.5 6.2); other VRs are strings of bytes.
_UNITS = {"OW": 2, "US": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


# ------------------------------------------------------------------------------------------------------- refusals


def check_pixels(dataset: Dataset, header: Header) -> None:
    """Check that a file has as many pixels as its header states, in a supported format, before memory is allocated.

    Args:
        dataset: one file with its pixels.
        header: header of the same file.

    Raises:
        UnsupportedImageError: no pixels, or an unsupported pixel format.
        TruncatedPixelsError: the pixels are cut off.
        UnreadablePixelsError: implausibly many pixels, or two kinds of pixel data.
        UnsupportedSyntaxError: no decoder for the transfer syntax.
    """
    header, native = _as_stored(header), _is_native(header.syntax)
    if not native and codecs.decoder(header.syntax) is None:
        raise unreadable(header, "no installed decoder reads it", UnsupportedSyntaxError)
    filled = _filled(dataset)
    if not filled and not any(has(dataset, keyword) for keyword in _BITS):
        if native:
            raise UnsupportedImageError(
                f"Series {header.series_uid}: an image has no pixel data (a header only, or cut off before it). Export "
                "the series again with its images.",
                header.series_uid,
            )
        # The parser drops a compressed element without end marker, so absent mostly means cut off here.
        raise unreadable(header, "its pixel data is missing or cut off", TruncatedPixelsError)
    if len(filled) > 1:
        raise unreadable(header, f"it holds {' and '.join(filled)}, and one image has one of them")
    samples, allocated = integer(dataset, "SamplesPerPixel", 1), _bits_allocated(dataset, filled)
    whole_bytes = allocated in (8, 16, 32) or (allocated > 1 and header.syntax != RLELossless)
    if not 1 <= allocated <= 64 or not 1 <= samples <= 4 or not (native or (whole_bytes and samples in (1, 3))):
        raise UnsupportedImageError(
            f"Series {header.series_uid}: {samples} value(s) of {allocated} bit(s) in a pixel are not read in transfer "
            f"syntax {syntax_name(header.syntax)}. Export it with 8 or 16 bits allocated, grey or RGB.",
            header.series_uid,
        )
    values = header.shape[0] * header.shape[1] * samples
    size = sum(len(value) for value in filled.values() if isinstance(value, bytes | FilePart))
    if native:
        least = values * header.frames * allocated / 8
        if size < least and "422" in _photometric(dataset):
            least *= 2 / 3
    else:
        least = 8 * header.frames  # each frame is an item with a header of 8 bytes
        if values > codecs.MOST_SAMPLES:
            raise unreadable(header, f"{values} values in one frame are more than any image has")
    if size < least:
        raise unreadable(header, f"{size} bytes are fewer than the header announces", TruncatedPixelsError)


def unreadable(
    header: Header, fault: str, kind: type[UnreadablePixelsError] = UnreadablePixelsError
) -> UnreadablePixelsError:
    """Return the error for pixel data that cannot be read, with transfer syntax and remedy.

    Args:
        header: header of the file.
        fault: description of what is wrong.
        kind: class of the error.
    """
    syntax = UID(header.syntax)
    transcode = "convert the files to Explicit VR Little Endian (dcmtk: dcmdjpeg; gdcm: gdcmconv --raw)"
    if kind is UnsupportedSyntaxError:
        remedy = f"{syntax_hint(syntax)}{transcode}"
    else:
        remedy = "the file is damaged or cut off: export the series again"
        if not _is_native(syntax):
            remedy += f", or {transcode}"
    return kind(
        f"Series {header.series_uid}: pixel data in transfer syntax {syntax_name(syntax)} ({syntax}) cannot be read: "
        f"{fault}. Remedy: {remedy}.",
        header.series_uid,
    )


# ---------------------------------------------------------------------------------------------------------- bytes


def _filled(dataset: Dataset) -> dict[str, Any]:
    """Return the values of the pixel elements that are present and not empty."""
    elements = ((keyword, element_of(dataset, keyword)) for keyword in _BITS)
    return {keyword: element.value for keyword, element in elements if element is not None and element.value}


def _bits_allocated(dataset: Dataset, filled: dict[str, Any]) -> int:
    return _BITS[next(iter(filled), "PixelData")] or integer(dataset, "BitsAllocated", 16)


def _photometric(dataset: Dataset) -> str:
    return text(dataset, "PhotometricInterpretation")


@cache
def _is_native(syntax: str) -> bool:
    known = UID(syntax)
    return known.is_transfer_syntax and not known.is_private and not known.is_encapsulated


def little_endian(dataset: Dataset, keyword: str, *, little: bool, least_unit: int = 1) -> npt.NDArray[np.uint8]:
    """Return the bytes of an element in little-endian order.

    Values of fewer or more bits than a 16-bit word are packed into words (PS3.5 8.1.1, A.3): in a big-endian file,
    neighbouring 8-bit pixels in OW are swapped, and 32-bit pixels keep the lower word first, as DCMTK and GDCM read it.

    Args:
        dataset: data set that holds the element.
        keyword: keyword of the element.
        little: whether the file is little-endian.
        least_unit: bytes per unit if the VR does not determine it.

    Raises:
        ValueError: the element is absent.
    """
    element = element_of(dataset, keyword)
    if element is None or element.value is None:
        raise ValueError(f"no {keyword}")
    value: Any = element.value
    if isinstance(value, FilePart):
        value = value.read()
    if not isinstance(value, bytes):  # the parser has converted the words to numbers
        return np.atleast_1d(value).astype("<u2").view(np.uint8)
    found = np.frombuffer(value, np.uint8)
    unit = _UNITS.get(element.VR or "", least_unit)
    if little or unit == 1:
        return found
    whole = found.size // unit * unit
    return np.concatenate([found[:whole].reshape(-1, unit)[:, ::-1].ravel(), found[whole:]])


# --------------------------------------------------------------------------------------------------------- values


def _as_stored(header: Header) -> Header:
    """Return a header with the frames as stored: a mosaic is one image."""
    if header.mosaic == 1:
        return header
    rows, columns = header.shape
    return replace(header, shape=(rows * header.mosaic, columns * header.mosaic), frames=1, mosaic=1)


def stored_values(dataset: Dataset, header: Header) -> npt.NDArray[Any]:
    """Return the stored values of a file that was checked by `check_pixels`.

    Args:
        dataset: one file with its pixels.
        header: header of the same file.

    Returns:
        Integers or floats `[frames, rows, columns]`; with several samples per pixel `[frames, rows, columns, samples]`,
        YCbCr converted to RGB.

    Raises:
        DicomSeriesError: there are too few pixels, or they cannot be decoded.
    """
    whole = _as_stored(header)
    try:
        values = _native(dataset, whole) if _is_native(whole.syntax) else _compressed(dataset, whole)
        return values if whole is header else tiles_apart(values[0], header.mosaic, header.frames)
    except (DicomSeriesError, UnreadableFileError):
        raise
    except TruncatedError:
        raise unreadable(header, "a frame ends before its last pixel", TruncatedPixelsError) from None
    except Exception as error:  # decoders can fail in any way, and their messages may quote header values
        raise unreadable(header, f"decoding failed with {type(error).__name__}") from None


def _native(dataset: Dataset, header: Header) -> npt.NDArray[Any]:
    filled, samples = _filled(dataset), integer(dataset, "SamplesPerPixel", 1)
    (keyword,), allocated = filled, _bits_allocated(dataset, filled)
    little = header.syntax != ExplicitVRBigEndian
    found = little_endian(dataset, keyword, little=little, least_unit=2 if allocated > 8 else 1)
    count = header.frames * header.shape[0] * header.shape[1] * samples
    if keyword != "PixelData":
        if samples != 1:
            raise ValueError("floating-point colours")
        values = found[: count * allocated // 8].view(f"<f{allocated // 8}")
    elif found.size < count * allocated // 8 and "422" in _photometric(dataset):
        values = _full_chroma(_integers(found, allocated, count // 3 * 2))
    else:
        values = _integers(found, allocated, count)
    if keyword == "PixelData":
        high = integer(dataset, "HighBit", integer(dataset, "BitsStored", allocated) - 1)
        values = _used_bits(values, dataset, allocated, values.itemsize * 8 - 1 - high)
    if samples == 1:
        return values.reshape(header.frames, *header.shape)
    if integer(dataset, "PlanarConfiguration", 0) == 1:
        values = np.moveaxis(values.reshape(header.frames, samples, *header.shape), 1, -1)
    values = values.reshape(header.frames, *header.shape, samples)
    if _photometric(dataset).startswith("YBR_FULL"):
        return np.stack([convert_color_space(frame, "YBR_FULL", "RGB") for frame in values])
    if _photometric(dataset).startswith("YBR"):
        raise ValueError("colours of a codec without the codec")
    return values


def _integers(found: npt.NDArray[np.uint8], allocated: int, count: int) -> npt.NDArray[Any]:
    """Unpack integers of `allocated` bits each, the lowest bits first; bits that fill no whole bytes have no gaps."""
    size = next(size for size in (8, 16, 32, 64) if size >= allocated)
    if allocated == size:
        return found[: count * size // 8].view(f"<u{size // 8}")
    bits = np.unpackbits(found, count=count * allocated, bitorder="little").reshape(count, allocated)
    if allocated == 1:
        return bits[:, 0]
    bits = np.pad(bits, ((0, 0), (0, size - allocated)))
    return np.packbits(bits, axis=1, bitorder="little").view(f"<u{size // 8}")[:, 0]


def _full_chroma(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Upsample 4:2:2 chroma: two pixels stored as Y, Y, Cb, Cr get their own Cb and Cr each (PS3.3 C.7.6.3.1.2)."""
    pairs = values.reshape(-1, 4)
    full = np.empty((len(pairs), 2, 3), values.dtype)
    full[..., 0] = pairs[:, :2]
    full[..., 1:] = pairs[:, None, 2:]
    return full.ravel()


def _compressed(dataset: Dataset, header: Header) -> npt.NDArray[Any]:
    decode = codecs.decoder(header.syntax)
    assert decode is not None  # checked before
    samples, allocated = integer(dataset, "SamplesPerPixel", 1), integer(dataset, "BitsAllocated", 16)
    expected = codecs.FrameShape(*header.shape, samples, allocated, _photometric(dataset))
    found: list[npt.NDArray[Any]] = []
    for frame in _codestreams(dataset, header.frames):
        if len(found) == header.frames:
            break
        found.append(decode(frame, expected))
    if len(found) < header.frames:
        raise unreadable(header, f"it holds {len(found)} of the {header.frames} frames announced", TruncatedPixelsError)
    stored = np.stack(found) if len(found) > 1 else found[0][None]
    if samples > 1:
        return stored
    size = stored.itemsize * 8
    return _used_bits(stored, dataset, size, size - integer(dataset, "BitsStored", size))


def _codestreams(dataset: Dataset, frames: int) -> Iterator[bytes]:
    """Yield the codestream of each frame, joined from its fragments."""
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    stream = io.BytesIO(dataset.PixelData)
    if frames > 1 and offsets is None and not parse_basic_offsets(stream):
        # Without an offset table frames are found by the start of their codestreams; not all have an end marker.
        fragments = list(generate_fragments(stream))
        starts = [n for n, fragment in enumerate(fragments) if fragment.startswith(codecs.STARTS)]
        if len(starts) == frames and starts[0] == 0:
            yield from (b"".join(fragments[a:b]) for a, b in pairwise([*starts, len(fragments)]))
            return
    yield from generate_frames(dataset.PixelData, number_of_frames=frames, extended_offsets=offsets)


def _used_bits(stored: npt.NDArray[Any], dataset: Dataset, allocated: int, unused: int) -> npt.NDArray[Any]:
    """Remove the bits that do not belong to the pixel (such as old overlays), and apply the sign stated in the header.

    Args:
        stored: integers.
        dataset: header of the file.
        allocated: bits per value in the file.
        unused: number of bits above those of the pixel.
    """
    size = stored.itemsize * 8
    bits, signed = integer(dataset, "BitsStored", allocated), integer(dataset, "PixelRepresentation", 0) == 1
    if not 0 < bits <= size or not 0 <= unused <= size - bits:
        raise ValueError("contradictory numbers of bits")
    stored = stored.astype(f"u{stored.itemsize}", copy=False)
    if bits == size:
        return stored.view(f"i{stored.itemsize}") if signed else stored
    if not signed and unused + bits == size and int(stored.max(initial=0)) < 1 << bits:
        return stored
    shifted = stored << np.array(unused, stored.dtype)
    return (shifted.view(f"i{stored.itemsize}") if signed else shifted) >> np.array(size - bits, stored.dtype)
