"""Caching the result of the transforms before the first random one: in memory if it fits, else on disk.

The memory may be a GPU's; then the random transforms run there. All data sets give equal items. The cached transforms
see only an item's `image`, so their result depends only on the bytes of its files; the rest of the item (label, index)
is added afterwards. Of a `MetaTensor`, only values, affine, intensity and modality are kept: nothing that could
identify a patient, and no list of applied operations.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from random import SystemRandom
from typing import Any

import torch
from monai.data import CacheDataset, Dataset
from monai.transforms import Compose

from monai_rd.cache.file_hashes import HASHES_FILE, item_keys
from monai_rd.cache.fingerprints import fingerprint, item_key
from monai_rd.cache.items import fill, first_random, joined, moved, name_of, prepared, read, size, write
from monai_rd.errors import Policy
from monai_rd.files import free_space, size_in_words
from monai_rd.memory import available_memory
from monai_rd.processes import local_world_size, rank

__all__ = ["DiskCacheDataset", "SkippingCacheDataset", "cached_dataset", "is_on_device", "loading_settings"]

logger = logging.getLogger(__name__)

_MEMORY_SHARE = 0.5  # of the free memory, for one data set of all ranks on a machine; the rest is for other needs
_MEASURED = 8  # items, spread over the list, whose size is measured
_ABANDONED_AFTER = 3600.0  # s: an unfinished file older than this belongs to a killed process


def cached_dataset(
    data: Sequence[dict[str, Any]],
    transform: Callable[[Any], Any],
    policy: Mapping[str, str] | None = None,
    *,
    cache_dir: str | Path,
    device: torch.device | str = "cpu",
) -> Dataset:
    """Cache a data set in memory if it fits into half of the free memory, else on disk.

    The size is estimated from a few items. The free memory is the minimum over the machine and its control groups
    (containers, batch systems), divided by the number of ranks on the machine. The training set is usually cached
    first; the validation set may then use half of the remaining memory.

    Args:
        data: items with `image`.
        transform: as for MONAI's `CacheDataset`, but the deterministic part sees only the item's `image`.
        policy: see `Policy`; skipped studies are left out, counted and logged.
        cache_dir: folder of the cache on disk and of the file hashes.
        device: a GPU on which the items are kept and randomly transformed, if they fit into half of its free memory;
            the log says where they are.

    Returns:
        A `SkippingCacheDataset` or a `DiskCacheDataset`.

    Raises:
        ValueError: no item is left.
        StudyError: a study cannot be read, and the policy does not skip it.
        OSError: see `DiskCacheDataset`.
    """
    measured = _measure(data, deepcopy(transform))  # a copy, because transforms are fingerprinted before their use
    item_bytes = max(map(size, measured.values()), default=0)
    left, ranks = available_memory(), local_world_size()
    in_memory = left is None or item_bytes * len(data) <= left * _MEMORY_SHARE / ranks
    there = _device_with_room(torch.device(device), item_bytes * len(data)) if in_memory else torch.device("cpu")
    if rank() == 0:
        logger.info(
            "cache: %s; %d items of %s are %s, and %d process(es) may take half of %s of memory",
            "on disk" if not in_memory else "in memory" if there.type == "cpu" else f"in the memory of {there}",
            len(data),
            size_in_words(item_bytes),
            size_in_words(item_bytes * len(data)),
            ranks,
            "an unknown amount" if left is None else size_in_words(left),
        )
    if in_memory:
        return SkippingCacheDataset(data, transform, policy, cache_dir=cache_dir, loaded=measured, device=there)
    return DiskCacheDataset(data, transform, policy, cache_dir=cache_dir, item_bytes=item_bytes)


def is_on_device(dataset: Dataset) -> bool:
    """Whether a data set's items are on a GPU; then they need neither worker processes nor pinned memory."""
    return torch.device(getattr(dataset, "device", "cpu")).type != "cpu"


def loading_settings(dataset: Dataset, num_workers: int, device: torch.device | str) -> dict[str, Any]:
    """Return `num_workers` and `pin_memory` for a `DataLoader` of a data set.

    Args:
        dataset: the items.
        num_workers: number of worker processes for items on the CPU.
        device: where the batches are used.
    """
    there = is_on_device(dataset)
    cuda = torch.device(device).type == "cuda"
    return {"num_workers": 0 if there else num_workers, "pin_memory": cuda and not there}


