"""From stored pixels to values: modality transform, padding, window, photometric interpretation.

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
# What pixels outside the field of view become in a CT: scanners that have no padding value write this one, in HU.
CT_PADDING_HU = -1024.0
_COLOURS = frozenset(one.value for one in PhotometricInterpretation)
# Above it products of 16 bits leave float32; no unit needs as much.
_MOST_RESCALE = 1e30


@dataclass(frozen=True)
class Window:
    """A grey-scale window (PS3.3 C.11.2): centre, width, and "LINEAR", "LINEAR_EXACT" or "SIGMOID"."""

    centre: float
    width: float
    function: str

    def show(self, values: npt.NDArray[np.float32]) -> None:
        """Map values to grey 0 to 255, in place."""
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
    """Decode grey frames and apply the modality transform, that of each frame where they have their own.

    Args:
        dataset: one file with its pixels, single-channel, that has passed `check_pixels`.
        header: of the same file.
        wanted: numbers of the frames.
        targets: where the values of each go, float32 `[rows, columns]`; HU for CT. Those of pixels outside the field of
            view are NaN, until `fill_outside`; all others are finite.

    Returns:
        Whether any pixel lies outside.

    Raises:
        DicomSeriesError: the pixels cannot be read.
        InvalidValuesError: some are no finite numbers.
    """
    stored = stored_values(dataset, header)
    try:
        shared, per_frame = functional_groups(dataset)
        padded = False
        for target, number in zip(targets, wanted, strict=True):
            outside = _outside(dataset, stored[number])
            with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is counted
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
    """Write the values of one frame to `target`."""
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
    """Return which pixels lie outside the field of view (PS3.3 C.7.5.1.1.2), None where none does."""
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
    """Return a padding value as it is among stored values of a kind, None where it is not stated."""
    try:
        (value,) = all_numbers(dataset, keyword)
    except Exception:  # absent, empty or undecodable
        return None
    if kind.kind == "f":
        return float(value)
    size = 1 << (8 * kind.itemsize)
    value = int(value) % size  # written with either sign
    return value - size if kind.kind == "i" and value >= size // 2 else value


def fill_outside(values: npt.NDArray[np.float32], padding: float | None = None) -> None:
    """Give the pixels outside the field of view one value in a whole series, in place.

    Args:
        values: of all slices, NaN where `grey_frames` has found no field of view.
        padding: the value; None takes the lowest of all others, and 0 where there are none.
    """
    if padding is None:
        lowest = np.fmin.reduce(values, axis=None)
        padding = 0.0 if np.isnan(lowest) else float(lowest)
    for part in values:  # less memory than all at once
        part[np.isnan(part)] = padding


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
    others from the lowest to the highest of all frames; pixels outside the field of view are black.

    Args:
        dataset: one file with its pixels.
        header: of the same file.

    Returns:
        float32 `[C, frames, rows, columns]` of 0 to 255, C 1 or 3.

    Raises:
        DicomSeriesError: the pixels cannot be read.
        InvalidValuesError: some are no finite numbers.
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
            with np.errstate(over="ignore"):  # what is beyond float32 is black or white
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
    """Turn the values of one frame into grey 0 to 255, in place; `reach` holds the lowest and highest of all frames."""
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
