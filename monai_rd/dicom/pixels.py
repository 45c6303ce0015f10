"""Conversion of stored pixels to values: modality transform, padding, window, photometric interpretation.

The steps follow PS3.3 C.11: stored values, modality LUT or rescale, VOI LUT or window, presentation. For CT, PT and NM,
whose values are measurements, the last step is the rescale. Images for viewing become grey 0 to 255, white on black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.common import PhotometricInterpretation

from monai_rd.dicom.header import Header
from monai_rd.dicom.planes import functional_groups, macro
from monai_rd.dicom.stored import check_pixels, stored_values, unreadable
from monai_rd.dicom.tables import lookup, palette_colours
from monai_rd.dicom.values import all_numbers, has, integer, numbers, text
from monai_rd.errors import InvalidValuesError, StudyError, UnsupportedImageError

__all__ = [
    "CT_PADDING_HU",
    "MEASURED",
    "Window",
    "common_window",
    "fill_outside",
    "grey_frames",
    "is_inverse",
    "picture",
]

# Modalities whose rescaled values are measurements: no window, no inversion.
MEASURED = frozenset({"CT", "PT", "NM"})
# HU of pixels outside the field of view of a CT; scanners that have no padding value write this one.
CT_PADDING_HU = -1024.0
_COLOURS = frozenset(one.value for one in PhotometricInterpretation)
# Largest rescale slope or intercept: above it products with 16-bit values could exceed float32.
_MOST_RESCALE = 1e30


@dataclass(frozen=True)
class Window:
    """A grey-scale window (PS3.3 C.11.2): centre, width, and "LINEAR", "LINEAR_EXACT" or "SIGMOID"."""

    centre: float
    width: float
    function: str

    def show(self, values: npt.NDArray[np.float32]) -> None:
        """Map values of any shape to grey 0 to 255, in place."""
        centre, width = (self.centre - 0.5, self.width - 1) if self.function == "LINEAR" else (self.centre, self.width)
        if self.function == "SIGMOID":
            values[...] = np.float32(255) / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60)))
        elif width == 0:  # a LINEAR window of width 1 is a threshold
            values[...] = np.where(values > centre, np.float32(255), np.float32(0))
        else:
            values -= np.float32(centre)
            values /= np.float32(width)
            values += np.float32(0.5)
            np.clip(values, 0, 1, out=values)
            values *= np.float32(255)


# ------------------------------------------------------------------------------------------------------- values


def grey_frames(
    dataset: Dataset, header: Header, wanted: Sequence[int], targets: Sequence[npt.NDArray[np.float32]]
) -> bool:
    """Decode grey frames and apply the modality transform (of each frame, if it has its own).

    Args:
        dataset: one single-channel file with its pixels, checked by `check_pixels`.
        header: header of the same file.
        wanted: numbers of the frames, from 0.
        targets: output array of each frame, float32 `[rows, columns]`; HU for CT. Pixels outside the field of view are
            set to NaN, to be filled by `fill_outside`; all others are finite.

    Returns:
        Whether any pixel lies outside the field of view.

    Raises:
        DicomSeriesError: the pixels cannot be read.
        InvalidValuesError: some values are not finite.
    """
    stored = stored_values(dataset, header)
    try:
        shared, per_frame = functional_groups(dataset)
        padded = False
        for target, number in zip(targets, wanted, strict=True):
            outside = _outside(dataset, stored[number])
            with np.errstate(over="ignore", invalid="ignore"):  # non-finite results are counted below
                _modality_transform(dataset, (*per_frame[number : number + 1], *shared), stored[number], target)
            if outside is not None:
                target[outside] = np.nan
                padded = True
            if stored.itemsize > 2:  # floats, or products beyond float32
                wrong = target.size - np.count_nonzero(np.isfinite(target))
                wrong -= 0 if outside is None else np.count_nonzero(outside)
                if wrong:
                    raise InvalidValuesError(
                        f"Series {header.series_uid}: {wrong} of {target.size} values of a frame are no finite numbers "
                        "(NaN, infinite, or beyond 3.4e38). Give them a value in the program that made it, such as "
                        "that of the background, or state it as FloatPixelPaddingValue."
                    )
        return padded
    except StudyError:
        raise
    except Exception as error:  # a damaged lookup table and the like; the message could quote header values
        raise unreadable(header, f"the modality transform failed with {type(error).__name__}") from None


def _modality_transform(
    dataset: Dataset, groups: tuple[Dataset, ...], stored: npt.NDArray[Any], target: npt.NDArray[np.float32]
) -> None:
    """Apply the modality LUT or the rescale to the stored values of one frame, and write the result to `target`."""
    if has(dataset, "ModalityLUTSequence"):
        if stored.dtype.kind == "f":
            raise ValueError("a lookup table of floating-point values")
        target[...], _ = lookup(dataset, "ModalityLUTSequence", stored)
        return
    rescale = macro(dataset, groups, "PixelValueTransformationSequence")
    slope, intercept = numbers(rescale, "RescaleSlope", 1), numbers(rescale, "RescaleIntercept", 1)
    if slope is None or intercept is None:
        target[...] = stored
    elif max(abs(slope[0]), abs(intercept[0])) > _MOST_RESCALE:
        raise ValueError("an impossible rescale")
    elif stored.itemsize <= 2 and slope[0] == 1:  # 16-bit values are exact in float32
        np.add(stored, np.float32(intercept[0]), out=target, dtype=np.float32, casting="unsafe")
    elif stored.itemsize <= 2:
        np.multiply(stored, np.float32(slope[0]), out=target, dtype=np.float32, casting="unsafe")
        if intercept[0]:
            target += np.float32(intercept[0])
    else:
        target[...] = stored.astype(np.float64) * slope[0] + intercept[0]


def _outside(dataset: Dataset, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Return a mask of the pixels outside the field of view (PS3.3 C.7.5.1.1.2), None if there are none."""
    kind = {"f4": "Float", "f8": "DoubleFloat"}.get(stored.dtype.str[1:], "")
    low, high = (_padding(dataset, f"{kind}PixelPadding{end}", stored.dtype) for end in ("Value", "RangeLimit"))
    if low is None:
        return None
    low, high = sorted((low, low if high is None else high))
    if np.isnan(low):
        outside = np.isnan(stored)
    else:
        outside = stored == low if low == high else (stored >= low) & (stored <= high)
    return outside if outside.any() else None


