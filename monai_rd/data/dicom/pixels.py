"""From stored pixels to values: decoding, modality transform, padding, window, photometric interpretation.

The order is that of PS3.3 C.11: stored values, modality LUT or rescale, VOI LUT or window, presentation. CT, PT and NM
end after the rescale: their values are measured. What is there to be looked at ends at grey 0 to 255, white on black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.uid import UID

from monai_rd.data.dicom import codecs
from monai_rd.data.dicom.header import Header, functional_groups, macro
from monai_rd.data.dicom.values import all_numbers, integer, numbers, text
from monai_rd.data.errors import (
    DicomSeriesError,
    TruncatedPixelsError,
    UnreadablePixelsError,
    UnsupportedImageError,
    UnsupportedSyntaxError,
)

__all__ = [
    "CT_PADDING_HU",
    "MEASURED",
    "GreyFrames",
    "Window",
    "check_pixels",
    "common_window",
    "grey_frames",
    "is_inverse",
    "picture",
]

# Modalities whose rescaled values are measurements: no window, no inversion.
MEASURED = frozenset({"CT", "PT", "NM"})
# What pixels outside the field of view become in a CT: scanners that have no padding value write this one, in HU.
CT_PADDING_HU = -1024.0


@dataclass(frozen=True)
class Window:
    """A grey-scale window (PS3.3 C.11.2): centre, width, and "LINEAR", "LINEAR_EXACT" or "SIGMOID"."""

    centre: float
    width: float
    function: str

    def __call__(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map values to grey 0 to 255."""
        if self.function == "SIGMOID":
            return np.float32(255) / (1 + np.exp(np.clip(-4 * (values - self.centre) / self.width, -60, 60)))
        centre, width = (self.centre - 0.5, self.width - 1) if self.function == "LINEAR" else (self.centre, self.width)
        if width == 0:  # a LINEAR window of width 1 is a threshold
            return np.where(values > centre, np.float32(255), np.float32(0))
        return ((values - np.float32(centre)) / np.float32(width) + np.float32(0.5)).clip(0, 1) * np.float32(255)


# ------------------------------------------------------------------------------------------------ stored pixels


def check_pixels(dataset: Dataset, header: Header) -> None:
    """Refuse a file without pixels, or with fewer than its header announces, before memory is taken for them.

    Args:
        dataset: one file with its pixels.
        header: of the same file.

    Raises:
        UnsupportedImageError: it has none.
        TruncatedPixelsError: they are cut off.
        UnreadablePixelsError: more than any image has.
        UnsupportedSyntaxError: nothing decodes them.
    """
    native = _is_native(dataset)
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        if native:
            raise UnsupportedImageError(
                f"Series {header.series_uid}: an image has no pixel data (a header only, or cut off before it). Export "
                "the series again with its images.",
                header.series_uid,
            )
        # The parser drops a compressed element without its end mark, so here absent mostly means cut off.
        raise _unreadable(dataset, header, "its pixel data is missing or cut off", TruncatedPixelsError)
    if not native and codecs.decoder(header.syntax) is None:
        raise _unreadable(dataset, header, "no installed decoder reads it", UnsupportedSyntaxError)
    samples = header.shape[0] * header.shape[1] * max(1, integer(dataset, "SamplesPerPixel", 1))
    size = len(_pixel_data(dataset))
    if native:
        bits = samples * header.frames * _bits_allocated(dataset)
        least = bits / 8 * (2 / 3 if "422" in text(dataset, "PhotometricInterpretation") else 1)
    else:
        least = 8 * header.frames  # each frame is an item with a head of 8 bytes
        if samples > codecs.MOST_SAMPLES:
            raise _unreadable(dataset, header, f"{samples} values in one frame are more than any image has")
    if size < least:
        fault = f"{size} bytes are fewer than the header announces"
        raise _unreadable(dataset, header, fault, TruncatedPixelsError)


def _pixel_keyword(dataset: Dataset) -> str:
    return next((k for k in ("FloatPixelData", "DoubleFloatPixelData") if k in dataset), "PixelData")


def _pixel_data(dataset: Dataset) -> bytes:
    try:
        value = dataset[_pixel_keyword(dataset)].value
    except Exception:  # of an unknown kind, which a damaged header can make of it
        return b""
    return value if isinstance(value, bytes) else b""


def _bits_allocated(dataset: Dataset) -> int:
    known = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
    return known.get(_pixel_keyword(dataset), max(1, integer(dataset, "BitsAllocated", 16)))


