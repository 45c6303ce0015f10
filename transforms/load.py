"""One entry for everything that a data list may name: DICOM series, NIfTI volumes, PNG and JPEG images.

What comes out is MONAI's own layout, a `MetaTensor` `[C, X, Y]` (image) or `[1, X, Y, Z]` (volume) with its affine in
mm, RAS+. `meta["intensity"]` says what the values are: "HU" (CT series), "display" (0 to 255, grey or colour, as shown
on a screen), "arbitrary" (other series) or "unstated" (NIfTI, which does not tell; a CT bundle takes it to be HU). Of
DICOM it also says `modality` and `series_uid`, of ultrasound the `regions` of the picture (`Region`), and nothing else:
no file name, no patient.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage

from monai_rd.data.dicom import is_dicom
from monai_rd.data.errors import Policy, UnreadableImageError, reading_files
from monai_rd.files import IMAGE_SUFFIXES, NIFTI_SUFFIXES, known_hash, open_file
from monai_rd.transforms.each import EachImaged

__all__ = ["LoadDicomSeriesd", "LoadImageOrSeriesd"]


class LoadDicomSeriesd(EachImaged):
    """Load one DICOM series or picture: a folder, a file, or a list of files; see `load_series`.

    A volume becomes `[1, X, Y, Z]`, CT in HU; a picture `[C, X, Y]`, one of several frames `[C, X, Y, frames]`.

    Args:
        keys: keys of the item that hold them.
        window: whether volumes of other modalities than CT, PT and NM come in the window of their files.
        policy: codes that are "warn" in it are read all the same, see `Policy`.

    Raises:
        DicomSeriesError: the series cannot stand for one volume; the error names it by UID and says what to do.
    """

    def __init__(self, keys: KeysCollection, window: bool = True, policy: Mapping[str, str] | None = None) -> None:
        super().__init__(keys)
        self.window, self.policy = window, Policy(policy)

    def _transform(self, source: str | Path | Sequence[str]) -> MetaTensor:
        from monai_rd.data.dicom import load_series  # needs pydicom 3, which MONAI Label's environment lacks

        series = load_series(source, window=self.window, policy=self.policy)
        meta: dict[str, Any] = {"intensity": series.intensity, "modality": series.modality}
        meta["series_uid"] = series.series_uid
        if series.regions:
            meta["regions"] = series.regions
        array = series.array[..., 0] if series.picture and series.array.shape[-1] == 1 else series.array
        return _meta_tensor(array, series.affine, meta)


class LoadImageOrSeriesd(LoadDicomSeriesd):
    """Load whatever the item names: a DICOM series, a NIfTI volume, a PNG, JPEG, BMP or TIFF image.

    MONAI Deploy brings its own images and removes transforms with "LoadImage" in their name: hence this one's.

    Args:
        keys: keys of the item that hold paths, or lists of the files of one DICOM series.
        window: see `LoadDicomSeriesd`.
        policy: see `LoadDicomSeriesd`.

    Raises:
        UnreadableFileError: a file that the system does not give.
        UnreadableImageError: a format that is none of these, a damaged file, an image that is not 8-bit.
        DicomSeriesError: see `LoadDicomSeriesd`.
    """

    def __init__(self, keys: KeysCollection, window: bool = True, policy: Mapping[str, str] | None = None) -> None:
        super().__init__(keys, window, policy)
        # Readers are pinned: MONAI's choice depends on what is installed.
        with _quiet_about_gpu_decoders():
            self._nifti = LoadImage(reader="NibabelReader", ensure_channel_first=True, dtype=np.float32)
            self._image = LoadImage(reader="PILReader", ensure_channel_first=True, dtype=None)

    def _transform(self, source: str | Path | Sequence[str]) -> MetaTensor:
        if not isinstance(source, (str, Path)):
            return super()._transform(source)
        path = Path(source)
        name = path.name.lower()
        if path.is_dir():
            return super()._transform(path)
        with reading_files():
            open_file(path).close()
        if name.endswith(NIFTI_SUFFIXES):
            volume = _read(self._nifti, path)
            if volume.ndim != 4 or volume.shape[0] != 1:
                raise UnreadableImageError(
                    f"{_anonymous(path)} has shape {list(volume.shape)}: a 3D volume of one channel is needed"
                )
            return _meta_tensor(volume, volume.affine, {"intensity": "unstated"})
        if name.endswith(IMAGE_SUFFIXES):
            image = _read(self._image, path)
            if image.dtype != torch.uint8:
                raise UnreadableImageError(
                    f"{_anonymous(path)} holds {image.dtype} values; images must be 8-bit (0 to 255)"
                )
            return _meta_tensor(image, image.affine, {"intensity": "display"})
        if is_dicom(path):
            return super()._transform(path)
        raise UnreadableImageError(
            f"{_anonymous(path)} is no image this project reads: DICOM, NIfTI ({', '.join(NIFTI_SUFFIXES)}) or "
            f"an 8-bit image ({', '.join(IMAGE_SUFFIXES)})"
        )


def _read(reader: LoadImage, path: Path) -> MetaTensor:
    try:
        return reader(path)
    except Exception:  # a damaged file can fail in its reader in any way; the message may name the file
        raise UnreadableImageError(
            f"{_anonymous(path)} is damaged or not what its name says; replace it, or take it out of the data"
        ) from None


@contextmanager
def _quiet_about_gpu_decoders() -> Iterator[None]:
    """MONAI's LoadImage builds every reader it knows and warns about an NVIDIA decoder not used here."""
    logger = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*nvImageCodec.*")
            yield
    finally:
        logger.setLevel(level)


def _meta_tensor(array: Any, affine: Any, meta: dict[str, Any]) -> MetaTensor:
    """A float32 MetaTensor that carries `meta` and its affine and nothing of the file it came from."""
    values = torch.as_tensor(np.asarray(array), dtype=torch.float32)
    return MetaTensor(values, affine=torch.as_tensor(np.asarray(affine), dtype=torch.float64), meta=dict(meta))


def _anonymous(path: Path) -> str:
    """Name a file without its path or name, which may hold a patient's."""
    kind = next((end for end in (*NIFTI_SUFFIXES, *IMAGE_SUFFIXES) if path.name.lower().endswith(end)), "data")
    digest = known_hash(path)
    return f"a {kind} file" + (f" (sha256 {digest}...)" if digest else "")
