"""Entry point for image files: returns values and affine, or raises an error that says what is wrong with the file."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from monai_rd.errors import StudyError, TooLargeError, UnreadableFileError, UnreadableImageError, reading_files
from monai_rd.files import anonymous, data_file
from monai_rd.images.kinds import METAIMAGE, NIFTI, PICTURES, kind_of

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["Image", "read_image", "read_picture"]


@dataclass(frozen=True, eq=False)
class Image:
    """Values and affine of an image file, as returned by `read_image`.

    Attributes:
        values: float32, all finite: a volume `[1, X, Y, Z]`, a picture `[1, X, Y]` (grey) or `[3, X, Y]` (RGB).
        affine: float64 `[4, 4]` from voxel indices to mm, RAS+; the identity for a picture, which has no position.
        intensity: "display" (a picture: 0 to 255, as shown on a screen) or "unstated" (a volume, whose file does not
            state its unit).

    Example:
        >>> import nibabel
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from monai_rd.images import read_image
        >>> volume = np.zeros((8, 6, 4), dtype=np.float32)
        >>> nibabel.save(nibabel.Nifti1Image(volume, np.diag([0.5, 0.5, 2.0, 1.0])), "volume.nii.gz")
        >>> image = read_image(Path("volume.nii.gz"))
        >>> image.values.shape, image.affine.diagonal().tolist(), image.intensity
        ((1, 8, 6, 4), [0.5, 0.5, 2.0, 1.0], 'unstated')
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    intensity: str


def read_image(path: Path) -> Image:
    """Read a NIfTI, MetaImage or NRRD volume or a PNG, JPEG, BMP or TIFF picture.

    Args:
        path: path of the file; its suffix must agree with its content, see `kind_of`.

    Raises:
        UnreadableFileError: the file cannot be opened.
        UnreadableImageError: the file is damaged, has another content than its suffix says, or is not supported.
        TooLargeError: the image is larger than the limits or the available memory.
        InvalidValuesError: some values are not finite.
        BadGeometryError: the header does not define a valid coordinate system.
    """
    with _named(path):
        return _read(path)


def read_picture(path: Path) -> Picture:
    """Read a PNG, JPEG, BMP or TIFF picture as a Pillow image (grey or RGB), see `shown_picture`.

    Args:
        path: path of the file.

    Raises:
        UnreadableFileError: the file cannot be opened.
        UnreadableImageError: see `read_image`; or the file is not a picture.
        TooLargeError: see `read_image`.
    """
    from monai_rd.images.pictures import shown_picture

    with _named(path):
        kind = kind_of(path)
        if kind not in PICTURES:
            raise UnreadableImageError(f"is {kind}: a picture is needed")
        return shown_picture(path, kind)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn every error into a `StudyError` that identifies the file by its hash instead of its name."""
    try:
        with reading_files():
            try:
                yield
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise EOFError from None  # a damaged file made its reader seek to an impossible position
    except UnreadableFileError:
        raise
    except StudyError as error:
        raise type(error)(f"{anonymous(path)} {error}") from None
    except MemoryError:
        raise TooLargeError(f"{anonymous(path)} needs more memory than is left; crop or resample it") from None
    except Exception:  # a damaged file can fail in its reader in any way; the message may name the file
        raise UnreadableImageError(
            f"{anonymous(path)} is damaged or cut off; fetch it again, or take it out of the data"
        ) from None


def _read(path: Path) -> Image:
    kind = kind_of(path)
    if kind in PICTURES:
        from monai_rd.images.pictures import picture_values

        return Image(picture_values(path, kind), np.eye(4), "display")
    if kind == NIFTI:
        from monai_rd.images.nifti import read_nifti

        values, affine = read_nifti(path)
    else:
        from monai_rd.images.metaimage import read_metaimage
        from monai_rd.images.nrrd import read_nrrd
        from monai_rd.images.volumes import read_stored

        try:
            beside = data_file(path)
        except ValueError as error:
            raise UnreadableImageError(f"is not read: {error}; put it there, or save both as one file") from None
        values, affine = read_stored((read_metaimage if kind == METAIMAGE else read_nrrd)(path, beside))
    return Image(values[None], affine, "unstated")