def _stored(dataset: Dataset, header: Header) -> npt.NDArray[Any]:
    """Return the stored values `[frames, rows, columns]`, or `[frames, rows, columns, 3]` as RGB.

    Raises:
        DicomSeriesError: too few, or undecodable ones.
    """
    try:
        return _native(dataset, header) if _is_native(dataset) else _compressed(dataset, header)
    except DicomSeriesError:
        raise
    except Exception as error:  # decoders fail in their own ways, and their text can hold header values
        raise _unreadable(dataset, header, f"decoding failed with {type(error).__name__}") from None


def _is_native(dataset: Dataset) -> bool:
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    return syntax.is_transfer_syntax and not syntax.is_private and not syntax.is_encapsulated


def _native(dataset: Dataset, header: Header) -> npt.NDArray[Any]:
    frames, (rows, columns) = header.frames, header.shape
    samples, allocated = integer(dataset, "SamplesPerPixel", 1), _bits_allocated(dataset)
    kind = "u" if _pixel_keyword(dataset) == "PixelData" else "f"
    if samples == 1 and (kind == "f" or allocated in (8, 16, 32)):
        order = "<" if UID(dataset.file_meta.TransferSyntaxUID).is_little_endian else ">"
        stored = np.frombuffer(_pixel_data(dataset), f"{order}{kind}{allocated // 8}", count=frames * rows * columns)
        stored = stored.reshape(frames, rows, columns)
        if kind == "f":
            return stored
        high = integer(dataset, "HighBit", integer(dataset, "BitsStored", allocated) - 1)
        return _used_bits(stored, dataset, allocated - 1 - high)
    array, _ = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset)
    return array.reshape(frames, rows, columns, *([samples] if samples > 1 else []))


def _compressed(dataset: Dataset, header: Header) -> npt.NDArray[Any]:
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    decode = codecs.decoder(syntax)
    assert decode is not None  # checked before
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    samples, photometric = integer(dataset, "SamplesPerPixel", 1), text(dataset, "PhotometricInterpretation")
    found: list[npt.NDArray[Any]] = []
    for frame in generate_frames(_pixel_data(dataset), number_of_frames=header.frames, extended_offsets=offsets):
        if len(found) == header.frames:
            break
        expected = codecs.FrameShape(*header.shape, samples, integer(dataset, "BitsAllocated", 16), photometric)
        found.append(decode(frame, expected))
    if len(found) < header.frames:
        raise _unreadable(
            dataset, header, f"it holds {len(found)} of the {header.frames} frames announced", TruncatedPixelsError
        )
    stored = np.stack(found) if len(found) > 1 else found[0][None]
    if samples > 1:
        return stored
    return _used_bits(stored, dataset, stored.itemsize * 8 - integer(dataset, "BitsStored", stored.itemsize * 8))


def _used_bits(stored: npt.NDArray[Any], dataset: Dataset, unused: int) -> npt.NDArray[Any]:
    """Drop the bits that hold no pixel (such as old overlays) and give the sign that the header tells.

    Args:
        stored: integers of 8, 16 or 32 bits.
        dataset: its header.
        unused: how many bits lie above the pixel's.
    """
    size = stored.itemsize * 8
    bits, signed = integer(dataset, "BitsStored", size), integer(dataset, "PixelRepresentation", 0) == 1
    if not 0 < bits <= size or not 0 <= unused <= size - bits:
        raise ValueError("contradictory numbers of bits")
    stored = stored.astype(f"u{stored.itemsize}", copy=False)
    if bits == size:
        return stored.view(f"i{stored.itemsize}") if signed else stored
    if not signed and unused + bits == size and int(stored.max(initial=0)) < 1 << bits:
        return stored
    shifted = stored << np.array(unused, stored.dtype)
    return (shifted.view(f"i{stored.itemsize}") if signed else shifted) >> np.array(size - bits, stored.dtype)


