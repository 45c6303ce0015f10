"""The value of missing labels in data lists, batches and losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NO_LABEL", "unlabelled_items"]

# Class index of an item without a label; in multi-label data, the value of a class whose presence is unknown.
# `torch.nn.functional.cross_entropy` ignores this index by default.
NO_LABEL = -100


def unlabelled_items(target: Tensor) -> Tensor:
    """Return a bool mask `[B]` of the items without any label, from labels `[B]` or multi-label `[B, classes]`."""
    return (target == NO_LABEL).reshape(len(target), -1).all(1)
