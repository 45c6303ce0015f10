r"""Similarity of the layers of two networks: linear CKA, accumulated over batches.

The minibatch estimator of Nguyen et al. (arXiv 2010.15327, Eq. 2 to 4): with $K_b$, $L_b$ the Gram matrices of one
batch of n items and $\mathrm{HSIC}_1$ of Song et al. (JMLR 13, 2012, Eq. 5),

$$\mathrm{CKA} = \frac{\sum_b \mathrm{HSIC}_1(K_b, L_b)}
{\sqrt{\sum_b \mathrm{HSIC}_1(K_b, K_b)}\,\sqrt{\sum_b \mathrm{HSIC}_1(L_b, L_b)}}$$

It needs only one batch's features in memory, and its expected value does not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LayerCKA", "MinibatchCKA", "item_features"]

POSITIONS = 4  # per side: maps are pooled to 4 x 4 (volumes 4 x 4 x 4) positions
SMALLEST = 4  # HSIC_1 divides by n - 3


class LayerCKA(NamedTuple):
    """CKA between the layers of two networks.

    Args:
        values: `[layers of the first, layers of the second]`, at most 1; unbiased, so possibly slightly negative; NaN
            where a layer is constant over the items.
        first: names of the first network's layers.
        second: names of the second network's layers.
        n: number of items.

    Example:
        >>> import torch
        >>> from monai_rd.report.layers import LayerCKA
        >>> found = LayerCKA(torch.tensor([[0.9, 0.4]]), first=["layer4"], second=["block6", "block12"], n=32)
        >>> found.second[int(found.values[0].argmax())]
        'block6'
    """

    values: Tensor
    first: list[str]
    second: list[str]
    n: int


def item_features(output: Tensor, items: int) -> Tensor:
    """Convert a layer's output to one feature vector per item, for CKA.

    Maps are average-pooled to at most 4 positions per side and flattened, which keeps spatial information and limits
    the size. The slices of a study are averaged, as the student averages them.

    Args:
        output: maps `[items * S, C, h, w]`, for volumes `[items, C, d, h, w]`, or vectors `[items * S, C]`.
        items: number of items in the batch.

    Returns:
        Features `[items, features]` in float32.

    Raises:
        ValueError: a wrong number of rows or dimensions.
    """
    if output.dim() not in (2, 4, 5) or len(output) % items:
        raise ValueError(f"a layer gives maps or vectors of {items} items and their slices, got {list(output.shape)}")
    output = output.detach().float()
    if output.dim() > 2:
        pool: Any = F.adaptive_avg_pool2d if output.dim() == 4 else F.adaptive_avg_pool3d
        output = pool(output, tuple(min(side, POSITIONS) for side in output.shape[2:]))
    return output.flatten(1).unflatten(0, (items, -1)).mean(dim=1)


class MinibatchCKA:
    """Computes the CKA between all layers of two networks from features that arrive batch by batch.

    Items are regrouped into minibatches of a fixed size, so that the loader's batch size, even 1, does not matter; a
    remainder of fewer than 4 items is ignored.

    Args:
        minibatch: number of items in one Gram matrix, at least 4.

    Raises:
        ValueError: a minibatch of fewer than 4.

    Example:
        >>> import torch
        >>> from monai_rd.report.layers import MinibatchCKA
        >>> cka, features = MinibatchCKA(minibatch=8), torch.randn(16, 5)
        >>> cka.update({"layer4": features}, {"block12": 2 * features})
        >>> round(cka.compute().values.item(), 3)
        1.0
    """

    def __init__(self, minibatch: int = 32) -> None:
        if minibatch < SMALLEST:
            raise ValueError(f"a minibatch has at least {SMALLEST} items, got {minibatch}")
        self.minibatch, self.n = minibatch, 0
        self._names: tuple[list[str], list[str]] | None = None
        self._waiting: list[list[Tensor]] = []
        self._sums: list[Tensor] = []  # HSIC of first and second, of first with itself, of second with itself

    def update(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
        """Add the features of one batch.

        Args:
            first: by layer of the first network, features `[items, features]` from `item_features`.
            second: the same for the second network; same items in the same order.

        Raises:
            ValueError: other layers than before, or different numbers of items.
        """
        names = list(first), list(second)
        if self._names is None:
            self._names = names
            self._waiting = [[] for _ in (*first, *second)]
        layers = [*first.values(), *second.values()]
        if names != self._names or len({len(layer) for layer in layers}) != 1:
            raise ValueError("every batch needs the same layers, each with one row for each item")
        for waiting, layer in zip(self._waiting, layers, strict=True):
            waiting.append(layer.detach().cpu())
        while sum(map(len, self._waiting[0])) >= self.minibatch:
            self._take(self.minibatch)

    def _take(self, n: int) -> None:
        """Add the first n waiting items to the sums."""
        assert self._names is not None
        joined = [torch.cat(waiting) for waiting in self._waiting]
        self._waiting = [[layer[n:]] for layer in joined]
        grams = torch.stack([_gram(layer[:n]) for layer in joined])
        split = len(self._names[0])
        a, b = grams[:split], grams[split:]
        found = [_hsic(a, b), _hsic(a, a).diagonal(), _hsic(b, b).diagonal()]
        self._sums = [old + new for old, new in zip(self._sums, found, strict=True)] if self._sums else found
        self.n += n

    def compute(self) -> LayerCKA:
        """Return the CKA over all items added so far.

        Raises:
            ValueError: fewer than 4 items were added.
        """
        if self._names is not None and sum(map(len, self._waiting[0])) >= SMALLEST:
            self._take(sum(map(len, self._waiting[0])))
        if self._names is None or not self._sums:
            raise ValueError(f"CKA between layers needs at least {SMALLEST} items")
        cross, own_a, own_b = self._sums
        scale = (own_a.clamp(min=0).sqrt()[:, None] * own_b.clamp(min=0).sqrt()[None]).float()
        values = torch.where(scale > 0, cross.float() / scale, torch.nan)
        return LayerCKA(values, *self._names, self.n)


def _gram(features: Tensor) -> Tensor:
    """Return the Gram matrix of the centred features in float64, with diagonal 0.

    Centring does not change HSIC_1 except for rounding. A layer that is constant to float32's precision gives 0.
    """
    x = features.double()
    centred = x - x.mean(dim=0)
    if centred.norm() <= torch.finfo(torch.float32).eps * x.norm():
        centred = torch.zeros_like(centred)
    return (centred @ centred.T).fill_diagonal_(0)


def _hsic(a: Tensor, b: Tensor) -> Tensor:
    """Return HSIC_1 `[A, B]` of every pair of Gram matrices `[A, n, n]` and `[B, n, n]` with diagonals 0."""
    n = a.shape[1]
    rows_a, rows_b = a.sum(dim=2), b.sum(dim=2)
    inner = a.flatten(1) @ b.flatten(1).T
    totals = rows_a.sum(dim=1)[:, None] * rows_b.sum(dim=1)[None]
    return (inner + totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows_a @ rows_b.T)) / (n * (n - 3))
