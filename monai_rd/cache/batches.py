"""Training items and batches, of labelled and unlabelled images, and the data loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from monai.data import DataLoader, Dataset, DistributedSampler
from torch.utils.data import Sampler

from monai_rd.cache.datasets import DiskCacheDataset, cached_dataset, loading_settings
from monai_rd.cache.orders import BalancedOrder, BalancedSampler, ShuffledOrders, labels_of
from monai_rd.processes import rank, world_size
from monai_rd.transforms import bag_collate

__all__ = ["ItemView", "Lists", "Loaders", "TrainingBatches", "TrainingItems", "training_items"]


class ItemView(NamedTuple):
    """An index of a training data set that also says how often the item was shown before.

    Attributes:
        item: index in the data set.
        visit: how often the item was shown before, from 0.
    """

    item: int
    visit: int


class TrainingItems(Dataset):
    """The items of a training as one MONAI data set: first the labelled, then the unlabelled ones.

    Args:
        labelled: data set of the labelled items.
        unlabelled: data set of the unlabelled items, with the same transforms; None if there are none.

    Attributes:
        sizes: number of labelled and of unlabelled items.
        transform_fingerprint: see `transforms_fingerprint`.
        item_keys: hash of the content of each item, see `item_key`.
        device: where the labelled items are kept.

    Example:
        >>> import torch
        >>> from monai.transforms import ScaleIntensityd
        >>> from monai_rd.cache import SkippingCacheDataset, TrainingItems
        >>> scale = ScaleIntensityd("image")
        >>> labelled = SkippingCacheDataset([{"image": torch.rand(3, 8, 8), "label": 1}] * 4, scale)
        >>> unlabelled = SkippingCacheDataset([{"image": torch.rand(3, 8, 8)}] * 6, scale)
        >>> items = TrainingItems(labelled, unlabelled)
        >>> len(items), items.sizes, "label" in items[3], "label" in items[4]
        (10, (4, 6), True, False)
    """

    def __init__(self, labelled: Any, unlabelled: Any = None) -> None:
        parts = [part for part in (labelled, unlabelled) if part is not None]
        super().__init__([item for part in parts for item in part.data], labelled.transform)
        self.parts, self.sizes = parts, (len(labelled), len(unlabelled) if unlabelled is not None else 0)
        self.transform_fingerprint: str = labelled.transform_fingerprint
        self.device: torch.device = getattr(labelled, "device", torch.device("cpu"))

    # Properties, because MONAI seeds the random transforms of every attribute that is a data set.
    @property
    def labelled(self) -> Any:
        """The data set of the labelled items."""
        return self.parts[0]

    @property
    def unlabelled(self) -> Any:
        """The data set of the unlabelled items; None if there are none."""
        return self.parts[1] if len(self.parts) > 1 else None

    @property
    def item_keys(self) -> list[str]:
        """Hash of the content of each item, see `item_key`."""
        return [key for part in self.parts for key in part.item_keys]

    def __getitem__(self, index: int | ItemView) -> Any:
        """Return the item at an index, with new random transforms."""
        place = index.item if isinstance(index, ItemView) else index
        labelled = self.sizes[0]
        return self.parts[0][place] if place < labelled else self.parts[1][place - labelled]


class Lists(Protocol):
    """The interface of a data list that is used here; `DataList` has it."""

    @property
    def unlabelled(self) -> Sequence[Any]:
        """The items without a label."""

    def numbered(self, split: str) -> list[Any]:
        """Return the items of a split, each with its position in the training list as `index`."""


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
    """Make the items of a training from a data list.

    Labelled items are cached in memory if they fit, see `cached_dataset`. Unlabelled items, which may be many, are
    cached on disk; those that cannot be read are left out unless the policy says otherwise.

    Args:
        data: the data list.
        transform: transforms of labelled and unlabelled items.
        policy: see `Policy`.
        cache_dir: see `cached_dataset`.
        takes_unlabelled: whether the method uses unlabelled items.
        augment_on_device: keep labelled items on the device and apply the random transforms there. It has no effect if
            there are unlabelled items.
        device: of the training.

    Raises:
        ValueError: see `cached_dataset`.
        StudyError: see `cached_dataset`.
        OSError: see `cached_dataset`.
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
    """A batch sampler: each batch has B labelled and U unlabelled items, each epoch a given number of steps.

    The labelled items are shown in rounds. Each round shuffles them again and drops those that do not fill a batch (as
    `drop_last` does). By default an epoch is one round; with `steps` it ends after this number of batches, and the next
    epoch continues from there. The unlabelled items are shuffled again each time all of them were shown. The batches
    of an epoch depend only on its number and the seed. In distributed training, each process takes its own B and U
    items of every step.

    With `balanced`, the labelled items of a round are not each item once but a part of a `BalancedOrder`, of the same
    length. There are two such orders, for rounds by turns, because of `ReplayedViews`, which shows all items of a round
    in stored views or all in new ones.

    Args:
        dataset: the items.
        batch_size: B, per process.
        unlabelled_share: s, the fraction of unlabelled items in a batch, in [0, 1): U = B * s / (1 - s), rounded, at
            least 1 if s > 0. Without unlabelled items U is 0.
        steps: batches per epoch; None for one round.
        seed: of the shuffling.
        balanced: show all classes equally often, see `BalancedOrder`.

    Attributes:
        size: items in a batch, B + U.

    Raises:
        ValueError: a share outside [0, 1), fewer than 1 step, or (balanced) a class without items.

    Example:
        >>> import torch
        >>> from monai.transforms import ScaleIntensityd
        >>> from monai_rd.cache import SkippingCacheDataset, TrainingBatches, TrainingItems
        >>> item, scale = {"image": torch.rand(3, 8, 8)}, ScaleIntensityd("image")
        >>> items = TrainingItems(SkippingCacheDataset([item] * 4, scale), SkippingCacheDataset([item] * 6, scale))
        >>> batches = TrainingBatches(items, batch_size=2, unlabelled_share=0.5)
        >>> [len(batch) for batch in batches]
        [4, 4]
        >>> sum(view.item >= 4 for batch in batches for view in batch)  # the unlabelled items are 4 to 9
        4
    """

    def __init__(
        self,
        dataset: TrainingItems,
        batch_size: int,
        unlabelled_share: float = 0.75,
        steps: int | None = None,
        seed: int = 0,
        balanced: bool = False,
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
        self._balanced: list[BalancedOrder] = []
        if balanced:
            labels = labels_of(dataset.labelled.data)
            self._balanced = [BalancedOrder(labels, seed, stream) for stream in (0, 1)]

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch, from 1."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[ItemView]]:
        """Yield the batches of this process in the epoch."""
        processes, first = world_size(), (self._epoch - 1) * self.steps
        orders = ShuffledOrders(self.seed)
        for step in range(first, first + self.steps):
            turn, place = divmod(step, self.round)
            own = _share_of_process(place * self.batch_size * processes, self.batch_size)
            if self._balanced:
                labelled = [self._of_balanced(turn, at) for at in own]
            else:
                labelled = [ItemView(orders.of(0, self.labelled, turn)[at], turn) for at in own]
            others = []
            for at in _share_of_process(step * self.unlabelled_size * processes, self.unlabelled_size):
                turn, place = divmod(at, self.unlabelled)
                others.append(ItemView(self.labelled + orders.of(1, self.unlabelled, turn)[place], turn))
            yield labelled + others

    def _of_balanced(self, turn: int, at: int) -> ItemView:
        """Return the item at a position of a round of the balanced orders."""
        before, stream = divmod(turn, len(self._balanced))
        shown = self.round * self.batch_size * world_size()
        item, again = self._balanced[stream].at(before * shown + at)
        return ItemView(item, again * len(self._balanced) + stream)


def _share_of_process(first: int, count: int) -> range:
    """Positions of this process's `count` items in a step whose items (of all processes) begin at `first`."""
    return range(first + rank() * count, first + (rank() + 1) * count)


class Loaders:
    """Makes MONAI `DataLoader`s with common settings.

    Batches are collated by `bag_collate`, and put in pinned memory if they go to a GPU. Items that are already on the
    GPU are loaded without worker processes.

    Args:
        batch_size: items in a batch, per process.
        num_workers: number of worker processes that load data.
        device: where the batches are used.

    Example:
        >>> import torch
        >>> from monai.data import Dataset
        >>> from monai_rd.cache import Loaders
        >>> items = Dataset([{"image": torch.rand(1, 3, 8, 8), "label": 0}] * 5)
        >>> [len(batch["image"]) for batch in Loaders(batch_size=2).whole(items)]
        [2, 2, 1]
    """

    def __init__(self, batch_size: int, num_workers: int = 0, device: torch.device | str = "cpu") -> None:
        self.batch_size, self.num_workers, self.device = batch_size, num_workers, device

    def batched(self, dataset: Dataset, batches: TrainingBatches) -> DataLoader:
        """Return a loader of a training's batches."""
        return self._loader(dataset, batch_sampler=batches)

    def shuffled(self, dataset: Dataset, balanced: bool = False, seed: int = 0) -> DataLoader:
        """Return a loader of full batches, shuffled in each epoch; each process gets its share.

        Args:
            dataset: the items.
            balanced: show all classes equally often, see `BalancedSampler`.
            seed: of the balanced order; otherwise torch's random state decides.
        """
        if balanced:
            sampler: Sampler = BalancedSampler(labels_of(dataset.data), seed)
            return self._loader(dataset, batch_size=self.batch_size, sampler=sampler, drop_last=True)
        if world_size() == 1:
            return self._loader(dataset, batch_size=self.batch_size, shuffle=True, drop_last=True)
        sampler = DistributedSampler(dataset, even_divisible=True, shuffle=True)
        return self._loader(dataset, batch_size=self.batch_size, sampler=sampler, drop_last=True)

    def shared(self, dataset: Dataset) -> DataLoader:
        """Return a loader of all items in order; each process gets its share."""
        sampler = None
        if world_size() > 1:
            sampler = DistributedSampler(dataset, even_divisible=False, shuffle=False)
        return self._loader(dataset, batch_size=self.batch_size, sampler=sampler)

    def whole(self, dataset: Dataset) -> DataLoader:
        """Return a loader of all items in order, the same in every process."""
        return self._loader(dataset, batch_size=self.batch_size)

    def _loader(self, dataset: Dataset, **settings: Any) -> DataLoader:
        settings |= loading_settings(dataset, self.num_workers, self.device)
        return DataLoader(dataset, collate_fn=bag_collate, **settings)
