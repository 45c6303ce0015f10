"""Pictures and volume files that the project writes itself, and what holds for every refusal of one."""

from __future__ import annotations

import io
import traceback
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from monai_rd.errors import StudyError
from monai_rd.images import read_image

PATIENT = "DOE_JANE_19500101"
AFFINE = nibabel.affines.from_matvec([[-0.7, 0.02, 0.1], [0.03, 0.8, -0.2], [0.1, 0.2, 2.5]], [10, -20, 30])


def voxels(shape: tuple[int, ...] = (5, 4, 3)) -> np.ndarray:
    return np.random.default_rng(1).integers(-1000, 1000, shape).astype(np.int16)


def picture(mode: str = "RGB") -> Image.Image:
    """Broad stripes, so that JPEG keeps them; no symmetry hides a wrong turn."""
    grey = np.zeros((24, 40), np.uint8)
    grey[:8, :16], grey[16:, 24:], grey[8:16] = 250, 120, 60
    colours = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    return Image.fromarray(grey if mode == "L" else colours)


def image_bytes(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def nifti(array: np.ndarray | None = None, kind: type = nibabel.Nifti1Image, **fields: object) -> bytes:
    """A file of those voxels, with fields of the header set as they are given, valid or not."""
    content = bytearray(kind(voxels() if array is None else array, AFFINE).to_bytes())
    header = kind.header_class(bytes(content[: kind.header_class.sizeof_hdr]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[: header.sizeof_hdr] = header.binaryblock
    return bytes(content)


def saved(content: bytes, suffix: str, folder: Path) -> Path:
    path = folder / f"{PATIENT}{suffix}"
    path.write_bytes(content)
    return path


def volume(array: np.ndarray, suffix: str, folder: Path, affine: np.ndarray = AFFINE, compress: bool = False) -> Path:
    """`[X, Y, Z]` in a file of that kind."""
    path = folder / f"{PATIENT}{suffix}"
    if ".nii" in suffix:
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
        return path
    lps = np.diag([-1, -1, 1]) @ affine[:3, :3]
    edges = np.linalg.norm(lps, axis=0)
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(edges.tolist())
    image.SetOrigin((np.diag([-1, -1, 1]) @ affine[:3, 3]).tolist())
    image.SetDirection((lps / edges).ravel().tolist())
    sitk.WriteImage(image, str(path), compress)
    return path


def refusal(path: Path, kind: type[StudyError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        read_image(path)
    assert type(caught.value) is kind
    assert str(caught.value).startswith("a ." if path.suffix else "a data file")
    assert PATIENT not in "".join(traceback.format_exception(caught.value))
