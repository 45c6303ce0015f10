"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr), by the one reader of ITK for each."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from monai_rd.data.errors import UnreadableImageError
from monai_rd.data.images.border import checked_affine, checked_size, checked_values
from monai_rd.data.images.kinds import METAIMAGE, NRRD
from monai_rd.files import data_file

__all__ = ["read_volume"]

_READERS = {METAIMAGE: "MetaImageIO", NRRD: "NrrdImageIO"}
_HEADER_BYTES = 1 << 16
_ENCODED = re.compile(
    rb"(?im)^[ \t]*(?:CompressedData[ \t]*[=:][ \t]*true|BinaryData[ \t]*[=:][ \t]*false|encoding:[ \t]*(?!raw))"
)


def read_volume(path: Path, kind: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a volume.

    Args:
        path: of the file, or of the header of a file beside it; one elsewhere, and lists of files, are refused.
        kind: METAIMAGE or NRRD, see `kind_of`.

    Returns:
        Values `[X, Y, Z]`, and the affine `[4, 4]` in mm, RAS+ (ITK's are LPS+).

    Raises:
        StudyError: no 3D volume of one number a voxel, or see `border`; its message lacks the name.
        RuntimeError: ITK cannot read it; the message names the file.
    """
    try:
        beside = data_file(path)
    except ValueError as error:
        raise UnreadableImageError(f"is not read: {error}; put it there, or save both as one file") from None
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[kind])
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = list(reader.GetSize())
    if reader.GetNumberOfComponents() > 1:
        count = reader.GetNumberOfComponents()
        raise UnreadableImageError(f"holds {count} values a voxel (colour, or a vector): a volume in grey is needed")
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    if len(size) not in (2, 3) or min(size) < 1:
        raise UnreadableImageError(
            f"has shape {size}: a 3D volume of one channel is needed. Of several volumes (time, echoes, directions) "
            "save the one that is meant"
        )
    affine = _affine(reader)
    itemsize = sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    with open(path, "rb") as file:
        encoded = _ENCODED.search(file.read(_HEADER_BYTES)) is not None
    checked_size(math.prod(size), itemsize, (beside or path).stat().st_size, encoded)
    image = reader.Execute()
    return checked_values(sitk.GetArrayViewFromImage(image).T).reshape((*size, 1)[:3], order="F"), affine


def _affine(reader: sitk.ImageFileReader) -> NDArray[np.float64]:
    count = reader.GetDimension()
    spacing, axes = np.ones(3), np.eye(3)
    corner, taken = np.zeros(3), min(count, 3)
    spacing[:taken], corner[:taken] = reader.GetSpacing()[:taken], reader.GetOrigin()[:taken]
    axes[:taken, :taken] = np.reshape(reader.GetDirection(), (count, count))[:taken, :taken]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * np.where(spacing > 0, spacing, np.nan), corner  # a mirror is no distance
    return checked_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