def _unreadable(
    dataset: Dataset, header: Header, fault: str, kind: type[UnreadablePixelsError] = UnreadablePixelsError
) -> UnreadablePixelsError:
    """Describe pixel data that cannot be read: transfer syntax and remedy."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    transcode = "convert the files to Explicit VR Little Endian (dcmtk: dcmdjpeg; gdcm: gdcmconv --raw)"
    if kind is UnsupportedSyntaxError:
        remedy = f"{codecs.hint(syntax)}{transcode}"
    else:
        remedy = "the file is damaged or cut off: export the series again"
        if not _is_native(dataset):
            remedy += f", or {transcode}"
    name = syntax.name if syntax.is_transfer_syntax and not syntax.is_private else "private syntax"
    return kind(
        f"Series {header.series_uid}: pixel data in transfer syntax {name} ({syntax}) cannot be read: {fault}. Remedy: "
        f"{remedy}.",
        header.series_uid,
    )


# ------------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True)
class GreyFrames:
    """Frames after the modality transform.

    Attributes:
        values: of each frame float32 `[rows, columns]`; HU for CT.
        outside: of each frame which pixels lie outside the field of view, None where none does.
    """

    values: Sequence[npt.NDArray[np.float32]]
    outside: Sequence[npt.NDArray[np.bool_] | None]

    def fill(self, padding: float | None = None) -> None:
        """Give the pixels outside the field of view one value, by default the lowest of the others in their frame."""
        for frame, outside in zip(self.values, self.outside, strict=True):
            if outside is not None:
                frame[outside] = frame[~outside].min(initial=np.inf) if padding is None else padding
                frame[np.isinf(frame)] = 0.0  # nothing lies inside


def grey_frames(
    dataset: Dataset, header: Header, wanted: Sequence[int], targets: Sequence[npt.NDArray[np.float32]]
) -> GreyFrames:
    """Decode grey frames and apply the modality transform, that of each frame where they have their own.

    Args:
        dataset: one file with its pixels, single-channel, that has passed `check_pixels`.
        header: of the same file.
        wanted: numbers of the frames.
        targets: where the values of each go, float32 `[rows, columns]`.

    Raises:
        DicomSeriesError: the pixels cannot be read.
    """
    stored = _stored(dataset, header)
    try:
        shared, per_frame = functional_groups(dataset)
        for target, number in zip(targets, wanted, strict=True):
            _modality_transform(dataset, (*per_frame[number : number + 1], *shared), stored[number], target)
        return GreyFrames(targets, [_padding(dataset, stored[number]) for number in wanted])
    except Exception as error:  # a damaged lookup table and the like; the message could quote header values
        raise _unreadable(dataset, header, f"the modality transform failed with {type(error).__name__}") from None


def _modality_transform(
    dataset: Dataset, groups: tuple[Dataset, ...], stored: npt.NDArray[Any], target: npt.NDArray[np.float32]
) -> None:
    """Write the values of one frame to `target`."""
    if "ModalityLUTSequence" in dataset:
        target[...], _ = _lookup(dataset, "ModalityLUTSequence", stored)
        return
    rescale = macro(dataset, groups, "PixelValueTransformationSequence")
    slope, intercept = numbers(rescale, "RescaleSlope", 1), numbers(rescale, "RescaleIntercept", 1)
    if slope is None or intercept is None:
        target[...] = stored
    elif stored.itemsize <= 2 and slope[0] == 1:  # 16-bit values are exact in float32
        np.add(stored, np.float32(intercept[0]), out=target, dtype=np.float32, casting="unsafe")
    elif stored.itemsize <= 2:
        np.multiply(stored, np.float32(slope[0]), out=target, dtype=np.float32, casting="unsafe")
        if intercept[0]:
            target += np.float32(intercept[0])
    else:
        target[...] = stored.astype(np.float64) * slope[0] + intercept[0]


def _lookup(dataset: Dataset, sequence: str, values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], int]:
    """Return the entries of a modality or VOI LUT for values, and of how many bits they are (PS3.3 C.11.1.1.1).

    Raises:
        ValueError: the table contradicts itself.
    """
    table = dataset[sequence].value[0]
    count, first, bits = (int(value) for value in table.LUTDescriptor)
    count = count or 1 << 16
    entries = table.LUTData
    if isinstance(entries, bytes):  # 8-bit entries may stand in bytes or in words
        order = "<" if dataset.original_encoding[1] else ">"
        entries = np.frombuffer(entries, f"{order}u{2 if len(entries) >= 2 * count else 1}", count=count)
    entries = np.asarray(entries, dtype=np.float32).ravel()
    if len(entries) != count or not 1 <= bits <= 16:
        raise ValueError("contradictory lookup table")
    if first >= 1 << 15 and values.min(initial=0) < 0:  # written as if unsigned
        first -= 1 << 16
    return entries[np.clip(values.astype(np.int64) - first, 0, count - 1)], bits


def _padding(dataset: Dataset, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Return which pixels lie outside the field of view (PS3.3 C.7.5.1.1.2), None where none does."""
    if "PixelPaddingValue" not in dataset or stored.dtype.kind == "f":
        return None
    signed, size = stored.dtype.kind == "i", 1 << (8 * stored.itemsize)

    def as_stored(keyword: str, default: int) -> int:
        value = integer(dataset, keyword, default) % size  # written with either sign
        return value - size if signed and value >= size // 2 else value

    value = as_stored("PixelPaddingValue", 0)
    low, high = sorted((value, as_stored("PixelPaddingRangeLimit", value)))
    outside = stored == low if low == high else (stored >= low) & (stored <= high)
    return outside if outside.any() else None


# -------------------------------------------------------------------------------------------------- presentation


