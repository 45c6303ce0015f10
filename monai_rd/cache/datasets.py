"""What the transforms before the first random one make of the items: kept in memory where it fits, else on disk.

The memory may be a GPU's: then the random transforms work there. All data sets give equal items. The transforms that
are cached see an item's `image` alone, so nothing but the bytes of its files decides what they make of it; the rest of
the item (label, index) is joined afterwards. Of a `MetaTensor` values, affine, intensity and modality are kept: nothing
that could name a patient, and no record of what was applied.
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

__all__ = ["DiskCacheDataset", "SkippingCacheDataset", "cached_dataset", "is_on_device"]

logger = logging.getLogger(__name__)

_SHARE = 0.5  # of the memory that is left, for one data set of all ranks on a machine: networks and loaders need theirs
_MEASURED = 8  # items, spread over the list
_LOST = 3600.0  # s: whoever wrote a file that is not whole after that was killed


def cached_dataset(
    data: Sequence[dict[str, Any]],
    transform: Callable[[Any], Any],
    policy: Mapping[str, str] | None = None,
    *,
    cache_dir: str | Path,
    device: torch.device | str = "cpu",
) -> Dataset:
    """Cache in memory what fits into half of what is left of it, and on disk what does not.

    A few items tell how large one is. What is left is the least of what the machine and its control groups (containers,
    batch systems) have left, and is shared by the ranks on the machine. A training set comes first as a rule; its
    validation set then has half of the rest.

    Args:
        data: items with `image`.
        transform: see `CacheDataset`; a deterministic part that reads more of an item than its image finds nothing.
        policy: see `Policy`; what it skips is left out, counted and logged.
        cache_dir: for what does not fit into memory, and for hashes of files.
        device: a GPU on which the items are kept, and transformed at random, if they fit into half of what is left of
            its memory; the log says where they are.

    Returns:
        A `SkippingCacheDataset` or a `DiskCacheDataset`.

    Raises:
        ValueError: nothing is left.
        StudyError: a study that cannot be read and that the policy does not skip.
        OSError: see `DiskCacheDataset`.
    """
    measured = _measure(data, deepcopy(transform))  # a chain is described before it is used
    item_bytes = max(map(size, measured.values()), default=0)
    left, ranks = available_memory(), local_world_size()
    in_memory = left is None or item_bytes * len(data) <= left * _SHARE / ranks
    there = _room_on(torch.device(device), item_bytes * len(data)) if in_memory else torch.device("cpu")
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
    """Whether items come from a GPU: no other process can make them, and there is nothing to pin."""
    return torch.device(getattr(dataset, "device", "cpu")).type != "cpu"


def _room_on(device: torch.device, wanted: int) -> torch.device:
    """The device where it has room, else the CPU."""
    if device.type == "cpu":
        return device
    left, _ = torch.get_device_module(device).mem_get_info(device)
    if wanted <= left * _SHARE:
        return device
    logger.warning(
        "cache: %s do not fit into half of the %s that %s has left: images are augmented on the CPU",
        size_in_words(wanted),
        size_in_words(left),
        device,
    )
    return torch.device("cpu")


class SkippingCacheDataset(CacheDataset):
    """MONAI's `CacheDataset`, filled by several threads, that leaves out what the policy skips; the log counts it.

    Args:
        data: items with `image`, all of which are cached.
        transform: see `CacheDataset`.
        policy: see `Policy`; every other error is raised.
        cache_dir: for hashes of files; None remembers none.
        loaded: items whose cached part is there already, by their place in `data`.
        device: where the tensors of the cached part are kept.

    Attributes:
        transform_fingerprint: a name for what the transforms are set to, see `describe`.
        item_keys: see `item_key`, by item.

    Raises:
        ValueError: nothing is left.
        StudyError: a study that cannot be read and that the policy does not skip.
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
        # Before they run: some transforms keep what they drew last.
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
        """What the items are, by their files as they are now."""
        return item_keys([item["image"] for item in self.data], self._hashes)


class DiskCacheDataset(Dataset):
    """A data set larger than memory: what the transforms before the first random one make of an item lies on disk.

    MONAI's `PersistentDataset` finds an item by its path, reads pickles and moves its files in from another disk; here
    an item is found by the bytes of its image and by what the transforms, the libraries and the code behind them are,
    so that nothing old is ever taken for new. Files are safetensors with a checksum, renamed into their place when they
    are whole; a damaged one is written anew. Several processes may fill and read one cache. All items are loaded once
    at the start, so that what the policy skips can be left out; the log counts it.

    Args:
        data: items with `image`.
        transform: what comes before its first random transform leaves tensors only.
        policy: see `Policy`; every other error is raised.
        cache_dir: of the caches of all transforms.
        item_bytes: of a cached item, as far as known, to tell before it begins that the disk is too small.

    Attributes:
        transform_fingerprint: a name for what the transforms are set to, see `describe`.
        item_keys: see `item_key`, by item.
        folder: where the items lie.

    Raises:
        ValueError: nothing is left.
        StudyError: a study that cannot be read and that the policy does not skip.
        TypeError: what is to be cached is no tensor; a transform that does not say what it is set to.
        OSError: the disk is too small; a file changed while it was read.
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
        # Before they run: some transforms keep what they drew last.
        self.transform_fingerprint = fingerprint(transform)
        self._start = first_random(self.transform)
        self.folder = Path(cache_dir) / name_of(self.transform)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.item_keys = item_keys([item["image"] for item in data], Path(cache_dir) / HASHES_FILE)
        there = self._there()
        missing = [index for index, key in enumerate(self.item_keys) if key not in there]
        self._refuse_too_large(item_bytes * len({self.item_keys[index] for index in missing}))
        # In an order of its own, a process rarely reads what another one is reading.
        order = SystemRandom().sample(missing, len(missing))
        kept = fill(self._write_if_missing, self.transform, order, data, Policy(policy))
        if len(kept) < len(data):
            self.data: list[Any] = [data[index] for index in kept]
            self.item_keys = [self.item_keys[index] for index in kept]

    def _there(self) -> set[str]:
        """The keys of what is in the cache; what killed processes left is removed."""
        found = set()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                key, _, kind = entry.name.partition(".")
                if kind == "item":
                    found.add(key)
                    continue
                with suppress(FileNotFoundError):  # its writer has just renamed it
                    if entry.stat().st_mtime < time.time() - _LOST:
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
        if not self._path(index).exists():  # another process may have been quicker
            self._write(chain, index)

    def _write(self, chain: Compose, index: int) -> dict[str, Any]:
        made = prepared(chain, self.data[index])
        if item_key(self.data[index]["image"]) != self.item_keys[index]:
            raise OSError(f"the image with sha256 {self.item_keys[index][:12]} changed during the run: start again")
        write(made, self._path(index))
        return made


def _measure(data: Sequence[Mapping[str, Any]], transform: Callable[[Any], Any]) -> dict[int, dict[str, Any]]:
    """The cached part of a few items by their place in the list; those that cannot be read are left to the policy."""
    chain = Dataset(data, transform).transform
    found = {}
    for index in sorted({len(data) * number // _MEASURED for number in range(_MEASURED)} & set(range(len(data)))):
        try:
            found[index] = prepared(chain, data[index])
        except Exception:
            logger.debug("cache: item %d tells no size", index)
    return found
