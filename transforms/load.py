"""One entry for everything that a data list may name: DICOM series, volume files, pictures.

What comes out is MONAI's own layout, a `MetaTensor` `[C, X, Y]` (image) or `[1, X, Y, Z]` (volume) with its affine in
mm, RAS+. `meta["intensity"]` says what the values are: "HU" (CT series), "display" (0 to 255, grey or colour, as shown
on a screen), "arbitrary" (other series) or "unstated" (NIfTI, MetaImage and NRRD, which do not tell; a CT bundle takes
it to be HU). Of DICOM it also says `modality` and `series_uid`, of ultrasound the `regions` of the picture (`Region`),
and nothing else: no file name, no patient.
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
        from monai_rd.dicom import load_series

        series = load_series(source, window=self.window, policy=self.policy)
        meta: dict[str, Any] = {"intensity": series.intensity, "modality": series.modality}
        meta["series_uid"] = series.series_uid
        if series.regions:
            meta["regions"] = series.regions
        array = series.array[..., 0] if series.picture and series.array.shape[-1] == 1 else series.array
        return _meta_tensor(array, series.affine, meta)


class LoadImageOrSeriesd(LoadDicomSeriesd):
    """Load whatever the item names: a DICOM series, a volume file or a picture, see `read_image`.

    MONAI Deploy brings its own images and removes transforms with "LoadImage" in their name: hence this one's.

    Args:
        keys: keys of the item that hold paths, or lists of the files of one DICOM series.
        window: see `LoadDicomSeriesd`.
        policy: see `LoadDicomSeriesd`.

    Raises:
        UnreadableFileError: a file that the system does not give.
        StudyError: see `read_image` and `LoadDicomSeriesd`.
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
    """A float32 MetaTensor that carries `meta` and its affine and nothing of the file it came from."""
    values = torch.as_tensor(np.asarray(array), dtype=torch.float32)
    return MetaTensor(values, affine=torch.as_tensor(np.asarray(affine), dtype=torch.float64), meta=dict(meta))
