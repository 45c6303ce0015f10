"""Examining an item of a data list: it is read once, and only the measurements that are compared are kept."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from scipy import ndimage

from monai_rd.datasets.image_fingerprints import grey_picture, image_fingerprint
from monai_rd.datasets.near_duplicates import Fingerprint, Picture
from monai_rd.datasets.studies import Item, files_of_item
from monai_rd.dicom import is_dicom
from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.dicom.redaction import decoded
from monai_rd.dicom.values import parts, uid
from monai_rd.errors import StudyError, UnreadableFileError, original_error
from monai_rd.files import known_hash, open_file
from monai_rd.walk import walk

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["Examined", "Loader", "Measured", "default_loader", "examine", "sheet_picture"]

# Longer side of a picture on the contact sheet.
SHEET_PIXELS = 320
# SpecificCharacterSet, Manufacturer, ManufacturerModelName, SeriesInstanceUID, BurnedInAnnotation; read from at most
# the first `_HEADER_BYTES` bytes.
_SCANNER_TAGS: list[Any] = [0x00080005, 0x00080070, 0x00081090, 0x0020000E, 0x00280301]
_HEADER_BYTES = 1 << 20

Loader = Callable[[Item], "MetaTensor"]


@dataclass(frozen=True, eq=False)
class Measured:
    """The measurements of an image that was read.

    Attributes:
        fingerprint: for finding duplicates.
        intensity: summary of the values; None where they have no unit.
        size: voxels along each spatial axis.
        spacing: mm along each spatial axis; None where unknown.
        channels: number of channels.
        text: whether the image seems to contain text.
    """

    fingerprint: Fingerprint
    intensity: tuple[float, float] | None  # None where values have no unit
    size: tuple[int, ...]
    spacing: tuple[float, ...] | None
    channels: int
    text: bool


@dataclass(frozen=True, eq=False)
class Examined:
    """An item that was examined.

    Attributes:
        id: see `AuditItem`.
        scanner: manufacturer and model from the DICOM header; None otherwise.
        measured: the measurements; None where the item could not be read.
        problem: the code of the error in that case.
    """

    id: str
    scanner: str | None
    measured: Measured | None
    problem: str = ""


def default_loader() -> Loader:
    """Return a function that loads an item as the bundles do."""
    from monai_rd.transforms import LoadImageOrSeriesd

    return partial(_load_with, LoadImageOrSeriesd("image"))


def _load_with(transform: Callable[[Item], Item], item: Item) -> MetaTensor:
    return transform({"image": item["image"]})["image"]


def examine(load: Loader, item: Item) -> Examined:
    """Read and measure one item; never raises an error for unreadable files."""
    first = files_of_item(item)[0]
    if os.path.isdir(first):
        first = next((file for file in walk(first, below=False).files if is_dicom(file)), first)
    header = _scanner_header(first) if is_dicom(first) else Dataset()
    name = item.get("id") or uid(header, "SeriesInstanceUID") or f"sha256:{known_hash(first)}"
    scanner = f"{decoded(header, 'Manufacturer')} {decoded(header, 'ManufacturerModelName')}" if len(header) else None
    try:
        measured = _measure(load(item))
    except Exception as error:  # MONAI's transforms wrap the errors that they meet
        reason = original_error(error)
        if not isinstance(reason, (StudyError, OSError)):
            raise
        return Examined(
            name, scanner, None, reason.code if isinstance(reason, StudyError) else UnreadableFileError.code
        )
    return Examined(
        name, scanner, replace(measured, text=measured.text or parts(header, "BurnedInAnnotation") == ("YES",))
    )


@log_warnings_once()
def _scanner_header(path: Path) -> Dataset:
    """Read the attributes that are needed; pydicom gets bytes, not a path that its messages could quote."""
    try:
        with open_file(path) as file:
            head = io.BytesIO(file.read(_HEADER_BYTES))
        return read_partial(head, lambda tag, vr, length: tag > 0x00280301, force=True, specific_tags=_SCANNER_TAGS)
    except Exception:  # parsing a damaged header can fail in any way; the loader reports it
        return Dataset()


def _measure(image: MetaTensor) -> Measured:
    values = image.as_tensor().numpy()
    display = image.meta.get("intensity") == "display"
    spacing = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    return Measured(
        fingerprint=image_fingerprint(image),
        intensity=None if image.meta.get("intensity") == "arbitrary" else (float(values.mean()), float(values.std())),
        size=values.shape[1:],
        spacing=None if display else tuple(float(mm) for mm in spacing),
        channels=values.shape[0],
        text=display and _shows_text(grey_picture(image)),
    )


def sheet_picture(load: Loader, item: Item) -> Picture:
    """Return an item as a small grey picture for the contact sheet; a white one if it can no longer be read."""
    try:
        shown = Image.fromarray(grey_picture(load(item)))
    except Exception as error:
        if not isinstance(original_error(error), (StudyError, OSError)):
            raise
        return np.full((SHEET_PIXELS, SHEET_PIXELS), 255, np.uint8)
    shown.thumbnail((SHEET_PIXELS, SHEET_PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(shown)


def _shows_text(picture: Picture) -> bool:
    """Whether three shapes like white letters stand in a row near a border of an 8-bit image.

    Such a shape is small, nearly white on a much darker ground, and taller than wide or nearly so. On COVID-CT this
    detects 11 of 746 figures; 10 of them contain text. Dark, small or connected text is missed.
    """
    rows, columns = picture.shape
    values = picture.astype(np.int16)
    regions, _ = ndimage.label((values >= ndimage.minimum_filter(values, 15) + 150) & (values >= 200), np.ones((3, 3)))
    signs = []
    for number, (y, x) in enumerate(ndimage.find_objects(regions), start=1):
        height, width = y.stop - y.start, x.stop - x.start
        to_border_y = min(y.start + y.stop, 2 * rows - y.start - y.stop) / (2 * rows)
        to_border_x = min(x.start + x.stop, 2 * columns - x.start - x.stop) / (2 * columns)
        if not 5 <= height <= max(8, rows // 12) or width > 1.2 * height or (to_border_y > 0.12 and to_border_x > 0.2):
            continue
        if 0.2 <= (regions[y, x] == number).mean() <= 0.95:
            signs.append((y.start, y.stop, x.start, x.stop))
    for top, bottom, _, _ in signs:
        height = bottom - top
        slack = max(1.0, 0.15 * height)
        line = sorted(s[2:] for s in signs if abs(s[0] - top) <= slack and abs(s[1] - bottom) <= slack)
        close = [-1 <= after[0] - before[1] <= 1.2 * height for before, after in pairwise(line)]
        if any(close[n] and close[n + 1] for n in range(len(close) - 1)):
            return True
    return False
