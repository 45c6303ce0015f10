"""Filling a feature store: the teacher's features of every view of every training item, computed once."""

from __future__ import annotations

import logging
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from filelock import Timeout
from monai.data import DataLoader, Dataset
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from monai_rd.cache.datasets import loading_settings
from monai_rd.cache.feature_store import FeatureStore
from monai_rd.cache.fingerprints import describe, fingerprint, transforms_fingerprint
from monai_rd.cache.views import PROBE, ReplayedViews, probe
from monai_rd.files import free_space, size_in_words
from monai_rd.locks import can_lock
from monai_rd.processes import rank, world_size
from monai_rd.teacher_image import teacher_image

__all__ = ["Agreement", "FeatureExtractor", "Teacher", "feature_dataset"]

logger = logging.getLogger(__name__)

_FILE = 64 << 20  # bytes: the most that a killed process or a damaged file loses
_LEAST_FILES = 16  # approximately, so that several processes can share the work on a small data set
_FORMAT = 2


class Teacher(Protocol):
    """The interface of a teacher that is used here; `FrozenFoundationModel` has it."""

    name: str

    def fingerprint(self) -> str:
        """Return a hash of everything that the features depend on."""

    def rows(self, image: Tensor, reads: Any, indices: Tensor | None = None) -> Mapping[str, Tensor]:
        """Compute the features of a batch, by name, each with the batch's items along its first axis.

        Args:
            image: see `FrozenFoundationModel.forward`.
            reads: which features.
            indices: position of each item in the training list, if the items have it as `index`; else None.
        """

    def for_store(self, reads: Any) -> Any:
        """Return what is stored for what a method reads: teacher, reads, writes and finish, see `ForStore`."""

    def offload(self, folder: Path) -> None:
        """Free memory until the teacher is used again; `folder` may be used for files."""


def feature_dataset(dataset: Dataset, teacher: Teacher | None, reads: Any, views: int, **settings: Any) -> Dataset:
    """Compute the teacher's features of a training set in advance, and add them to its items.

    Args:
        dataset: see `ReplayedViews`.
        teacher: the teacher; None if the method needs none.
        reads: the features that the method needs, see `Reads`.
        views: K, the number of random views per item; 0 returns the data set unchanged, and the teacher runs in every
            training step.
        settings: further arguments of `FeatureExtractor`.

    Returns:
        `ReplayedViews` whose items have `teacher_features`; the data set itself if there is nothing to compute.

    Raises:
        ValueError: fewer than 0 views; see `FeatureExtractor`.
        OSError: see `FeatureExtractor.fill`.
    """
    if views < 0:
        raise ValueError(f"feature_views is 0 (the teacher in every step) or the number of views, got {views}")
    if views == 0 or teacher is None or not reads:
        return dataset
    extraction = FeatureExtractor(dataset, teacher, reads, views, **settings)
    # The random state afterwards must not depend on whether the features had to be computed.
    with torch.random.fork_rng(devices=[extraction.device] if extraction.device.type == "cuda" else []):
        extraction.fill()
    teacher.offload(extraction.store.folder)  # the training does not need it
    extraction.views.store = extraction.store
    return extraction.views


class Agreement(NamedTuple):
    """The result of comparing a store with its teacher.

    Attributes:
        views: number of views that were compared.
        damaged: number of shards with a wrong checksum; they were removed.
        missing: number of items that are not in the store.
        difference: largest absolute difference of a feature value.
        cosine: smallest cosine similarity of stored and newly computed features, over all views and features.
    """

    views: int
    damaged: int
    missing: int
    difference: float
    cosine: float


