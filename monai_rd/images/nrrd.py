"""NRRD headers: `field: value` lines up to an empty line (teem.sourceforge.net/nrrd/format.html)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from monai_rd.errors import UnreadableImageError
from monai_rd.images.volumes import HEADER_BYTES, Stored, affine_of

__all__ = ["read_nrrd"]

_NAMES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_TYPES = {name: kind for kind, names in _NAMES.items() for name in names.split(", ")}
_ENCODINGS = {"raw": "raw", "gzip": "deflate", "gz": "deflate", "hex": "hex"} | dict.fromkeys(
    ("txt", "text", "ascii"), "text"
)
# Signs that convert a space to LPS+, by its name without the time axis; other spaces are left unchanged, as in ITK.
_RAS, _LAS = [-1.0, -1.0, 1.0], [1.0, -1.0, 1.0]
_SPACES = {"right-anterior-superior": _RAS, "ras": _RAS, "left-anterior-superior": _LAS, "las": _LAS}


def read_nrrd(path: Path, beside: Path | None) -> Stored:
    """Read an NRRD header.

    Args:
        path: path of the header.
        beside: path of the separate file with the voxels; None if they follow the header.

    Returns:
        Where and how the voxels are stored.

    Raises:
        UnreadableImageError: several values per voxel, or an unknown type or encoding.
        BadGeometryError: the header does not define a valid coordinate system.
        Exception: a damaged header.
    """
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    empty = re.search(rb"\r?\n\r?\n", head)
    text = (head if empty is None else head[: empty.start()]).decode("latin-1")
    fields = {name.lower(): value for name, value in re.findall(r"(?m)^([^#:\n]+):(?!=)[ \t]*(.*?)\s*$", text)}
    sizes = [int(size) for size in fields["sizes"].split()]
    if int(fields["dimension"]) != len(sizes):
        raise ValueError("numbers of dimensions")
    told = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    kinds = fields.get("kinds", "domain " * len(sizes)).lower().split()
    if len(kinds) != len(sizes) or (told and len(told) != len(sizes)):
        raise ValueError("numbers of axes")
    placed = [one != "none" for one in told] or [kind in ("domain", "space", "none", "???") for kind in kinds]
    beyond = int(np.prod([size for size, place in zip(sizes, placed, strict=True) if not place], dtype=object))
    if beyond != 1:
        raise UnreadableImageError(
            f"holds {beyond} values a voxel (colour, a vector, several volumes): one volume in grey is needed"
        )
    if told:
        vectors = [_vector(one)[:3] for one in told if one != "none"][:3]
    else:
        spacings = [float(one) for one in fields.get("spacings", "nan " * len(sizes)).split()]
        known = [1.0 if np.isnan(one) else one for one, place in zip(spacings, placed, strict=True) if place][:3]
        # A spacing that is not above 0 is invalid.
        vectors = list(np.diag([one if one > 0 else np.nan for one in known]))
    corner = _vector(fields["space origin"])[:3] if "space origin" in fields else []
    flip = np.array(_SPACES.get(fields.get("space", "").lower().removesuffix("-time").removesuffix("t"), [1.0] * 3))
    encoding, skip = (
        _ENCODINGS.get(fields["encoding"].lower(), ""),
        int(fields.get("byte skip", fields.get("byteskip", "0"))),
    )
    kind = _TYPES.get(fields["type"].lower(), "")
    if (
        not encoding
        or not kind
        or int(fields.get("line skip", fields.get("lineskip", "0")))
        or (skip and encoding in ("text", "hex"))
    ):
        raise UnreadableImageError("is of a type or an encoding that is not read here: save it raw or gzip, as float")
    axes = np.array(vectors, dtype=np.float64).T
    start = 0 if beside is not None or empty is None else empty.end()
    return Stored(
        path=beside or path,
        offset=start if skip >= 0 else -1,
        encoding=encoding,
        skip=max(skip, 0),
        dtype=np.dtype((">" if fields.get("endian", "little").lower() == "big" else "<") + kind),
        shape=tuple(size for size, place in zip(sizes, placed, strict=True) if place),
        affine=affine_of(axes * flip[: len(axes), None], (np.array(corner) * flip[: len(corner)]).tolist()),
    )


def _vector(text: str) -> list[float]:
    return [float(one) for one in text.strip(" ()").split(",")]