def _device_with_room(device: torch.device, wanted: int) -> torch.device:
    """Return the device if `wanted` bytes fit into half of its free memory, else the CPU."""
    if device.type == "cpu":
        return device
    left, _ = torch.get_device_module(device).mem_get_info(device)
    if wanted <= left * _MEMORY_SHARE:
        return device
    logger.warning(
        "cache: %s do not fit into half of the %s that %s has left: images are augmented on the CPU",
        size_in_words(wanted),
        size_in_words(left),
        device,
    )
    return torch.device("cpu")


class SkippingCacheDataset(CacheDataset):
    """MONAI's `CacheDataset` in memory, without the studies that the policy skips; they are counted in the log.

    Args:
        data: items with `image`; all are cached.
        transform: as for MONAI's `CacheDataset`, but the deterministic part sees only the item's `image`.
        policy: which problems to skip, see `Policy`; all other errors are raised.
        cache_dir: folder of the file hashes; None does not store them.
        loaded: cached parts that are already computed, by the item's index in `data`.
        device: where the tensors of the cached part are kept.

    Attributes:
        transform_fingerprint: hash of the transforms and their settings, see `describe`.
        item_keys: hash of the content of each item, see `item_key`.

    Raises:
        ValueError: no item is left.
        StudyError: a study cannot be read, and the policy does not skip it.

    Example:
        The second file is damaged.

        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from monai_rd.cache import SkippingCacheDataset
        >>> from monai_rd.transforms import LoadImageOrSeriesd
        >>> Image.new("L", (32, 32)).save("a.png")
        >>> Path("b.png").touch()
        >>> items = [{"image": "a.png", "label": 0}, {"image": "b.png", "label": 1}]
        >>> dataset = SkippingCacheDataset(items, LoadImageOrSeriesd("image"), {"default": "skip"})
        >>> len(dataset), dataset[0]["label"]
        (1, 0)
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[Any], Any],
        policy: Mapping[str, str] | None = None,
        *,
        cache_dir: str | Path | None = None,
        loaded: Mapping[int, dict[str, Any]] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        # Before the transforms run: some keep the numbers that they drew last.
        self.transform_fingerprint = fingerprint(transform)
        self._hashes = Path(cache_dir) / HASHES_FILE if cache_dir is not None else None
        super().__init__(data, transform, cache_num=0)
        self.device = torch.device(device)
        found = dict(loaded or {})

        def load(chain: Compose, index: int) -> None:
            if index not in found:
                found[index] = prepared(chain, data[index])
            found[index] = moved(found[index], self.device)

        kept = fill(load, self.transform, range(len(data)), data, Policy(policy))
        self.data: list[Any] = [data[index] for index in kept]
        self._cache: list[Any] = [joined(data[index], found[index]) for index in kept]
        self.cache_num = len(kept)

    @cached_property
    def item_keys(self) -> list[str]:
        """Hash of the present content of each item's files, see `item_key`."""
        return item_keys([item["image"] for item in self.data], self._hashes)


