"""MetaImage headers: `Key = value` lines, the last of which names the place of the voxels (itk.org, MetaIO)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from monai_rd.errors import UnreadableImageError
from monai_rd.images.volumes import HEADER_BYTES, Stored, affine_of

__all__ = ["read_metaimage"]

_TYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"}
_TYPES |= {"MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"}
_TYPES |= {"MET_FLOAT": "f4", "MET_DOUBLE": "f8"}
# Alternative names of fields.
_ALSO: Mapping[str, tuple[str, ...]] = {
    "TransformMatrix": ("Rotation", "Orientation"),
    "Offset": ("Position", "Origin"),
    "ElementSpacing": ("ElementSize",),
    "BinaryDataByteOrderMSB": ("ElementByteOrderMSB",),
}
_MOST_DIMENSIONS = 10
_SCALING = {"ElementToIntensityFunctionSlope": 1.0, "ElementToIntensityFunctionOffset": 0.0}


def read_metaimage(path: Path, beside: Path | None) -> Stored:
    """Read a MetaImage header.

    Args:
        path: path of the header.
        beside: path of the separate file with the voxels; None if they follow the header.

    Returns:
        Where and how the voxels are stored.

    Raises:
        UnreadableImageError: several values per voxel, an unknown type, or values that need rescaling.
        BadGeometryError: the header does not define a valid coordinate system.
        Exception: a damaged header.
    """
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    last = re.search(rb"(?m)^[ \t]*ElementDataFile[ \t]*[=:].*$\n?", head)
    end = len(head) if last is None else last.end()
    fields = dict(re.findall(r"(?m)^[ \t]*(\w+)[ \t]*[=:][ \t]*(.*?)\s*$", head[:end].decode("latin-1")))

    def field(name: str, default: str) -> str:
        return next((fields[one] for one in (name, *_ALSO.get(name, ())) if one in fields), default)

    def flag(name: str, default: str) -> bool:
        return field(name, default).lower() in ("true", "t", "1")

    def numbers(name: str, default: str) -> np.ndarray:
        return np.array(field(name, default).split(), dtype=np.float64)

    channels, kind = int(field("ElementNumberOfChannels", "1")), field("ElementType", "")
    if channels > 1:
        raise UnreadableImageError(f"holds {channels} values a voxel (colour, or a vector): a volume in grey is needed")
    if kind not in _TYPES:
        raise UnreadableImageError("holds values of a type that is not read here: save it as MET_FLOAT")
    if any(float(field(name, str(neutral))) != neutral for name, neutral in _SCALING.items()):
        raise UnreadableImageError("says that its values are to be scaled, which not all readers do: save them scaled")
    shape = tuple(map(int, field("DimSize", "").split()))
    count, taken = len(shape), min(len(shape), 3)
    if int(fields["NDims"]) != count or count > _MOST_DIMENSIONS:
        raise ValueError("numbers of dimensions")
    spacing, corner = numbers("ElementSpacing", "1 " * count), numbers("Offset", "0 " * count)
    turn = numbers("TransformMatrix", " ".join(map(str, np.eye(count).ravel())))
    if len(spacing) != count or len(corner) != count:
        raise ValueError("numbers of dimensions")
    # An axis is a row of the matrix. A spacing that is not above 0 is invalid.
    axes = turn.reshape(count, count)[:taken, :taken].T * np.where(spacing > 0, spacing, np.nan)[:taken]
    skipped = int(field("HeaderSize", "0"))
    return Stored(
        path=beside or path,
        offset=skipped if beside is not None or skipped < 0 else end,
        encoding="text" if not flag("BinaryData", "true") else "deflate" if flag("CompressedData", "false") else "raw",
        skip=0,
        dtype=np.dtype((">" if flag("BinaryDataByteOrderMSB", "false") else "<") + _TYPES[kind]),
        shape=shape,
        affine=affine_of(axes, corner[:taken].tolist()),
    )
