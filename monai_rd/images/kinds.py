"""Detection of file formats by their first bytes, and comparison with the file's suffix."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from monai_rd.errors import UnreadableImageError
from monai_rd.files import IMAGE_SUFFIXES, NIFTI_SUFFIXES, VOLUME_SUFFIXES, open_file

__all__ = ["METAIMAGE", "NIFTI", "NRRD", "PICTURES", "kind_of", "misnamed_kind"]

NIFTI, METAIMAGE, NRRD = "NIfTI", "MetaImage", "NRRD"
PICTURES = ("PNG", "JPEG", "BMP", "TIFF")  # as Pillow calls them
_HEAD = 4096

# Formats that are read, and others that occur under their suffixes.
_BEGINNINGS = (
    (rb"(?s).{128}DICM", "DICOM"),  # first: its preamble may be the head of a TIFF
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff\xf7|\xff\xd8\xff\xe8", "JPEG-LS"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"BM", "BMP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"NRRD\d{4}", NRRD),
    (rb"\x93NUMPY", "a NumPy array (.npy)"),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive, as .npz, .docx and PyTorch's .pt are"),
    (rb"\x80[\x02-\x05]", "a pickle"),
    (rb"\x89HDF\r\n\x1a\n", "HDF5, as MINC and MATLAB's .mat are"),
    (rb"MATLAB ", "MATLAB's .mat"),
    (rb"GIF8", "GIF"),
    (rb"(?s)RIFF.{4}WEBP", "WebP"),
    (rb"(?s).{4}ftyp", "HEIC, AVIF or a film"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"%PDF|%!PS", "a PDF or PostScript"),
    (rb"(?i)\s*<(?:!doctype html|html|head|body)", "a web page (HTML)"),
    (rb"\s*<(?:\?xml|svg)", "XML or SVG"),
    (rb"7z\xbc\xaf\x27\x1c|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed file of another kind than gzip"),
)
# Formats whose first bytes identify an image whatever the file's name; "BM", zip and "ftyp" also begin other files.
_SURE = ("PNG", "JPEG", "TIFF", "JPEG-LS", "JPEG 2000", "GIF", "WebP", NIFTI, METAIMAGE, NRRD)
_META_FIELD = rb"(?m)^[ \t]*NDims[ \t]*[=:][ \t]*\d+[ \t]*\r?$"


def kind_of(path: Path) -> str:
    """Return the format of a file, NIFTI, METAIMAGE, NRRD or one of PICTURES, if its suffix agrees with its content.

    Common mistakes are accepted: a picture with the suffix of another picture format, NIfTI whose suffix is wrong about
    compression. Any other mismatch is refused.

    Raises:
        OSError: the file cannot be opened.
        UnreadableImageError: content and suffix do not agree, or the format is not supported; the message does not name
            the file.
    """
    with open_file(path) as file:
        found = _detected(file.read(_HEAD))
    name = path.name.lower()
    wanted: tuple[str, ...]
    if name.endswith(IMAGE_SUFFIXES):
        wanted = PICTURES
    elif name.endswith(NIFTI_SUFFIXES):
        wanted = (NIFTI,)
    elif name.endswith(VOLUME_SUFFIXES):
        wanted = (METAIMAGE,) if name.endswith((".mha", ".mhd")) else (NRRD,)
    else:
        raise UnreadableImageError(
            f"is no image this project reads: DICOM, a volume ({', '.join(VOLUME_SUFFIXES)}) or an 8-bit "
            f"image ({', '.join(IMAGE_SUFFIXES)})"
        )
    if found in wanted:
        return found
    if found:
        raise UnreadableImageError(
            f"is not what its name says: it seems to be {found}. Give it the name of what it is, replace it, or take "
            "it out of the data"
        )
    raise UnreadableImageError("is damaged or not what its name says; replace it, or take it out of the data")


def misnamed_kind(path: Path) -> str:
    """Return the image format of a file whose suffix is not that of a supported image, "" if it is not an image."""
    if path.name.lower().endswith((*IMAGE_SUFFIXES, *VOLUME_SUFFIXES)):
        return ""
    try:
        with open_file(path) as file:
            found = _detected(file.read(_HEAD))
    except OSError:  # unreadable files are reported elsewhere
        return ""
    return found if found in _SURE else ""


def _detected(head: bytes) -> str:
    """Return the format that a file seems to have by its first bytes, "" if unknown."""
    if not head:
        return "an empty file"
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(31).decompress(head, _HEAD)
        except zlib.error:
            return ""
        return _nifti(head) or "a gzip-compressed file of another kind than NIfTI"
    for beginning, kind in _BEGINNINGS:
        if re.match(beginning, head):
            return kind
    return _nifti(head) or (METAIMAGE if re.search(_META_FIELD, head) else "")


def _nifti(head: bytes) -> str:
    if int.from_bytes(head[:4], "little") not in (348, 540) and int.from_bytes(head[:4], "big") not in (348, 540):
        return ""
    if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0":
        return NIFTI
    if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
        return "the header of a NIfTI pair (.hdr and .img), which is not read: save it as one .nii file"
    return "Analyze 7.5, which does not tell left from right" if len(head) >= 348 else ""
