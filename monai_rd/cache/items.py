"""The cached part of an item (the result of the transforms before the first random one), in memory and as a file."""

from __future__ import annotations

import json
import logging
import sys
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from importlib.metadata import version
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandomizableTrait, Transform
from safetensors.torch import load, save
from tqdm.auto import tqdm

from monai_rd.cache.fingerprints import describe, fingerprint
from monai_rd.cache.tolerant import reason_to_skip
from monai_rd.errors import Policy, count_codes
from monai_rd.files import atomic_path
from monai_rd.processes import own_cores, rank

__all__ = ["fill", "first_random", "joined", "moved", "name_of", "prepared", "read", "size", "write"]

logger = logging.getLogger(__name__)

_META = ("intensity", "modality")
_READERS = ("imagecodecs", "monai", "nibabel", "numpy", "pillow", "pydicom", "simpleitk", "torch")
_FORMAT = 1
_THREADS = 4  # more threads only wait for each other


def first_random(transform: Compose) -> int | None:
    """Return the index of the first transform that is not cached, as in MONAI's data sets; None if all are cached."""
    place: int | None = transform.get_index_of_first(
        lambda one: isinstance(one, RandomizableTrait) or not isinstance(one, Transform)
    )
    return place


def name_of(transform: Compose) -> str:
    """Return a hash of everything that the cached part depends on except the item's bytes."""
    decided_by = {
        "format": _FORMAT,
        "transforms": describe(list(transform.transforms[: first_random(transform)])),
        "settings": describe([transform.map_items, transform.unpack_items, transform.lazy, transform.overrides]),
        "libraries": [version(name) for name in _READERS],
    }
    return fingerprint(decided_by)[:16]


def prepared(transform: Compose, item: Mapping[str, Any]) -> dict[str, Any]:
    """Compute the cached part of an item; the transforms see only its image, so it depends on nothing else."""
    made = transform({"image": item["image"]}, end=first_random(transform), threading=True)
    return {key: _plain(value) for key, value in made.items()}


def _plain(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    plain = (value.as_tensor() if isinstance(value, MetaTensor) else value).contiguous()
    if plain.untyped_storage().nbytes() > _bytes_of(plain):
        plain = plain.clone()  # a view of a larger tensor would keep all of it in memory
    return MetaTensor(plain, affine=value.affine, meta=_meta_of(value)) if isinstance(value, MetaTensor) else plain


def _meta_of(value: MetaTensor) -> dict[str, Any]:
    return {name: value.meta[name] for name in _META if name in value.meta}


def _bytes_of(value: torch.Tensor) -> int:
    return value.numel() * value.element_size()


def moved(made: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the cached part with its tensors moved to a device."""
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in made.items()}


def joined(item: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """Join the cached part with the rest of the item."""
    return {key: value for key, value in item.items() if key != "image"} | dict(made)


def fill(
    load_one: Callable[[Compose, int], Any],
    transform: Compose,
    indices: Sequence[int],
    data: Sequence[Mapping[str, Any]],
    policy: Policy,
) -> list[int]:
    """Load items in several threads, and leave out those that the policy skips.

    Args:
        load_one: loads an item, given the transforms and its index in `data`.
        transform: the transforms; each thread uses a copy, because transforms may have a state.
        indices: the items to load, in this order.
        data: all items.
        policy: which problems to skip; skipped items are counted and logged.

    Returns:
        The indices of `data` without the items that were left out.

    Raises:
        Exception: the error of the first item in the list that has one, whatever the order of the threads.
        ValueError: no item is left.
    """
    mine = threading.local()
    left_out: dict[int, str] = {}
    stopped: dict[int, Exception] = {}

    def one(index: int) -> None:
        if any(index > earlier for earlier in tuple(stopped)):
            return
        try:
            if not hasattr(mine, "transform"):
                mine.transform = deepcopy(transform)
            load_one(mine.transform, index)
        except Exception as error:
            try:
                left_out[index] = reason_to_skip(error, policy, data[index]).code
            except Exception as final:
                stopped[index] = final

    quiet = not (rank() == 0 and sys.stderr.isatty())
    bar = tqdm(total=len(indices), unit="item", desc="cache", disable=quiet)
    with bar, ThreadPool(min(own_cores(), _THREADS)) as pool:
        for _ in pool.imap_unordered(one, indices):
            bar.update()
    if stopped:
        raise stopped[min(stopped)]
    codes = count_codes(left_out[index] for index in sorted(left_out))
    kept = [index for index in range(len(data)) if index not in left_out]
    if left_out:
        logger.warning("%d of %d studies left out: %s", len(left_out), len(data), codes)
        if not kept:
            raise ValueError(f"no study is left, all were left out: {codes}")
    return kept


def size(made: Mapping[str, Any]) -> int:
    """Return the size of a cached part in bytes."""
    return sum(_bytes_of(value) for value in made.values() if isinstance(value, torch.Tensor))


def write(made: Mapping[str, Any], path: Path) -> None:
    """Write a cached part to a file: its tensors, their affines and metadata, and a CRC-32.

    Raises:
        TypeError: a value is not a tensor.
    """
    tensors, meta = {}, {}
    for key, value in made.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"the transforms before the first random one leave a {type(value).__name__} as '{key}': only tensors "
                "are cached on disk; let them follow the first random transform, or leave tensors"
            )
        tensors[key] = value.as_tensor() if isinstance(value, MetaTensor) else value
        if isinstance(value, MetaTensor):
            tensors[f"{key}/affine"] = value.affine.contiguous()
            meta[key] = json.dumps(_meta_of(value))
    content = save(tensors, meta)
    with atomic_path(path) as beside, open(beside, "wb") as file:
        file.write(content)
        file.write(zlib.crc32(content).to_bytes(4, "little"))


def read(path: Path) -> dict[str, Any] | None:
    """Read a cached part that `write` wrote; None if the file does not exist or is damaged."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    content, check = whole[:-4], whole[-4:]
    if len(content) < 8 or zlib.crc32(content) != int.from_bytes(check, "little"):
        logger.warning("cache: %s is damaged and written anew", path.name)
        return None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    meta, tensors = header.get("__metadata__", {}), load(content)
    return {
        key: MetaTensor(value, affine=tensors[f"{key}/affine"], meta=json.loads(meta[key])) if key in meta else value
        for key, value in tensors.items()
        if "/" not in key
    }
