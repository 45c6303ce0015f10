"""Filling a feature store: the teacher looks at every view of every training item, once for all trainings."""

from __future__ import annotations

import logging
import math
import random
import sys
import time
from collections import Counter
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

from monai_rd.cache.datasets import is_on_device
from monai_rd.cache.feature_store import FeatureStore
from monai_rd.cache.fingerprints import describe, fingerprint, transforms_fingerprint
from monai_rd.cache.views import PROBE, ReplayedViews, probe
from monai_rd.files import free_space, size_in_words
from monai_rd.processes import rank, world_size
from monai_rd.teacher_image import teacher_image

__all__ = ["Agreement", "FeatureExtractor", "Teacher", "feature_dataset"]

logger = logging.getLogger(__name__)

_SHARD = 64 << 20  # bytes: a killed fill loses one at most, a damaged one costs little
_SHARES = 16  # shards of about this share, or several processes would have nothing to share of a small training set
_FORMAT = 1


class Teacher(Protocol):
    """What is asked of a teacher; `FrozenFoundationModel` is one."""

    name: str

    def fingerprint(self) -> str:
        """A name for all that decides its features."""

    def rows(self, image: Tensor, reads: Any, indices: Tensor | None = None) -> Mapping[str, Tensor]:
        """Its features of a batch by part, the items of the batch along the first axis of each.

        `indices` are those of the items in the training list, as far as the items tell them by `index`.
        """

    def offload(self, folder: Path) -> None:
        """Give back what memory it can until it is asked again; `folder` is there to put things aside."""


def feature_dataset(dataset: Dataset, teacher: Teacher | None, reads: Any, views: int, **settings: Any) -> Dataset:
    """Give the items of a training set what the teacher makes of them, computed beforehand.

    Args:
        dataset: see `ReplayedViews`.
        teacher: None where the method needs none.
        reads: what the method reads of it.
        views: K, how many random views of each item; 0 leaves the data set as it is and the teacher in the loop.
        settings: of `FeatureExtractor`.

    Returns:
        `ReplayedViews` with `teacher_features`, all of which are in the store; the data set itself where there is
        nothing to compute.

    Raises:
        ValueError: fewer than 0 views; see `FeatureExtractor`.
        OSError: see `FeatureExtractor.fill`.
    """
    if views < 0:
        raise ValueError(f"feature_views is 0 (the teacher in every step) or the number of views, got {views}")
    if views == 0 or teacher is None or not reads:
        return dataset
    extraction = FeatureExtractor(dataset, teacher, reads, views, **settings)
    # What comes after must not depend on whether the store was there already.
    with torch.random.fork_rng(devices=[extraction.device] if extraction.device.type == "cuda" else []):
        extraction.fill()
    teacher.offload(extraction.store.folder)  # the training does not need it
    extraction.views.store = extraction.store
    return extraction.views


class Agreement(NamedTuple):
    """How a store agrees with its teacher.

    Attributes:
        views: how many were compared.
        damaged: shards that had another checksum; they were removed.
        missing: items that are not in the store.
        difference: the largest, of a value.
        cosine: the smallest, between the features of one view, of any part.
    """

    views: int
    damaged: int
    missing: int
    difference: float
    cosine: float