def common_window(frames: Sequence[tuple[Dataset, int]]) -> Window | None:
    """Return one window for a whole volume, so that its slices stay comparable.

    Args:
        frames: file and number of each frame.

    Returns:
        The window that all frames state, else the range that holds all of theirs; None where a frame states none.
    """
    found: set[Window] = set()
    for dataset, number in frames:
        window = _window(dataset, number)
        if window is None:
            return None
        found.add(window)
    if len(found) == 1:
        return found.pop()
    low = min(window.centre - window.width / 2 for window in found)
    high = max(window.centre + window.width / 2 for window in found)
    return Window((low + high) / 2, high - low, "LINEAR_EXACT")


def _window(dataset: Dataset, number: int) -> Window | None:
    """Return the first window that is stated for a frame, None where there is no valid one."""
    shared, per_frame = functional_groups(dataset)
    source = macro(dataset, (*per_frame[number : number + 1], *shared), "FrameVOILUTSequence")
    try:
        centre, width = (all_numbers(source, keyword)[0] for keyword in ("WindowCenter", "WindowWidth"))
    except Exception:  # absent, empty or undecodable
        return None
    function = text(source, "VOILUTFunction") or "LINEAR"
    if not np.isfinite([centre, width]).all() or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return None
    return Window(centre, width, function) if width >= 1 or (function != "LINEAR" and width > 0) else None


def is_inverse(dataset: Dataset) -> bool:
    """Tell whether high values are to be shown dark; where a file says so in both ways it still means it once."""
    shape = text(dataset, "PresentationLUTShape")
    return text(dataset, "PhotometricInterpretation") == "MONOCHROME1" or shape == "INVERSE"


def picture(dataset: Dataset, header: Header) -> npt.NDArray[np.float32]:
    """Return a picture as it is to be looked at.

    Colours become RGB, greys white on black: modality LUT, then VOI LUT or window, else 8-bit values as they are and
    others from their lowest to their highest; pixels outside the field of view are black.

    Args:
        dataset: one file with its pixels.
        header: of the same file.

    Returns:
        float32 `[C, frames, rows, columns]` of 0 to 255, C 1 or 3.

    Raises:
        DicomSeriesError: the pixels cannot be read.
    """
    check_pixels(dataset, header)
    photometric, samples = text(dataset, "PhotometricInterpretation"), integer(dataset, "SamplesPerPixel", 1)
    try:
        if samples == 1 and photometric.startswith("MONOCHROME"):
            shown = np.empty((header.frames, *header.shape), dtype=np.float32)
            frames = grey_frames(dataset, header, range(header.frames), list(shown))
            for number, outside in enumerate(frames.outside):
                _show(dataset, number, shown[number], outside)
            return shown[None]
        stored, depth = _stored(dataset, header), integer(dataset, "BitsStored", 8)
        if photometric == "PALETTE COLOR" and samples == 1:
            stored = apply_color_lut(stored, dataset)
            depth = stored.itemsize * 8
        if stored.ndim != 4 or stored.shape[-1] != 3 or not 1 <= depth <= 16:
            raise UnsupportedImageError(
                f"Series {header.series_uid}: {photometric or 'unknown colours'} with {samples} sample(s) per pixel of "
                f"{depth} bits is no colour image that is read. Export it as RGB.",
                header.series_uid,
            )
        return stored.transpose(3, 0, 1, 2) * np.float32(255 / ((1 << depth) - 1))
    except DicomSeriesError:
        raise
    except Exception as error:  # a damaged palette and the like; the message could quote header values
        raise _unreadable(dataset, header, f"its colours failed with {type(error).__name__}") from None


def _show(
    dataset: Dataset, number: int, values: npt.NDArray[np.float32], outside: npt.NDArray[np.bool_] | None
) -> None:
    """Turn the values of one frame into grey 0 to 255, in place."""
    window = _window(dataset, number)
    if dataset.get("VOILUTSequence"):
        entries, bits = _lookup(dataset, "VOILUTSequence", np.rint(values).astype(np.int64))
        shown = entries * np.float32(255 / ((1 << bits) - 1))
    elif window is not None:
        shown = window(values)
    elif (bits := integer(dataset, "BitsStored", 16)) <= 8:
        shown = values * np.float32(255 / ((1 << bits) - 1))
    else:
        inside = values if outside is None else values[~outside]
        low, high = inside.min(initial=np.inf), inside.max(initial=-np.inf)
        shown = (values - low) * np.float32(255 / (high - low)) if high > low else np.zeros_like(values)
    shown = np.clip(shown, 0, 255)
    values[...] = 255 - shown if is_inverse(dataset) else shown
    if outside is not None:
        values[outside] = 0
