"""Checks of every image that is read: size (before memory is allocated), geometry, values.

The messages do not name the image; `read_image` and `load_series` prepend its name.
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

# Largest number of voxels of a volume: a whole body of 512 x 512 x 4000 has half as many.
MOST_VOXELS = 1 << 31
# Smallest volume spanned by the unit vectors of the axes; for a gantry tilted by 30 degrees it is 0.87.
FLATTEST = 1e-3
# Largest possible compression ratio of deflate.
_MOST_COMPRESSED = 1032


def checked_size(voxels: int, itemsize: float, stored: int, compressed: bool) -> None:
    """Check that the size stated in a header fits the file and the available memory, before memory is allocated.

    Args:
        voxels: number of voxels that the header states; for a picture, of samples.
        itemsize: bytes per voxel in the file, at least.
        stored: bytes of the file that hold the voxels.
        compressed: whether the voxels are deflated or encoded in another way than raw.

    Raises:
        UnreadableImageError: the file is too small to hold the voxels.
        TooLargeError: more voxels than the limit of 2**31, or than the available memory can hold.
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
    """Return the shape of a volume or of one slice, without trailing axes of length 1 after the third.

    Raises:
        UnreadableImageError: the shape is of several volumes, has fewer than two axes, or is empty.
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
    """Return a float32 copy of an image's values, after checking that all are finite.

    Raises:
        InvalidValuesError: some values are NaN, infinite or beyond float32; the message states how many.
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
    """Return whether an affine `[4, 4]` in mm is valid: finite, plausible voxel sizes, linearly independent axes."""
    if not np.isfinite(affine).all():
        return False
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if (edges < MIN_SPACING_MM).any() or (edges > MAX_SPACING_MM).any():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / edges)) >= FLATTEST)


def checked_affine(affine: NDArray[Any]) -> NDArray[np.float64]:
    """Return an affine `[4, 4]` in mm as float64, after checking it by `is_coordinate_system`.

    Raises:
        BadGeometryError: the affine is not valid.
    """
    if not is_coordinate_system(affine):
        raise BadGeometryError(
            "does not say where its voxels lie: what its header tells (NIfTI: sform, qform and pixdim; else "
            "directions and spacing) is zero, no number, absurd, or has axes that fall together. Convert it anew from "
            "the DICOM series, or mend its header"
        )
    return np.asarray(affine, dtype=np.float64)
