"""PNG, JPEG, BMP and TIFF as a viewer shows them, by Pillow."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import SAMPLEFORMAT, TiffImageFile

from monai_rd.dicom.end_markers import complete_jpeg
from monai_rd.errors import TooLargeError, UnreadableImageError
from monai_rd.images.validation import checked_size, checked_values

__all__ = ["picture_values", "shown_picture"]

MOST_PIXELS = 89_478_485  # above which Pillow would warn of a decompression bomb; a mammogram has 30 million at most

_READERS: Mapping[str, Callable[[BinaryIO], ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
}

logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.INFO)  # at DEBUG it tells every tag, a patient's name as well

# What the stored samples of a picture mean, by Pillow's modes (docs "Concepts"): palettes are looked up, not judged by
# their numbers, and what is not here has more than the 256 levels of a screen or no defined look.
_GREY, _COLOUR, _PALETTE = ("1", "L", "LA", "La"), ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr"), ("P", "PA")
# Pillow would read signed bytes as if they had no sign.
_NOT_SHOWN = {"I": "32-bit", "F": "floating-point", "LAB": "CIELAB"}


def shown_picture(path: Path, kind: str) -> Image.Image:
    """Read a picture as it is shown: upright, with its palette, in 8 bits.

    Turned and mirrored as its Exif or TIFF orientation says; CMYK and YCbCr as RGB; 16-bit colours by their upper 8
    bits; TIFF's white-is-zero as it is meant. What is transparent shows white, as on paper. Colour profiles are not
    applied. Of a JPEG with further pictures behind it (a camera's previews), the first.

    Args:
        path: of the file.
        kind: PNG, JPEG, BMP or TIFF, see `kind_of`; Pillow's reader of this format gets the opened file, no other does.

    Returns:
        Of mode "L", or "RGB" where it is stored in colour; a palette of greys gives "L".

    Raises:
        StudyError: more than 8 bits a grey value, several pages, or too large; its message lacks the name.
    """
    with open(path, "rb") as file, _READERS[kind](file) as image:
        _check(image, path.stat().st_size)
        start = file.tell()
        try:
            return _flat(ImageOps.exif_transpose(image))
        except OSError:
            if kind != "JPEG":
                raise
            file.seek(0)
            content = file.read()
    with JpegImageFile(io.BytesIO(complete_jpeg(content, start, _pixels))) as image:  # only its end mark may be missing
        return _flat(ImageOps.exif_transpose(image))


def _pixels(content: bytes) -> NDArray[np.uint8]:
    with JpegImageFile(io.BytesIO(content)) as image:
        return np.asarray(image)


def picture_values(path: Path, kind: str) -> NDArray[np.float32]:
    """`shown_picture` as values 0 to 255, `[1, X, Y]` or `[3, X, Y]`."""
    shown = np.asarray(shown_picture(path, kind))
    return checked_values(shown.T[None] if shown.ndim == 2 else shown.transpose(2, 1, 0))


def _check(image: ImageFile, stored: int) -> None:
    signed = isinstance(image, TiffImageFile) and image.tag_v2.get(SAMPLEFORMAT, (1,))[0] != 1
    if signed or image.mode not in (*_GREY, *_COLOUR, *_PALETTE):
        values = _NOT_SHOWN.get(image.mode, "signed" if signed else "16-bit")
        raise UnreadableImageError(
            f"holds {values} values; images must be 8-bit (0 to 255): save it as a screen shows it, or as a volume"
        )
    if image.width * image.height > MOST_PIXELS:
        raise TooLargeError(f"has more than {MOST_PIXELS / 1e6:.0f} million pixels: save it smaller")
    samples = image.width * image.height * len(image.getbands())
    if isinstance(image, PngImageFile):  # other formats may say "all alike" in a few bytes
        checked_size(samples, 1 if len(image.getbands()) > 1 else 1 / 8, stored, compressed=True)
    else:
        checked_size(samples, 1, samples, compressed=False)
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise UnreadableImageError(f"holds {pages} pages or frames: save the one that is meant, or all as a volume")


def _flat(image: Image.Image) -> Image.Image:
    """On white paper, in grey or RGB."""
    grey = image.mode in _GREY
    palette = image.mode in _PALETTE
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA"):
        image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if palette:
        red, green, blue = (np.asarray(band) for band in image.split())
        grey = bool((red == green).all() and (green == blue).all())
    return image.getchannel("R") if grey else image