class FeatureExtractor:
    """A training set, a teacher, and the store between them.

    Args:
        dataset: see `ReplayedViews`.
        teacher: what is asked.
        reads: what of its features.
        views: K.
        directory: of all stores.
        seed: of the views.
        new_views: whether every second epoch shows new views, without the teacher.
        batch_size: images (or studies) that the teacher is shown at once.
        num_workers: processes that load and transform; none where the items lie on a GPU.
        device: of the teacher.
        amp: whether it runs in mixed precision.
        amp_kwargs: of `torch.autocast`, such as the type.

    Raises:
        ValueError: see `ReplayedViews`.
        UnreadableFileError: likewise.
        TypeError: a transform that does not say what it is set to; a teacher without a fingerprint.
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
        self.teacher, self.reads, self.device = teacher, reads, torch.device(device)
        self._autocast = torch.autocast(self.device.type, enabled=amp, **(amp_kwargs or {}))
        self._batch_size, self._workers = batch_size, num_workers
        decided_by = {
            "format": _FORMAT,
            "teacher": teacher.fingerprint(),
            "reads": describe(reads),
            "transforms": transforms_fingerprint(dataset),
            "views": views,
            "seed": seed,
            "amp": str(self._autocast.fast_dtype) if amp else None,
        }
        self.store = FeatureStore(directory, decided_by, {"teacher": teacher.name})
        self.views = ReplayedViews(dataset, views, seed, new_views)

    # ------------------------------------------------------------------------------------------------------------ fill

    def fill(self) -> None:
        """Compute what is missing, together with whatever other processes are at it.

        Work is shared shard by shard: a process that is killed loses one, and what is whole is never computed again.

        Raises:
            OSError: the disk has not the room, which is found out before anything is computed.
            ValueError: features that half precision does not hold.
        """
        self.store.refresh(check=True)
        missing = self._missing(range(len(self.views.keys)))
        if not missing:
            return
        self._refuse_too_large(len({self.views.keys[index] for index in missing}))
        since, views, first = time.monotonic(), len(missing) * self.views.views, rank() == 0
        quiet = not (first and sys.stderr.isatty())
        with tqdm(total=views, unit="view", dynamic_ncols=True, disable=quiet, desc="teacher features") as bar:
            self._work(self._plan(), bar.update)
        if first:
            seconds = time.monotonic() - since
            logger.info("teacher features: %d views in %.1f s, %.1f a second", views, seconds, views / seconds)

    def _missing(self, indices: Sequence[int]) -> list[int]:
        return [index for index in indices if self.views.keys[index] not in self.store]

    def _plan(self) -> list[tuple[str, range]]:
        """The shards' items, cut along the whole list, so that processes that came at different times agree."""
        every = range(len(self.views.keys))
        batches = self._batch_size // math.gcd(self._batch_size, self.views.views)  # so many items fill whole batches
        share = math.ceil(len(every) / _SHARES / batches) * batches
        many = max(min(_SHARD // self._bytes_of_an_item, share), 1)
        pieces = [every[start : start + many] for start in range(0, len(every), many)]
        first = len(pieces) * rank() // world_size()  # ranks begin apart
        named = [(fingerprint([self.views.keys[index] for index in piece])[:16], piece) for piece in pieces]
        return named[first:] + named[:first]

    def _work(self, plan: Sequence[tuple[str, range]], tick: Callable[[int], Any]) -> None:
        """Do the shards that nobody else is at, until all are there; `tick` is told of views as they come."""
        waiting = [(name, piece) for name, piece in plan if self._missing(piece)]
        while waiting:
            left = []
            for name, piece in waiting:
                before = len(self._missing(piece))
                try:
                    with self.store.lock(name) as lock:
                        self.store.refresh()  # another process may have done it meanwhile
                        todo = self._missing(piece)
                        tick((before - len(todo)) * self.views.views)
                        if todo:
                            self.store.write(name, self._features_of(todo, tick))
                            self.store.refresh()
                        with suppress(OSError):  # Windows keeps a file that is open
                            Path(lock.lock_file).unlink()
                except Timeout:
                    left.append((name, piece))
            if len(left) == len(waiting):
                time.sleep(0.5)  # the others are at work
            waiting = left

    def _features_of(self, indices: Sequence[int], tick: Callable[[int], Any]) -> dict[str, dict[str, Tensor]]:
        """What the teacher makes of all views of some items: parts `[views, ...]` by item."""
        items = {self.views.keys[index]: index for index in indices}  # the same file may stand in a list twice
        times = Counter(self.views.keys[index] for index in indices)
        pairs = [(index, number) for index in items.values() for number in range(self.views.views)]
        rows = self._rows(pairs)
        found: dict[str, dict[str, Tensor]] = {}
        for key in items:
            views = [next(rows) for _ in range(self.views.views)]
            found[key] = {part: torch.stack([view[part] for view in views]) for part in views[0]}
            if not all(bool(part.isfinite().all()) for part in found[key].values()):
                raise ValueError(
                    f"the features that '{self.teacher.name}' gives of image sha256 {key[:12]} do not fit into half "
                    "precision: train with --feature_views 0"
                )
            tick(self.views.views * times[key])
        return found

    def _rows(self, pairs: Sequence[tuple[int, int]]) -> Iterator[dict[str, Tensor]]:
        """Parts in half precision for each (item, view), on the CPU; the device is waited for once a batch."""
        there = is_on_device(self.views)
        loader = DataLoader(
            _Pairs(self.views, pairs),
            batch_size=self._batch_size,
            num_workers=0 if there else self._workers,
            collate_fn=list,
            pin_memory=self.device.type == "cuda" and not there,
        )
        for batch in loader:
            for _, alike in groupby(batch, key=lambda view: view["image"].shape):  # studies, and images of one slice
                seen = list(alike)
                image = torch.stack([view["image"] for view in seen]).to(self.device, non_blocking=True)
                indices = torch.tensor([view["index"] for view in seen]) if "index" in seen[0] else None
                with torch.inference_mode(), self._autocast:
                    parts = self.teacher.rows(image, self.reads, indices)
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
        """Compare the store with its files' checksums, and a sample of it with the teacher.

        Args:
            sample: how many views are computed again at most.
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
    """Views by their place in a list of (item, view)."""

    def __init__(self, views: ReplayedViews, pairs: Sequence[tuple[int, int]]) -> None:
        self.views, self.pairs = views, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: int) -> dict[str, Any]:
        index, number = self.pairs[place]
        view = self.views.view(index, number)
        known = {"index": view["index"]} if "index" in view else {}
        return {"image": teacher_image(view), PROBE: probe(view["image"]), **known}
