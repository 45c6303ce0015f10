"""Orders in which a training shows its items: shuffled, or with all classes equally often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from monai_rd.processes import derived_seed, rank, world_size

__all__ = ["BalancedOrder", "BalancedSampler", "ShuffledOrders", "labels_of"]


class ShuffledOrders:
    """The shuffled orders of several kinds of things, each in rounds; of each kind the last round is kept.

    Args:
        seed: of the shuffling.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._last: dict[int, tuple[int, list[int]]] = {}

    def of(self, kind: int, count: int, turn: int) -> list[int]:
        """Return the order of `count` things of a kind in a round; `kind` and `turn` are numbers from 0."""
        if self._last.get(kind, (-1, []))[0] != turn:
            seed = derived_seed(self.seed, turn, kind)
            self._last[kind] = turn, torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        return self._last[kind][1]


class BalancedOrder:
    """An endless order of items that shows all classes equally often (class-aware sampling).

    The classes follow each other in rounds, each class once, shuffled again in every round. The items of a class are
    shuffled, and shuffled again when all of them were shown: rare ones return often, none is left out. An item with
    several labels belongs to each of its classes; those without any are one more class.

    Args:
        labels: class indices `[n]`; multi-label: rows of 0 and 1 `[n, classes]`.
        seed: of the shuffling.
        stream: number of the order; orders of other numbers are independent of it.

    Raises:
        ValueError: a multi-label class has no item, or single-label classes that are not numbered from 0 on.
    """

    def __init__(self, labels: np.ndarray, seed: int, stream: int = 0) -> None:
        if labels.ndim == 1:
            self.classes = [np.flatnonzero(labels == index) for index in range(int(labels.max(initial=-1)) + 1)]
        else:
            self.classes = [np.flatnonzero(column == 1) for column in labels.T]
        if not self.classes or any(len(members) == 0 for members in self.classes):
            raise ValueError("a class has no training item that can be read: it cannot be shown as often as the others")
        if labels.ndim == 2 and len(none := np.flatnonzero((labels != 1).all(axis=1))):
            self.classes.append(none)
        self._orders = ShuffledOrders(seed)
        self._first = 2 + stream * (len(self.classes) + 1)  # 0 and 1 are the kinds of `TrainingBatches`

    def at(self, position: int) -> tuple[int, int]:
        """Return the item at a position from 0, and how often its class has shown all of its items before."""
        turn, place = divmod(position, len(self.classes))
        chosen = self._orders.of(self._first, len(self.classes), turn)[place]
        members = self.classes[chosen]
        again, at = divmod(turn, len(members))
        return int(members[self._orders.of(self._first + 1 + chosen, len(members), again)[at]]), again


class BalancedSampler(Sampler[int]):
    """A sampler whose epochs are parts of a `BalancedOrder`, each as long as the list of items.

    In distributed training each process takes its own share.

    Args:
        labels: see `BalancedOrder`.
        seed: of the shuffling.

    Raises:
        ValueError: see `BalancedOrder`.
    """

    def __init__(self, labels: np.ndarray, seed: int = 0) -> None:
        self.seed, self._items, self._order, self._epoch = seed, len(labels), BalancedOrder(labels, seed), 1

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch, from 1."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._items // world_size()

    def __iter__(self) -> Iterator[int]:
        """Yield this process's items of the epoch."""
        first = (self._epoch - 1) * len(self) * world_size()
        for place in range(len(self)):
            yield self._order.at(first + place * world_size() + rank())[0]


def labels_of(items: Sequence[Any]) -> np.ndarray:
    """Return the labels of a data set's items: class indices `[n]`, or multi-label rows `[n, classes]`."""
    return np.stack([np.asarray(item["label"]) for item in items])