def _padding(dataset: Dataset, keyword: str, kind: np.dtype[Any]) -> float | None:
    """Return a padding value converted to the type of the stored values, None if it is not stated."""
    try:
        (value,) = all_numbers(dataset, keyword)
    except Exception:  # absent, empty or undecodable
        return None
    if kind.kind == "f":
        return float(value)
    size = 1 << (8 * kind.itemsize)
    value = int(value) % size  # may be written as signed or unsigned
    return value - size if kind.kind == "i" and value >= size // 2 else value


def fill_outside(values: npt.NDArray[np.float32], padding: float | None = None) -> None:
    """Set the pixels outside the field of view to one value for the whole series, in place.

    Args:
        values: values of all slices, with NaN outside the field of view, as written by `grey_frames`.
        padding: the value; None: the lowest of all other values, or 0 if there are none.
    """
    if padding is None:
        lowest = np.fmin.reduce(values, axis=None)
        padding = 0.0 if np.isnan(lowest) else float(lowest)
    for part in values:  # slice by slice, to save memory
        part[np.isnan(part)] = padding


# -------------------------------------------------------------------------------------------------- presentation


def common_window(frames: Sequence[tuple[Dataset, int]]) -> Window | None:
    """Return one window for a whole volume, so that its slices stay comparable.

    Args:
        frames: data set and frame number of each frame.

    Returns:
        The window of the frames if they all state the same, else a window that covers all of theirs; None if any frame
        states none.
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
    """Return the first window that is stated for a frame, None if there is no valid one."""
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
    """Return whether high values are to be shown dark; a file that says so in both ways is still inverted once."""
    shape = text(dataset, "PresentationLUTShape")
    return text(dataset, "PhotometricInterpretation") == "MONOCHROME1" or shape == "INVERSE"


def picture(dataset: Dataset, header: Header) -> npt.NDArray[np.float32]:
    """Return a picture as shown on a screen.

    Colours are converted to RGB. Grey values pass through the modality LUT and the VOI LUT or window; without these,
    8-bit values are kept and others are scaled from the lowest to the highest value of all frames. High values are
    white, and pixels outside the field of view are black.

    Args:
        dataset: one file with its pixels.
        header: header of the same file.

    Returns:
        float32 `[C, frames, rows, columns]`, 0 to 255, with C 1 (grey) or 3 (RGB).

    Raises:
        DicomSeriesError: the pixels cannot be read.
        InvalidValuesError: some values are not finite.
    """
    check_pixels(dataset, header)
    photometric, samples = text(dataset, "PhotometricInterpretation"), integer(dataset, "SamplesPerPixel", 1)
    try:
        if samples == 1 and photometric.startswith("MONOCHROME"):
            shown = np.empty((header.frames, *header.shape), dtype=np.float32)
            padded = grey_frames(dataset, header, range(header.frames), list(shown))
            outside = np.isnan(shown) if padded else None
            if outside is not None:
                fill_outside(shown)
            reach = float(shown.min()), float(shown.max())
            with np.errstate(over="ignore"):  # values beyond float32 become black or white
                for number, frame in enumerate(shown):
                    _show(dataset, number, frame, reach)
            if outside is not None:
                shown[outside] = 0
            return shown[None]
        palette = samples == 1 and photometric == "PALETTE COLOR"
        coloured = samples == 3 and (photometric == "RGB" or photometric.startswith("YBR_"))
        stored, depth = stored_values(dataset, header), integer(dataset, "BitsStored", 8)
        if palette:
            stored, depth = palette_colours(dataset, stored)
        if not (palette or coloured) or stored.dtype.kind != "u" or not 1 <= depth <= 16:
            raise UnsupportedImageError(
                f"Series {header.series_uid}: {photometric if photometric in _COLOURS else 'unknown colours'} with "
                f"{samples} sample(s) per pixel of {depth} bits is no colour image that is read. Export it as RGB.",
                header.series_uid,
            )
        return stored.transpose(3, 0, 1, 2) * np.float32(255 / ((1 << depth) - 1))
    except StudyError:
        raise
    except Exception as error:  # a damaged palette and the like; the message could quote header values
        raise unreadable(header, f"its colours failed with {type(error).__name__}") from None


def _show(dataset: Dataset, number: int, values: npt.NDArray[np.float32], reach: tuple[float, float]) -> None:
    """Convert the values of one frame to grey 0 to 255, in place; `reach` is (lowest, highest) of all frames."""
    window = _window(dataset, number)
    if dataset.get("VOILUTSequence"):
        entries, bits = lookup(dataset, "VOILUTSequence", np.rint(values.clip(-(1 << 31), 1 << 31)).astype(int))
        values[...] = entries * np.float32(255 / ((1 << bits) - 1))
    elif window is not None:
        window.show(values)
    elif (bits := integer(dataset, "BitsStored", 16)) <= 8:
        values *= np.float32(255 / ((1 << bits) - 1))
    else:
        low, high = reach
        values -= low
        values *= np.float32(255 / (high - low)) if high > low else np.float32(0)
    np.clip(values, 0, 255, out=values)
    if is_inverse(dataset):
        np.subtract(255, values, out=values)
