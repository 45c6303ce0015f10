"""What stands for a label that is missing, in data lists, batches and losses."""

from __future__ import annotations

__all__ = ["NO_LABEL"]

# The class index of an item without a label, and of a multi-label one the value of a class of which nothing is known.
# It is what `torch.nn.functional.cross_entropy` leaves out by default.
NO_LABEL = -100
