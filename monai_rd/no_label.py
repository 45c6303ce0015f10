"""What stands for a label that is missing, in data lists, batches and losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NO_LABEL", "unlabelled_items"]

# The class index of an item without a label, and of a multi-label one the value of a class of which nothing is known.
# It is what `torch.nn.functional.cross_entropy` leaves out by default.
NO_LABEL = -100


def unlabelled_items(target: Tensor) -> Tensor:
    """Which items of a batch's labels `[B]`, multi-label `[B, classes]`, have none, bool `[B]`."""
    return (target == NO_LABEL).reshape(len(target), -1).all(1)
