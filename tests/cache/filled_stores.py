"""A teacher that counts, the data set that it is shown, and the store that is filled with its features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset
from monai.transforms import Compose, RandFlipd, RandScaleIntensityd, Resized, ScaleIntensityRanged
from torch import Tensor

from monai_rd.cache import FeatureExtractor, SkippingCacheDataset
from monai_rd.networks import FrozenFoundationModel, Reads
from monai_rd.transforms import ChannelsToBagd, LoadImageOrSeriesd, SliceStackd
from tests.methods.steps import tiny_teacher

ITEMS, VIEWS = 5, 3
TAP = Reads(tap=True)


class Counting:
    """A teacher that counts the images that it is shown."""

    def __init__(self, teacher: FrozenFoundationModel | None = None, kill_after: int | None = None) -> None:
        self.teacher, self.kill_after, self.seen = teacher or tiny_teacher(), kill_after, 0
        self.name = self.teacher.name

    def fingerprint(self) -> str:
        return self.teacher.fingerprint()

    def for_store(self, reads: Reads) -> tuple[Counting, Reads, Reads, None]:
        return self, reads, self.teacher.for_store(reads).writes, None

    def offload(self, folder: Path) -> None:
        self.teacher.offload(folder)

    def rows(self, image: Tensor, reads: Any, indices: Tensor | None = None) -> dict[str, Tensor]:
        self.seen += len(image)
        if self.kill_after is not None and self.seen > self.kill_after:
            raise KeyboardInterrupt
        return self.teacher.rows(image, reads, indices)


def transforms(flip: float = 0.5, more: Sequence[Any] = ()) -> Compose:
    return Compose(
        [
            LoadImageOrSeriesd("image"),
            SliceStackd("image", slices=1, colour=True),
            Resized("image", spatial_size=[32, 32], mode="bilinear"),
            ScaleIntensityRanged("image", 0, 255, 0, 1),
            RandScaleIntensityd("image", factors=0.5, prob=1.0),
            RandFlipd("image", prob=flip, spatial_axis=1),
            *more,
            ChannelsToBagd("image", windows=3),
        ]
    )


def dataset(paths: Sequence[Path], transform: Compose | None = None) -> Dataset:
    items = [{"image": str(path), "label": n % 2, "index": n} for n, path in enumerate(paths)]
    return SkippingCacheDataset(items, transform or transforms())


def extraction(
    paths: Sequence[Path], store: Path, teacher: Any = None, reads: Reads = TAP, transform: Any = None, **changed: Any
) -> FeatureExtractor:
    settings: dict[str, Any] = {"views": VIEWS, "seed": 0, "batch_size": 4} | changed
    views = settings.pop("views")
    return FeatureExtractor(dataset(paths, transform), teacher or Counting(), reads, views, directory=store, **settings)


def filled(paths: Sequence[Path], store: Path, **changed: Any) -> int:
    """Fill, and say how many views the teacher was shown (beside the one that tells the size)."""
    teacher = changed.pop("teacher", Counting())
    made = extraction(paths, store, teacher, **changed)
    made.fill()
    assert made._missing(range(len(paths))) == []
    return max(teacher.seen - 1, 0)
