"""Which items make the training batches, labelled ones and beside them unlabelled ones, and the loaders of all sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from monai.data import DataLoader, Dataset, DistributedSampler
from torch.utils.data import Sampler

from monai_rd.cache.datasets import DiskCacheDataset, cached_dataset, is_on_device
from monai_rd.processes import derived_seed, rank, world_size
from monai_rd.transforms import bag_collate

__all__ = ["ItemView", "Lists", "Loaders", "TrainingBatches", "TrainingItems", "training_items"]


class ItemView(NamedTuple):
    """An item that is shown in a batch.

    Attributes:
        item: its index in the data set.
        visit: how often it was shown before.
    """

    item: int
    visit: int


class TrainingItems(Dataset):
    """The labelled items of a training, and after them the unlabelled ones, as one MONAI data set.

    Args:
        labelled: their data set.
        unlabelled: that of the others, with the same transforms; None where there are none.

    Attributes:
        sizes: how many of either kind there are.
        transform_fingerprint: see `transforms_fingerprint`.
        item_keys: what the items are, see `item_key`.
    """

    def __init__(self, labelled: Any, unlabelled: Any = None) -> None:
        parts = [part for part in (labelled, unlabelled) if part is not None]
        super().__init__([item for part in parts for item in part.data], labelled.transform)
        self.parts, self.sizes = parts, (len(labelled), len(unlabelled) if unlabelled is not None else 0)
        self.transform_fingerprint: str = labelled.transform_fingerprint
        self.device: torch.device = getattr(labelled, "device", torch.device("cpu"))

    # No attributes: MONAI seeds the random transforms of each attribute that it finds, in turn.
    @property
    def labelled(self) -> Any:
        """The data set of the labelled items alone."""
        return self.parts[0]

    @property
    def unlabelled(self) -> Any:
        """That of the others, None where there are none."""
        return self.parts[1] if len(self.parts) > 1 else None

    @property
    def item_keys(self) -> list[str]:
        """Those of the parts."""
        return [key for part in self.parts for key in part.item_keys]

    def __getitem__(self, index: int | ItemView) -> Any:
        """The item at a place, in a new random view."""
        place = index.item if isinstance(index, ItemView) else index
        labelled = self.sizes[0]
        return self.parts[0][place] if place < labelled else self.parts[1][place - labelled]


class Lists(Protocol):
    """What is asked of a data list; `DataList` is one."""

    @property
    def unlabelled(self) -> Sequence[Any]:
        """Its items without a label."""

    def numbered(self, split: str) -> list[Any]:
        """The items of a split, each with its place in the training list as `index`."""


def training_items(
    data: Lists,
    transform: Callable[[Any], Any],
    policy: Mapping[str, str] | None = None,
    *,
    cache_dir: str | Path,
    takes_unlabelled: bool = True,
    augment_on_device: bool = False,
    device: torch.device | str = "cpu",
) -> TrainingItems:
    """The items that a training learns from, numbered as in the data list.

    Labelled items are cached in memory where they fit, see `cached_dataset`; unlabelled ones, which may be very many,
    on disk, and those of them that cannot be read are left out unless the policy says otherwise.

    Args:
        data: the lists.
        transform: of both kinds of items.
        policy: see `Policy`.
        cache_dir: see `cached_dataset`.
        takes_unlabelled: whether the method makes use of unlabelled items.
        augment_on_device: keep labelled items on the device, and transform them at random there; not beside unlabelled
            ones.
        device: of the training.

    Raises:
        ValueError: see `cached_dataset`, as for the rest.
        StudyError: likewise.
        OSError: likewise.
    """
    there = device if augment_on_device and not data.unlabelled else "cpu"
    labelled = cached_dataset(data.numbered("training"), transform, policy, cache_dir=cache_dir, device=there)
    if not (takes_unlabelled and data.unlabelled):
        return TrainingItems(labelled)
    tolerant = {"default": "skip", **(policy or {})}
    return TrainingItems(
        labelled, DiskCacheDataset(data.numbered("unlabelled"), transform, tolerant, cache_dir=cache_dir)
    )


class TrainingBatches(Sampler[list[ItemView]]):
    """Batches of B labelled and U unlabelled items, in epochs of a stated number of steps.

    The labelled items are shown in rounds: every round shuffles them anew and leaves out those that fill no batch, as
    `drop_last` does. An epoch is a round, unless its steps are stated; then it ends where they do, and the next one
    goes on from there. The unlabelled items are shuffled anew whenever all were shown. What an epoch shows depends on
    its number and the seed alone. Each of several processes takes its share of every step's B and U times their number.

    Args:
        dataset: the items.
        batch_size: B, for each process.
        unlabelled_share: of unlabelled items in a batch, from 0 to below 1: U is B times this by what it leaves,
            rounded.
        steps: of an epoch; None: those of a round.
        seed: of the orders.

    Attributes:
        size: items in a batch.

    Raises:
        ValueError: a share outside its range or without unlabelled items, no step.
    """

    def __init__(
        self,
        dataset: TrainingItems,
        batch_size: int,
        unlabelled_share: float = 0.75,
        steps: int | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= unlabelled_share < 1:
            raise ValueError(f"unlabelled_share is a share of a batch, from 0 to below 1, got {unlabelled_share}")
        if steps is not None and steps < 1:
            raise ValueError(f"epoch_steps must be at least 1, got {steps}")
        self.labelled, self.unlabelled = dataset.sizes
        self.batch_size, self.seed = batch_size, seed
        share = unlabelled_share / (1 - unlabelled_share)
        self.unlabelled_size = max(round(batch_size * share), 1) if self.unlabelled and unlabelled_share else 0
        self.size = batch_size + self.unlabelled_size
        self.round = self.labelled // (batch_size * world_size())
        self.steps = (steps or self.round) if self.round else 0
        self._epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 1."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[ItemView]]:
        """The batches of this process in the epoch."""
        processes, first = world_size(), (self._epoch - 1) * self.steps
        orders = _Orders(self.seed)
        for step in range(first, first + self.steps):
            turn, place = divmod(step, self.round)
            labelled = [
                ItemView(orders.of(0, self.labelled, turn)[at], turn)
                for at in _share_of_process(place * self.batch_size * processes, self.batch_size)
            ]
            others = []
            for at in _share_of_process(step * self.unlabelled_size * processes, self.unlabelled_size):
                turn, place = divmod(at, self.unlabelled)
                others.append(ItemView(self.labelled + orders.of(1, self.unlabelled, turn)[place], turn))
            yield labelled + others


def _share_of_process(first: int, count: int) -> range:
    """This process's places of those that all take in a step, from `first` on."""
    return range(first + rank() * count, first + (rank() + 1) * count)