class FeatureExtractor:
    """Computes the teacher's features of a training set in fixed random views, and stores them on disk.

    Args:
        dataset: see `ReplayedViews`.
        teacher: the teacher.
        reads: the features that are needed, see `Reads`; `ForStore` says what is stored.
        views: K, the number of views per item.
        directory: parent folder of all stores.
        seed: of the views.
        new_views: whether every second time a new view without teacher features is shown, see `ReplayedViews`.
        batch_size: images (or studies) per batch of the teacher.
        num_workers: worker processes that load and transform items; none are used if the items are on a GPU.
        device: of the teacher.
        amp: whether the teacher runs in mixed precision.
        amp_kwargs: arguments of `torch.autocast`, such as `dtype`.

    Attributes:
        store: the `FeatureStore`.
        views: the training set as `ReplayedViews`.

    Raises:
        ValueError: see `ReplayedViews`.
        UnreadableFileError: see `ReplayedViews`.
        TypeError: the settings of a transform cannot be determined, or the teacher has no fingerprint.

    Example:
        >>> from monai.data import Dataset
        >>> from monai.transforms import Compose, LoadImaged, RandFlipd, ScaleIntensityd
        >>> from PIL import Image
        >>> from monai_rd.cache import FeatureExtractor
        >>> from monai_rd.networks import Reads, load_teacher
        >>> Image.effect_noise((32, 32), sigma=50).convert("RGB").save("a.png")
        >>> load = [LoadImaged("image", ensure_channel_first=True), ScaleIntensityd("image")]
        >>> dataset = Dataset([{"image": "a.png"}], Compose([*load, RandFlipd("image", prob=0.5)]))
        >>> teacher, reads = load_teacher("phantom_ct"), Reads(pooled=True)
        >>> extractor = FeatureExtractor(dataset, teacher, reads, views=3, directory="features")
        >>> extractor.fill()
        >>> extractor.store.read(extractor.views.keys[0], view=2)["pooled"].shape
        torch.Size([256])
    """

    def __init__(
        self,
        dataset: Dataset,
        teacher: Teacher,
        reads: Any,
        views: int,
        *,
        directory: str | Path,
        seed: int = 0,
        new_views: bool = True,
        batch_size: int = 32,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
        amp: bool = False,
        amp_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.teacher, reads, self._writes, finish = teacher.for_store(reads)
        self.device = torch.device(device)
        self._autocast = torch.autocast(self.device.type, enabled=amp, **(amp_kwargs or {}))
        self._batch_size, self._workers = batch_size, num_workers
        decided_by = {
            "format": _FORMAT,
            "teacher": self.teacher.fingerprint(),
            "reads": describe(type(reads)),
            "transforms": transforms_fingerprint(dataset),
            "views": views,
            "seed": seed,
            "amp": str(self._autocast.fast_dtype) if amp else None,
        }
        self._names = {PROBE: PROBE, **self._writes.names()}
        parts = {PROBE: PROBE, **reads.names()}
        self.store = FeatureStore(directory, decided_by, {"teacher": self.teacher.name}, parts)
        self.views = ReplayedViews(dataset, views, seed, new_views, finish)

    # ------------------------------------------------------------------------------------------------------------ fill

    def fill(self, shard: tuple[int, int] = (1, 1)) -> None:
        """Compute the features that are missing in the store; several processes may do so together.

        The unit of work is a file of features. A killed process loses at most one, and finished files are not computed
        again. Processes with the same `shard` share the work by locks; on a disk without locks they would all compute
        everything. N shards need no locks: which files are a shard's is fixed by the list of items.

        Args:
            shard: number i, from 1 to N, of the shard to compute, and N, the number of shards. All N together leave
                the same files as one process, and what a shard left out a later `fill` computes.

        Raises:
            OSError: the disk is too small; this is checked before anything is computed.
            ValueError: no such shard, or features exceed the range of half precision.
        """
        number, count = shard
        if not 1 <= number <= count:
            raise ValueError(f"there is no shard {number} of {count}: shards are numbered from 1 to their number")
        self.store.refresh(check=True)
        if not self._missing(self._items):
            return
        plan = self._plan(number, count)
        missing = self._missing([index for _, piece in plan for index in piece])
        if not missing:
            return
        self._refuse_too_large(len(missing))
        since, views, first = time.monotonic(), len(missing) * self.views.views, rank() == 0
        quiet = not (first and sys.stderr.isatty())
        with tqdm(total=views, unit="view", dynamic_ncols=True, disable=quiet, desc="teacher features") as bar:
            if count == 1 and can_lock(self.store.folder):
                self._share_by_locks(plan, bar.update)
            else:
                for name, piece in plan:
                    self._compute_file(name, piece, bar.update, locked=False)
        if first:
            seconds = time.monotonic() - since
            logger.info("teacher features: %d views in %.1f s, %.2g a second", views, seconds, views / seconds)

    @cached_property
    def _items(self) -> list[int]:
        """Indices of the items without repetitions: the same file may be in the list twice."""
        first = {key: index for index, key in reversed(list(enumerate(self.views.keys)))}
        return sorted(first.values())

    def _missing(self, indices: Sequence[int]) -> list[int]:
        return [index for index in indices if self.views.keys[index] not in self.store]

    def _plan(self, number: int, count: int) -> list[tuple[str, list[int]]]:
        """Return name and items of each file of a shard; the whole list decides, so all processes agree on them."""
        batches = self._batch_size // math.gcd(self._batch_size, self.views.views)  # items that fill whole batches
        share = math.ceil(len(self._items) / _LEAST_FILES / batches) * batches
        many = max(min(_FILE // self._bytes_of_an_item, share), 1)
        pieces = [self._items[start : start + many] for start in range(0, len(self._items), many)]
        mine = pieces[number - 1 :: count]
        parts = sorted(self._names.values())
        named = [(fingerprint([parts, [self.views.keys[index] for index in piece]])[:16], piece) for piece in mine]
        first = len(mine) * rank() // world_size()  # each rank starts at another file
        return named[first:] + named[:first]

    def _share_by_locks(self, plan: Sequence[tuple[str, list[int]]], tick: Callable[[int], Any]) -> None:
        """Compute files that no other process has locked, until all exist; `tick` is called with numbers of views."""
        waiting = [(name, piece) for name, piece in plan if self._missing(piece)]
        while waiting:
            left = []
            for name, piece in waiting:
                try:
                    with self.store.lock(name) as lock:
                        self._compute_file(name, piece, tick, locked=True)
                        with suppress(OSError):  # Windows does not delete open files
                            Path(lock.lock_file).unlink()
                except Timeout:
                    left.append((name, piece))
            if len(left) == len(waiting):
                time.sleep(0.5)  # all remaining files are locked by other processes
            waiting = left

    def _compute_file(self, name: str, piece: list[int], tick: Callable[[int], Any], locked: bool) -> None:
        before = len(self._missing(piece))
        self.store.refresh()  # another process may have computed it meanwhile
        todo = self._missing(piece)
        tick((before - len(todo)) * self.views.views)
        if todo:
            self.store.write(name, self._features_of(todo, tick), locked)
            self.store.refresh()

    def _features_of(self, indices: Sequence[int], tick: Callable[[int], Any]) -> dict[str, dict[str, Tensor]]:
        """Compute the features of all views of some items: by item and name in the store `[views, ...]`."""
        rows = self._rows([(index, number) for index in indices for number in range(self.views.views)])
        found: dict[str, dict[str, Tensor]] = {}
        for index in indices:
            key = self.views.keys[index]
            views = [next(rows) for _ in range(self.views.views)]
            found[key] = {self._names[part]: torch.stack([view[part] for view in views]) for part in views[0]}
            if not all(bool(part.isfinite().all()) for part in found[key].values()):
                raise ValueError(
                    f"the features that '{self.teacher.name}' gives of image sha256 {key[:12]} do not fit into half "
                    "precision: train with --feature_views 0"
                )
            tick(self.views.views)
        return found

    def _rows(self, pairs: Sequence[tuple[int, int]]) -> Iterator[dict[str, Tensor]]:
        """Yield the features by name of each (item, view), in half precision on the CPU; one device sync per batch."""
        settings = loading_settings(self.views, self._workers, self.device)
        loader = DataLoader(_Pairs(self.views, pairs), batch_size=self._batch_size, collate_fn=list, **settings)
        for batch in loader:
            for _, alike in groupby(batch, key=lambda view: view["image"].shape):  # bags may differ in their slices
                seen = list(alike)
                image = torch.stack([view["image"] for view in seen]).to(self.device, non_blocking=True)
                indices = torch.tensor([view["index"] for view in seen]) if "index" in seen[0] else None
                with torch.inference_mode(), self._autocast:
                    parts = self.teacher.rows(image, self._writes, indices)
                parts = {name: part.half().cpu() for name, part in parts.items()}
                for number, view in enumerate(seen):
                    yield {**{name: part[number] for name, part in parts.items()}, PROBE: view[PROBE]}

    @cached_property
    def _bytes_of_an_item(self) -> int:
        (row,) = self._rows([(0, 0)])
        return self.views.views * sum(part.numel() * 2 for part in row.values())

    def _refuse_too_large(self, items: int) -> None:
        wanted = items * self._bytes_of_an_item
        free = free_space(self.store.folder)
        size = f"{size_in_words(wanted)} for {items} items in {self.views.views} views"
        if wanted > free:
            raise OSError(
                f"the teacher's features would take {size}, and the disk of features_dir has {size_in_words(free)} "
                "free: take fewer --feature_views, another --features_dir, or --feature_views 0 (the teacher in "
                "every step)"
            )
        if rank() == 0:
            logger.info("teacher features: %s", size)

    # ---------------------------------------------------------------------------------------------------------- verify

    def verify(self, sample: int = 64, seed: int = 0) -> Agreement:
        """Check the checksums of all shards, and compare a random sample of views with the teacher.

        Args:
            sample: maximum number of views that are computed again.
            seed: of the sample.
        """
        damaged = self.store.refresh(check=True)
        there = [index for index, key in enumerate(self.views.keys) if key in self.store]
        every = [(index, number) for index in there for number in range(self.views.views)]
        pairs = random.Random(seed).sample(every, min(sample, len(every)))
        difference, cosine = 0.0, 1.0
        for (index, number), now in zip(pairs, self._rows(pairs), strict=True):
            kept = self.store.read(self.views.keys[index], number)
            for part, one in kept.items():
                ours, theirs = one.float().flatten(), now[part].float().flatten()
                difference = max(difference, float((ours - theirs).abs().nan_to_num(torch.inf).max()))
                if part != PROBE:
                    cosine = min(cosine, float(F.cosine_similarity(ours, theirs, dim=0).nan_to_num(-1.0)))
        return Agreement(len(pairs), len(damaged), len(self.views.keys) - len(there), difference, cosine)


class _Pairs(torch.utils.data.Dataset[dict[str, Any]]):
    """Views as a data set, from a list of pairs (item, view)."""

    def __init__(self, views: ReplayedViews, pairs: Sequence[tuple[int, int]]) -> None:
        self.views, self.pairs = views, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: int) -> dict[str, Any]:
        index, number = self.pairs[place]
        view = self.views.view(index, number)
        known = {"index": view["index"]} if "index" in view else {}
        return {"image": teacher_image(view), PROBE: probe(view["image"]), **known}
