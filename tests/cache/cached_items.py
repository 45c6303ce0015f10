"""Data sets of pictures by a transform that tells what was loaded and how much of it is alive."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose, RandFlipd, Resized
from PIL import Image

from monai_rd.cache import DiskCacheDataset
from monai_rd.transforms import LoadImageOrSeriesd, SliceStackd

ITEMS = 6
LOADED: list[str] = []
ALIVE: weakref.WeakSet[Any] = weakref.WeakSet()
PEAK: list[int] = []


class Load(LoadImageOrSeriesd):
    """Tells what was loaded, and how much of it is alive."""

    def _transform(self, source: Any) -> MetaTensor:
        LOADED.append(Path(source).name)
        made = super()._transform(source)
        ALIVE.add(made)
        PEAK.append(len(ALIVE))
        return made


def chain(size: int = 16, flip: float = 0.5, first: Sequence[Any] = (), last: Sequence[Any] = ()) -> Compose:
    return Compose(
        [
            Load("image"),
            SliceStackd("image", slices=1, colour=True),
            *first,
            Resized("image", spatial_size=[size, size], mode="bilinear"),
            RandFlipd("image", prob=flip, spatial_axis=1),
            *last,
        ]
    )


def pictures(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{n}.png" for n in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return paths


def items(paths: Sequence[Path]) -> list[dict[str, Any]]:
    return [{"image": str(path), "label": n % 2, "index": n, "id": f"1.2.{n}"} for n, path in enumerate(paths)]


def on_disk(paths: Sequence[Path], cache: Path, transform: Any = None, policy: Any = None) -> DiskCacheDataset:
    return DiskCacheDataset(items(paths), transform or chain(), policy, cache_dir=cache)


def loads(paths: Sequence[Path], cache: Path, transform: Any = None) -> int:
    """How many images a new data set, read once, loads."""
    LOADED.clear()
    assert len([item["image"].sum() for item in on_disk(paths, cache, transform)]) == len(paths)
    return len(LOADED)


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.item"))