class DiskCacheDataset(Dataset):
    """A data set cached on disk, for data larger than memory: the result of the transforms before the first random one.

    MONAI's `PersistentDataset` finds an item by its path, reads pickles and moves its files in from another disk; here
    an item is found by the bytes of its image and by a hash of the transforms, the libraries and their code, so that
    an outdated result is never used. Files are safetensors with a checksum, written atomically; damaged ones are
    written again. Several processes may fill and read one cache. All items are loaded once at the start, so that
    studies which the policy skips can be left out; the log counts them.

    Args:
        data: items with `image`.
        transform: the part before its first random transform must give tensors only, and sees only the item's `image`.
        policy: which problems to skip, see `Policy`; all other errors are raised.
        cache_dir: parent folder of the caches of all transforms.
        item_bytes: expected size of a cached item in bytes, to find out at the start whether the disk is too small; 0
            if not known.

    Attributes:
        transform_fingerprint: hash of the transforms and their settings, see `describe`.
        item_keys: hash of the content of each item, see `item_key`.
        folder: folder of the cached items.

    Raises:
        ValueError: no item is left.
        StudyError: a study cannot be read, and the policy does not skip it.
        TypeError: a result to be cached is not a tensor, or the settings of a transform cannot be determined.
        OSError: the disk is too small, or a file changed while it was read.

    Example:
        Two items with the same image are one file in the cache.

        >>> from PIL import Image
        >>> from monai_rd.cache import DiskCacheDataset
        >>> from monai_rd.transforms import LoadImageOrSeriesd
        >>> Image.new("L", (32, 32)).save("a.png")
        >>> items = [{"image": "a.png", "label": 0}, {"image": "a.png", "label": 1}]
        >>> dataset = DiskCacheDataset(items, LoadImageOrSeriesd("image"), cache_dir="cache")
        >>> dataset[1]["label"], len(list(dataset.folder.glob("*.item")))
        (1, 1)
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[Any], Any],
        policy: Mapping[str, str] | None = None,
        *,
        cache_dir: str | Path,
        item_bytes: int = 0,
    ) -> None:
        super().__init__(data, transform)
        # Before the transforms run: some keep the numbers that they drew last.
        self.transform_fingerprint = fingerprint(transform)
        self._start = first_random(self.transform)
        self.folder = Path(cache_dir) / name_of(self.transform)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.item_keys = item_keys([item["image"] for item in data], Path(cache_dir) / HASHES_FILE)
        there = self._cached_keys()
        missing = [index for index, key in enumerate(self.item_keys) if key not in there]
        self._refuse_too_large(item_bytes * len({self.item_keys[index] for index in missing}))
        # In random order, so that several processes rarely read the same item at the same time.
        order = SystemRandom().sample(missing, len(missing))
        kept = fill(self._write_if_missing, self.transform, order, data, Policy(policy))
        if len(kept) < len(data):
            self.data: list[Any] = [data[index] for index in kept]
            self.item_keys = [self.item_keys[index] for index in kept]

    def _cached_keys(self) -> set[str]:
        """Return the keys of the items in the cache; remove unfinished files of killed processes."""
        found = set()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                key, _, kind = entry.name.partition(".")
                if kind == "item":
                    found.add(key)
                    continue
                with suppress(FileNotFoundError):  # it has just been renamed
                    if entry.stat().st_mtime < time.time() - _ABANDONED_AFTER:
                        os.unlink(entry.path)
        return found

    def _refuse_too_large(self, wanted: int) -> None:
        free = free_space(self.folder)
        if wanted > free:
            raise OSError(
                f"the training data need {size_in_words(wanted)} more of the disk of cache_dir, which has "
                f"{size_in_words(free)} free: give another --cache_dir, or run where there is more memory"
            )

    def _transform(self, index: int) -> Any:
        made = read(self._path(index)) or self._write(self.transform, index)
        item = joined(self.data[index], made)
        return item if self._start is None else self.transform(item, start=self._start)

    def _path(self, index: int) -> Path:
        return self.folder / f"{self.item_keys[index]}.item"

    def _write_if_missing(self, chain: Compose, index: int) -> None:
        if not self._path(index).exists():  # another process may have written it meanwhile
            self._write(chain, index)

    def _write(self, chain: Compose, index: int) -> dict[str, Any]:
        made = prepared(chain, self.data[index])
        if item_key(self.data[index]["image"]) != self.item_keys[index]:
            raise OSError(f"the image with sha256 {self.item_keys[index][:12]} changed during the run: start again")
        write(made, self._path(index))
        return made


def _measure(data: Sequence[Mapping[str, Any]], transform: Callable[[Any], Any]) -> dict[int, dict[str, Any]]:
    """Compute the cached part of a few items, by index; items that cannot be read are left out here."""
    chain = Dataset(data, transform).transform
    found = {}
    for index in sorted({len(data) * number // _MEASURED for number in range(_MEASURED)} & set(range(len(data)))):
        try:
            found[index] = prepared(chain, data[index])
        except Exception:
            logger.debug("cache: item %d tells no size", index)
    return found
