"""Teacher features on disk, computed once for a fixed number of views of every training item.

A store is a folder, named by a hash of everything that its content depends on except the items and which features
are read: the teacher's fingerprint, transforms, seed, number of views. It has safetensors files of about 64 MB with one
tensor `[views, ...]` in half precision per item and feature, found by the hash of the item's content and the feature's
name. So after a change of weights, transforms, seed or an image's bytes, features are computed again, never reused;
adding, moving or removing items does not affect other items; and methods that read the same feature share it. A file's
name ends in its CRC-32, and it is written atomically.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import save
from torch import Tensor

from monai_rd.files import atomic_path, atomic_write
from monai_rd.finite import NotFiniteError

__all__ = ["FeatureStore", "StoreInfo", "clear_stores", "list_stores"]

logger = logging.getLogger(__name__)

_ABOUT = "store.json"


class _Place(NamedTuple):
    path: Path
    offset: int
    shape: tuple[int, ...]


class FeatureStore:
    """Teacher features in half precision on disk, by item and view.

    Features are read from files at an offset, without a memory map: the pages of a memory map would count as memory of
    the process, while the operating system's file cache does not.

    Args:
        directory: parent folder of all stores.
        decided_by: everything that the content depends on except the items; must be JSON-serialisable.
        notes: further information for users, without effect on the content; must be JSON-serialisable.
        parts: the features that are read: the name in the store of each, by the name that `read` returns it under. An
            item is in the store if all of them are. None reads all there are, under their names in the store.

    Attributes:
        folder: folder of this store.
    """

    def __init__(
        self,
        directory: str | Path,
        decided_by: Mapping[str, Any],
        notes: Mapping[str, Any] | None = None,
        parts: Mapping[str, str] | None = None,
    ) -> None:
        text = json.dumps(decided_by, sort_keys=True)
        self.folder = Path(directory) / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._about = json.dumps({"decided_by": decided_by, "notes": dict(notes or {})}, indent=1) + "\n"
        self._parts, self._wanted = parts, frozenset((parts or {}).values())
        self._places: dict[str, dict[str, _Place]] = {}
        self._known: set[Path] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._places and self._places[key].keys() >= self._wanted

    def __len__(self) -> int:
        return sum(key in self for key in self._places)

    def refresh(self, check: bool = False) -> list[Path]:
        """Read which items are in the files that were added since the last call.

        Args:
            check: compare every new file with the checksum in its name, and remove those that differ.

        Returns:
            The files that were removed.
        """
        damaged = []
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self._known:
                continue
            try:
                if check and crc32(path) != path.stem.rpartition(".")[2]:
                    raise ValueError("another checksum")
                found = _places_in(path)
            except FileNotFoundError:  # another process has just removed it
                continue
            except ValueError:
                logger.warning("teacher features: the file %s is damaged and computed again", path.name)
                path.unlink(missing_ok=True)
                damaged.append(path)
                continue
            self._known.add(path)
            for key, parts in found.items():
                self._places[key] = parts | self._places.get(key, {})
        return damaged

    def read(self, key: str, view: int) -> dict[str, Tensor]:
        """Read the features of an item in one view, by name.

        Args:
            key: hash of the item's content, see `item_key`.
            view: number of the view, from 0.

        Raises:
            KeyError: the item is not in the store.
            OSError: the file was removed or truncated.
            NotFiniteError: features are infinite or not a number.
        """
        places = self._places[key]
        wanted = {name: name for name in places} if self._parts is None else self._parts
        return {part: _read(places[name], view) for part, name in wanted.items()}

    def write(self, name: str, items: Mapping[str, Mapping[str, Tensor]], locked: bool) -> None:
        """Write a file.

        Args:
            name: of the file; the same for the same features of the same items.
            items: features `[views, ...]` by item and name in the store.
            locked: whether this process holds the lock of that name. A killed run then leaves at most one unfinished
                file for each name, otherwise another one each time.

        Raises:
            OSError: it could not be written.
        """
        if not (self.folder / _ABOUT).is_file():
            atomic_write(self._about, self.folder / _ABOUT)
        tensors = {
            f"{key}/{part}": one.half().contiguous() for key, parts in items.items() for part, one in parts.items()
        }
        content = save(tensors)
        with atomic_path(self.folder / f"{name}.{zlib.crc32(content):08x}.safetensors", others=not locked) as beside:
            beside.write_bytes(content)

    def lock(self, name: str) -> FileLock:
        """Return the lock for writing the file `name`; it is released when the process ends, even if it is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"{name}.lock", timeout=0)


def _places_in(path: Path) -> dict[str, dict[str, _Place]]:
    """Read the positions of all features in a safetensors file, by item and name.

    Raises:
        ValueError: it is not a valid safetensors file of float16 tensors.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError("no header")
        header = json.loads(file.read(length))
    found: dict[str, dict[str, _Place]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        key, _, part = name.partition("/")
        begin, end = entry["data_offsets"]
        if entry["dtype"] != "F16" or 8 + length + end > size or end - begin != 2 * math.prod(entry["shape"]):
            raise ValueError("another content than its header says")
        found.setdefault(key, {})[part] = _Place(path, 8 + length + begin, tuple(entry["shape"]))
    return found


def _read(place: _Place, view: int) -> Tensor:
    count = math.prod(place.shape[1:])
    values = np.fromfile(place.path, dtype="<f2", count=count, offset=place.offset + 2 * count * view)
    if len(values) != count:
        raise OSError(f"{place.path.name} in the feature store is shorter than it was: start again, it is then mended")
    if not np.isfinite(values).all():
        raise NotFiniteError(
            f"{place.path.name} in the feature store holds features that are not finite: remove {place.path.parent}"
        )
    return torch.from_numpy(values).view(place.shape[1:])


def crc32(path: Path) -> str:
    """Return the CRC-32 of a file's content, 8 hex digits."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


class StoreInfo(NamedTuple):
    """Summary of a store.

    Attributes:
        folder: folder of the store.
        notes: see `FeatureStore`.
        views: K, the number of views per item.
        items: number of items.
        bytes: size on disk.
    """

    folder: Path
    notes: dict[str, Any]
    views: int
    items: int
    bytes: int


def list_stores(directory: str | Path) -> list[StoreInfo]:
    """List the stores in a directory.

    Raises:
        FileNotFoundError: no such directory.
    """
    if not Path(directory).is_dir():
        raise FileNotFoundError(f"no folder '{directory}': give the features_dir of a training")
    found = []
    for path in sorted(Path(directory).glob(f"*/{_ABOUT}")):
        about = json.loads(path.read_text(encoding="utf-8"))
        store = FeatureStore(directory, about["decided_by"], about["notes"])
        store.refresh()
        size = sum(one.stat().st_size for one in path.parent.iterdir() if one.is_file())
        found.append(StoreInfo(path.parent, about["notes"], about["decided_by"]["views"], len(store), size))
    return found


def clear_stores(infos: Iterable[StoreInfo]) -> None:
    """Delete the folders of stores, and nothing else."""
    for info in infos:
        shutil.rmtree(info.folder)
