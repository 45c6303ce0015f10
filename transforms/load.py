"""Loading transforms for everything that a data list may name: DICOM series, volume files, pictures.

They return MONAI's layout: a `MetaTensor` `[C, X, Y]` (image) or `[1, X, Y, Z]` (volume) with its affine in mm, RAS+.
`meta["intensity"]` states what the values are: "HU" (CT series), "display" (0 to 255, grey or colour, as shown on a
screen), "arbitrary" (other series) or "unstated" (NIfTI, MetaImage and NRRD, which do not state it; a CT bundle assumes
HU). For DICOM, `meta` also holds `modality`, `series_uid`, `picture` and `images` (see `SeriesVolume`), and for
ultrasound `regions` (see `Region`). It holds nothing else: no file name, nothing about the patient.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor

from monai_rd.dicom import is_dicom
from monai_rd.errors import Policy
from monai_rd.files import READ_SUFFIXES
from monai_rd.images import read_image
from monai_rd.transforms.each import EachImaged

__all__ = ["LoadDicomSeriesd", "LoadImageOrSeriesd"]


class LoadDicomSeriesd(EachImaged):
    """Load one DICOM series or picture from a folder, a file or a list of files, by `load_series`.

    A volume becomes `[1, X, Y, Z]`, CT in HU; a picture becomes `[C, X, Y]`, or `[C, X, Y, frames]` with several
    frames. Axes are those of nibabel: X columns, Y rows, Z slices.

    Args:
        keys: keys of the item that hold the path or the list of paths.
        window: apply the window of the files to volumes of modalities other than CT, PT and NM (grey 0 to 255).
        policy: action for each error code; problems whose code is set to "warn" are read anyway, see `Policy`.

    Raises:
        DicomSeriesError: the series is not one regular volume; the error names it by UID and says what to do.

    Example:
        >>> from pathlib import Path
        >>> from monai_rd.phantoms import ct
        >>> from monai_rd.transforms import LoadDicomSeriesd
        >>> ct.write_study(Path("series"), ct.CLASS_NAMES[0], seed=0, number=0)  # a synthetic CT series
        >>> image = LoadDicomSeriesd("image")({"image": "series"})["image"]
        >>> image.meta["modality"], image.meta["intensity"], image.ndim
        ('CT', 'HU', 4)
    """

    def __init__(self, keys: KeysCollection, window: bool = True, policy: Mapping[str, str] | None = None) -> None:
        super().__init__(keys)
        self.window, self.policy = window, Policy(policy)

    def _transform(self, source: str | Path | Sequence[str]) -> MetaTensor:
        from monai_rd.dicom import load_series

        series = load_series(source, window=self.window, policy=self.policy)
        meta: dict[str, Any] = {"intensity": series.intensity, "modality": series.modality}
        meta |= {"series_uid": series.series_uid, "images": series.images, "picture": series.picture}
        if series.regions:
            meta["regions"] = series.regions
        array = series.array[..., 0] if series.picture and series.array.shape[-1] == 1 else series.array
        return _meta_tensor(array, series.affine, meta)


class LoadImageOrSeriesd(LoadDicomSeriesd):
    """Load a DICOM series (see `LoadDicomSeriesd`), a volume file or a picture (see `read_image`), whichever is named.

    The name contains "LoadImage" because MONAI Deploy loads images itself and removes transforms of such names.

    Args:
        keys: keys of the item that hold paths, or lists of the files of one DICOM series; or these by role.
        window: see `LoadDicomSeriesd`.
        policy: see `LoadDicomSeriesd`.

    Raises:
        UnreadableFileError: a file that cannot be opened.
        StudyError: see `read_image` and `LoadDicomSeriesd`.

    Example:
        >>> from PIL import Image
        >>> from monai_rd.transforms import LoadImageOrSeriesd
        >>> Image.new("RGB", (40, 30)).save("photo.png")
        >>> image = LoadImageOrSeriesd("image")({"image": "photo.png"})["image"]
        >>> image.shape, image.meta["intensity"]
        (torch.Size([3, 40, 30]), 'display')
    """

    def _transform(self, source: str | Path | Sequence[str]) -> MetaTensor:
        if not isinstance(source, (str, Path)):
            return super()._transform(source)
        path = Path(source)
        named = path.name.lower().endswith(READ_SUFFIXES)
        if os.path.isdir(path) or (not named and is_dicom(path)):
            return super()._transform(path)
        image = read_image(path)
        return _meta_tensor(image.values, image.affine, {"intensity": image.intensity})


def _meta_tensor(array: Any, affine: Any, meta: dict[str, Any]) -> MetaTensor:
    """Return a float32 MetaTensor with this affine and `meta`, and nothing else about its file."""
    values = torch.as_tensor(np.asarray(array), dtype=torch.float32)
    return MetaTensor(values, affine=torch.as_tensor(np.asarray(affine), dtype=torch.float64), meta=dict(meta))
