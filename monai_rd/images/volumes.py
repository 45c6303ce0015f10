"""Voxels of MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr): a text header, with voxels after it or in a separate file.

ITK is the usual reader of these formats, and the tests compare the results with ITK's. It is not used here because it
is not safe on files of unknown origin: `NDims = 65535` in a header overruns the arrays of its MetaIO, and one damaged
file in some thousands crashes the process in its NrrdIO.
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

HEADER_BYTES = 1 << 16  # longest header that is read


@dataclass(frozen=True)
class Stored:
    """Where and how the voxels of a volume are stored, as stated by its header.

    Attributes:
        path: path of the file with the voxels.
        offset: position of their first byte in the file; below 0, they are at the end of the file.
        encoding: "raw", "deflate" (zlib or gzip format), "text" or "hex".
        skip: number of decoded bytes before the first voxel.
        dtype: data type of a voxel, with its byte order.
        shape: shape of the volume, the fastest axis first.
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
    """Return the affine `[4, 4]` in mm, RAS+, from axes and origin in LPS+.

    Args:
        axes: `[2 or 3, 2 or 3]`, one axis per column, its length the voxel size in mm. A missing axis (a single slice)
            is 1 mm long.
        corner: centre of the first voxel in mm; missing coordinates are 0.

    Raises:
        BadGeometryError: the affine is not valid.
    """
    affine = np.eye(4)
    affine[: len(axes), : axes.shape[1]] = axes
    affine[: len(corner), 3] = corner
    return checked_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def read_stored(stored: Stored) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read the voxels that a header describes.

    Returns:
        float32 values `[X, Y, Z]`, and the affine `[4, 4]` in mm, RAS+.

    Raises:
        StudyError: not a 3D volume, a file cut off, or a check of `images.validation` failed; the message does not name
            the file.
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
    """Return at most `most` bytes of a zlib or gzip stream; its checksum is verified if these are all of them."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    found = inflate.decompress(content, most)
    inflate.decompress(inflate.unconsumed_tail, 1)
    return found
