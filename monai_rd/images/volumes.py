"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr): a header of words, and voxels behind or beside it.

Elsewhere ITK reads them, and the tests hold this to its values. It gets no file of unknown origin here: `NDims = 65535`
in a header overruns the arrays of its MetaIO, and one damaged file in some thousands ends the process in its NrrdIO.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_rd.errors import UnreadableImageError
from monai_rd.images.validation import checked_affine, checked_size, checked_values, volume_shape

__all__ = ["HEADER_BYTES", "Stored", "affine_of", "read_stored"]

HEADER_BYTES = 1 << 16  # in which a header ends


@dataclass(frozen=True)
class Stored:
    """What a header says.

    Attributes:
        path: of the file with the voxels.
        offset: of their first byte there; below 0 they are the last ones of the file.
        encoding: "raw", "deflate" (zlib's or gzip's format), "text" or "hex".
        skip: bytes before them, once decoded.
        dtype: of one, with its byte order.
        shape: with the axis first along which they follow each other.
        affine: `[4, 4]` in mm, RAS+.
    """

    path: Path
    offset: int
    encoding: str
    skip: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    affine: NDArray[np.float64]


def affine_of(axes: NDArray[np.float64], corner: Sequence[float]) -> NDArray[np.float64]:
    """The affine in RAS+ of axes `[3, up to 3]`, one a column and a voxel long, and a first voxel, both in LPS+.

    What there is of them counts: one slice is a voxel of 1 mm thick, and lies at 0 in the directions not told.
    """
    affine = np.eye(4)
    affine[: len(axes), : axes.shape[1]] = axes
    affine[: len(corner), 3] = corner
    return checked_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def read_stored(stored: Stored) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read the voxels that a header tells of.

    Returns:
        Values `[X, Y, Z]`, and the affine.

    Raises:
        StudyError: no 3D volume, too few voxels, or see `border`; its message lacks the name.
        Exception: a damaged file.
    """
    shape = volume_shape(stored.shape)
    voxels, size = math.prod(shape), stored.path.stat().st_size
    length = voxels * stored.dtype.itemsize
    offset = stored.offset if stored.offset >= 0 else max(size - length, 0)
    raw = stored.encoding == "raw"
    checked_size(voxels, stored.dtype.itemsize, size - offset - (stored.skip if raw else 0), not raw)
    with open(stored.path, "rb") as file:
        file.seek(offset)
        if raw:
            file.seek(stored.skip, 1)
            content = file.read(length)
        elif stored.encoding == "deflate":
            content = _inflated(file.read(), stored.skip + length)[stored.skip :]
        elif stored.encoding == "hex":
            content = bytes.fromhex(file.read().decode("ascii"))[:length]
        else:
            content = np.array(file.read().split()[:voxels]).astype(stored.dtype).tobytes()
    if len(content) < length:
        raise UnreadableImageError(f"is cut off: it has {len(content)} bytes of {length}; fetch it again")
    values = np.frombuffer(content, stored.dtype).reshape(shape, order="F")
    return checked_values(values).reshape((*shape, 1)[:3], order="F"), stored.affine


def _inflated(content: bytes, most: int) -> bytes:
    """So many bytes of a zlib or gzip stream; its checksum is looked at where they are all."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    found = inflate.decompress(content, most)
    inflate.decompress(inflate.unconsumed_tail, 1)
    return found
