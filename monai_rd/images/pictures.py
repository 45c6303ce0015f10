"""PNG, JPEG, BMP and TIFF pictures as a viewer shows them, read by Pillow."""

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

MOST_PIXELS = 89_478_485  # Pillow's limit for its decompression bomb warning; a mammogram has at most 30 million

_READERS: Mapping[str, Callable[[BinaryIO], ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
}

logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.INFO)  # DEBUG logs every tag, which may name the patient

# Pillow's modes (docs "Concepts") by the meaning of the stored samples: palette indices are looked up. Modes not listed
# here have more than the 256 levels of a screen, or no defined appearance.
_GREY, _COLOUR, _PALETTE = ("1", "L", "LA", "La"), ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr"), ("P", "PA")
# Names of other modes for error messages. (Signed bytes are refused too: Pillow would read them as unsigned.)
_NOT_SHOWN = {"I": "32-bit", "F": "floating-point", "LAB": "CIELAB"}


def shown_picture(path: Path, kind: str) -> Image.Image:
    """Read a picture as a viewer shows it: upright, with its palette applied, in 8 bits.

    Exif or TIFF orientation is applied; CMYK and YCbCr become RGB; 16-bit colours keep their upper 8 bits; TIFF's
    white-is-zero is inverted. Transparent pixels are put on a white background. Colour profiles are not applied. Of a
    JPEG file with several pictures (a camera's previews) the first is read.

    Args:
        path: path of the file.
        kind: PNG, JPEG, BMP or TIFF, see `kind_of`; only Pillow's reader of this format is used.

    Returns:
        Image of mode "L", or of "RGB" if it is stored in colour; a palette that holds only greys gives "L".

    Raises:
        StudyError: grey values of more than 8 bits, several pages, or too large; the message does not name the file.
    """
    with open(path, "rb") as file, _READERS[kind](file) as image:
        _check(image, path.stat().st_size)
        start = file.tell()
        try:
            return _on_white(ImageOps.exif_transpose(image))
        except OSError:
            if kind != "JPEG":
                raise
            file.seek(0)
            content = file.read()
    with JpegImageFile(io.BytesIO(complete_jpeg(content, start, _pixels))) as image:  # perhaps only its EOI is missing
        return _on_white(ImageOps.exif_transpose(image))


def _pixels(content: bytes) -> NDArray[np.uint8]:
    with JpegImageFile(io.BytesIO(content)) as image:
        return np.asarray(image)


def picture_values(path: Path, kind: str) -> NDArray[np.float32]:
    """Return the values of `shown_picture`, float32 0 to 255, `[1, X, Y]` or `[3, X, Y]`."""
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
    if isinstance(image, PngImageFile):  # other formats may store a uniform image in a few bytes
        checked_size(samples, 1 if len(image.getbands()) > 1 else 1 / 8, stored, compressed=True)
    else:
        checked_size(samples, 1, samples, compressed=False)
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise UnreadableImageError(f"holds {pages} pages or frames: save the one that is meant, or all as a volume")


def _on_white(image: Image.Image) -> Image.Image:
    """Return the image on a white background, in grey or RGB."""
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
