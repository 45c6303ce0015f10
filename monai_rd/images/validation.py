"""What is checked of every image where it comes in: size before memory is taken, geometry, values.

The messages lack the name of the image; `read_image` and `load_series` put it before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_rd.errors import BadGeometryError, InvalidValuesError, TooLargeError, UnreadableImageError
from monai_rd.files import size_in_words
from monai_rd.memory import available_memory
from monai_rd.spacing_limits import MAX_SPACING_MM, MIN_SPACING_MM

__all__ = ["checked_affine", "checked_size", "checked_values", "is_coordinate_system", "volume_shape"]

# Voxels of a volume: a whole body of 512 x 512 x 4000 has half as many.
MOST_VOXELS = 1 << 31
# The volume that the unit vectors of the axes span: that of a gantry tilted by 30 degrees is 0.87.
FLATTEST = 1e-3
# deflate cannot do better.
_MOST_COMPRESSED = 1032


def checked_size(voxels: int, itemsize: float, stored: int, compressed: bool) -> None:
    """Check what a header announces against the file and the memory, before anything of that size is made.

    Args:
        voxels: how many are announced; of a picture, samples.
        itemsize: bytes of one in the file, at least.
        stored: bytes that the file has for them.
        compressed: whether they are deflated, or written in another way than as they are.

    Raises:
        UnreadableImageError: the file cannot hold so many.
        TooLargeError: more than are taken, or than there is memory for.
    """
    if voxels > MOST_VOXELS:
        raise TooLargeError(
            f"announces {voxels:.3g} voxels, more than the {MOST_VOXELS:.3g} that are taken; crop or resample "
            "it, or replace it if its header is wrong"
        )
    if voxels * itemsize > stored * (_MOST_COMPRESSED if compressed else 1):
        raise UnreadableImageError(
            f"is cut off: its header announces {size_in_words(voxels * itemsize)}, and there cannot be as many "
            "in the file; fetch it again"
        )
    needed, left = voxels * (itemsize + 2 * np.dtype(np.float32).itemsize), available_memory()
    if left is not None and needed > left:
        raise TooLargeError(
            f"needs {size_in_words(needed)} of memory, and {size_in_words(left)} are left; crop or resample it, "
            "or free memory"
        )


def volume_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a volume, or of one slice, without further axes of length 1.

    Raises:
        UnreadableImageError: it is of several volumes, of less than a slice, or of nothing.
    """
    found = tuple(shape)
    while len(found) > 3 and found[-1] == 1:
        found = found[:-1]
    if len(found) not in (2, 3) or min(found) < 1:
        raise UnreadableImageError(
            f"has shape {list(shape)}: a 3D volume of one channel is needed. Of several volumes (time, echoes, "
            "directions) save the one that is meant"
        )
    return found


def checked_values(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return a copy of values as float32, all of them finite.

    Raises:
        InvalidValuesError: some are not; it says how many.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        single = np.array(values, dtype=np.float32)
    wrong = single.size - int(np.count_nonzero(np.isfinite(single)))
    if wrong:
        raise InvalidValuesError(
            f"holds {wrong} values of {single.size} that are no finite numbers (NaN, infinite, or beyond 3.4e38): "
            "give them a value in the program that made it, such as that of the background, or leave it out"
        )
    return single


def is_coordinate_system(affine: NDArray[Any]) -> bool:
    """Whether a matrix `[4, 4]` in mm places voxels: finite, with edges of a possible length, axes apart."""
    if not np.isfinite(affine).all():
        return False
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if (edges < MIN_SPACING_MM).any() or (edges > MAX_SPACING_MM).any():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / edges)) >= FLATTEST)


def checked_affine(affine: NDArray[Any]) -> NDArray[np.float64]:
    """Return an affine `[4, 4]` in mm that places voxels.

    Raises:
        BadGeometryError: it does not.
    """
    if not is_coordinate_system(affine):
        raise BadGeometryError(
            "does not say where its voxels lie: what its header tells (NIfTI: sform, qform and pixdim; else "
            "directions and spacing) is zero, no number, absurd, or has axes that fall together. Convert it anew from "
            "the DICOM series, or mend its header"
        )
    return np.asarray(affine, dtype=np.float64)