class _Orders:
    """The order of each kind of items in each round, the last one of each kept."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._last: dict[int, tuple[int, list[int]]] = {}

    def of(self, kind: int, count: int, turn: int) -> list[int]:
        if self._last.get(kind, (-1, []))[0] != turn:
            seed = derived_seed(self.seed, turn, kind)
            self._last[kind] = turn, torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        return self._last[kind][1]


class Loaders:
    """Makes MONAI's `DataLoader`s, alike in all that does not depend on what they are for.

    Batches are collated by `bag_collate`, and pinned where they go to a GPU. Items that lie on the GPU itself are
    loaded by this process, as no other can.

    Args:
        batch_size: items in a batch of each process.
        num_workers: processes that load data.
        device: where batches go.

    Example:
        >>> import torch
        >>> from monai.data import Dataset
        >>> from monai_rd.cache import Loaders
        >>> items = Dataset([{"image": torch.rand(1, 3, 8, 8), "label": 0}] * 5)
        >>> [len(batch["image"]) for batch in Loaders(batch_size=2).whole(items)]
        [2, 2, 1]
    """

    def __init__(self, batch_size: int, num_workers: int = 0, device: torch.device | str = "cpu") -> None:
        self.batch_size, self.num_workers = batch_size, num_workers
        self._cuda = torch.device(device).type == "cuda"

    def batched(self, dataset: Dataset, batches: TrainingBatches) -> DataLoader:
        """The training's batches."""
        return self._loader(dataset, batch_sampler=batches)

    def shuffled(self, dataset: Dataset) -> DataLoader:
        """Whole batches in a new order in each epoch, of which each process has its share."""
        if world_size() == 1:
            return self._loader(dataset, batch_size=self.batch_size, shuffle=True, drop_last=True)
        sampler = DistributedSampler(dataset, even_divisible=True, shuffle=True)
        return self._loader(dataset, batch_size=self.batch_size, sampler=sampler, drop_last=True)

    def shared(self, dataset: Dataset) -> DataLoader:
        """All items in their order, of which each process has its share."""
        sampler = None
        if world_size() > 1:
            sampler = DistributedSampler(dataset, even_divisible=False, shuffle=False)
        return self._loader(dataset, batch_size=self.batch_size, sampler=sampler)

    def whole(self, dataset: Dataset) -> DataLoader:
        """All items in their order, in every process."""
        return self._loader(dataset, batch_size=self.batch_size)

    def _loader(self, dataset: Dataset, **settings: Any) -> DataLoader:
        there = is_on_device(dataset)
        return DataLoader(
            dataset,
            num_workers=0 if there else self.num_workers,
            pin_memory=self._cuda and not there,
            collate_fn=bag_collate,
            **settings,
        )
