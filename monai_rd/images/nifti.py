"""NIfTI-1 and NIfTI-2 volumes in single files, compressed or not; nibabel reads the header and scales the values."""

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

# nibabel logs its repairs of a header with the header's values (not wanted in a log), and raises what it cannot repair.
_SILENT = logging.Logger("nibabel, unheard", logging.CRITICAL + 1)
_CANNOT_BE_MENDED = 40


def read_nifti(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a NIfTI volume.

    If both sform and qform are valid, the sform is used, as in nibabel; if only one is valid (the other holds zeros or
    NaN), that one is used. If both codes are 0, only the voxel sizes are known: the orientation is nibabel's default
    for that case, with left and right as in Analyze. Units are assumed to be mm.

    Args:
        path: path of the file.

    Returns:
        float32 values `[X, Y, Z]` after scaling, and the float64 affine `[4, 4]` in mm, RAS+.

    Raises:
        StudyError: not a 3D volume with one number per voxel, or a check of `images.validation` failed; the message
            does not name the file.
        Exception: from nibabel, gzip and others, if the file is damaged.
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
        stream.read(1)  # makes gzip verify its checksum at the end
    with np.errstate(over="ignore", invalid="ignore"):
        values = apply_read_scaling(np.frombuffer(content, dtype).reshape(shape, order="F"), slope, inter)
    return checked_values(values).reshape((*shape, 1)[:3], order="F"), affine


def _header(block: bytes) -> tuple[Any, NDArray[np.float64]]:
    """Return the header, repaired where nibabel can, and the unrepaired voxel sizes. Extensions are not read."""
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
        with suppress(HeaderDataError, ValueError):  # invalid rotations
            named += [header.get_qform()] if sized else []
    elif not named:
        named += [header.get_base_affine()] if sized else []
    valid = next((affine for affine in named if is_coordinate_system(affine)), np.zeros((4, 4)))
    return checked_affine(valid)
