"""NIfTI-1 and NIfTI-2 in one file, compressed or not: nibabel reads the header, and scales the values."""

from __future__ import annotations

import gzip
import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from monai_rd.errors import UnreadableImageError
from monai_rd.images.validation import checked_affine, checked_size, checked_values, is_coordinate_system, volume_shape

__all__ = ["read_nifti"]

# nibabel logs what it mends of a header, with its values, and raises what it cannot mend.
_SILENT = logging.Logger("nibabel, unheard", logging.CRITICAL + 1)
_CANNOT_BE_MENDED = 40


def read_nifti(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a volume.

    Where a header has two valid coordinate systems the sform counts, as in nibabel; one that is none (zeros, NaN) is
    passed over for the other. A header that names neither (both codes 0) has its voxels' sizes alone, and nibabel's
    orientation for it, left and right as in Analyze. Units are taken to be mm.

    Args:
        path: of the file.

    Returns:
        Values `[X, Y, Z]` after scaling, and the affine `[4, 4]` in mm, RAS+.

    Raises:
        StudyError: no 3D volume of one number a voxel, or see `border`; its message lacks the name.
        Exception: of nibabel, gzip and others, where the file is damaged.
    """
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        stored = file.seek(0, 2)
        file.seek(0)
        stream: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file
        header, pixdim = _header(stream.read(Nifti2Header.sizeof_hdr))
        dtype, shape = _kind(header), volume_shape(header.get_data_shape())
        affine = _affine(header, pixdim[: len(shape)])
        slope, inter = header.get_slope_inter()
        offset = header.get_data_offset() or header.single_vox_offset
        voxels = math.prod(shape)
        checked_size(voxels, dtype.itemsize, stored if compressed else stored - offset, compressed)
        stream.seek(offset)
        content = stream.read(voxels * dtype.itemsize)
        if len(content) < voxels * dtype.itemsize:
            raise EOFError
        stream.read(1)  # at the end gzip looks at its checksum
    with np.errstate(over="ignore", invalid="ignore"):
        values = apply_read_scaling(np.frombuffer(content, dtype).reshape(shape, order="F"), slope, inter)
    return checked_values(values).reshape((*shape, 1)[:3], order="F"), affine


def _header(block: bytes) -> tuple[Any, NDArray[np.float64]]:
    """The header, mended where nibabel can, and the sizes of voxels as they stand in it. Extensions are not read."""
    kind = Nifti2Header if block[4:8] == b"n+2\0" else Nifti1Header
    header = kind(block[: kind.sizeof_hdr], check=False)
    pixdim = header["pixdim"][1:4].astype(np.float64)
    header.check_fix(logger=_SILENT, error_level=_CANNOT_BE_MENDED)
    return header, pixdim


def _kind(header: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = header.get_data_dtype()
    if dtype.names:
        raise UnreadableImageError(f"is in colour ({'RGBA'[: len(dtype.names)]}): a volume in grey is needed")
    if dtype.kind == "c":
        raise UnreadableImageError("holds complex values: save their magnitude")
    if dtype.kind not in "iuf":
        raise UnreadableImageError("holds values of a type that is not read here: save it as float32")
    return dtype


def _affine(header: Any, pixdim: NDArray[np.float64]) -> NDArray[np.float64]:
    sized = bool(np.isfinite(pixdim).all() and pixdim.all())
    named = []
    if header["sform_code"] > 0:
        named.append(header.get_sform())
    if header["qform_code"] > 0:
        with suppress(HeaderDataError, ValueError):  # rotations that are none
            named += [header.get_qform()] if sized else []
    elif not named:
        named += [header.get_base_affine()] if sized else []
    valid = next((affine for affine in named if is_coordinate_system(affine)), np.zeros((4, 4)))
    return checked_affine(valid)
