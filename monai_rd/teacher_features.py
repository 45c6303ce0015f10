"""Precomputed teacher features in an item or a batch.

The key `TEACHER_FEATURES` holds the features by name, as returned by `networks.features.to_rows`, if they were
computed beforehand, or `UNSEEN`. Without the key the teacher is run in the training step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["TEACHER_FEATURES", "UNSEEN", "is_unseen", "stored_features"]

TEACHER_FEATURES = "teacher_features"

# The value for a view without teacher features, which the student learns from its label alone. It is an empty mapping
# because collating a batch leaves that unchanged.
UNSEEN: Mapping[str, Tensor] = {}


def is_unseen(batch: Mapping[str, Any]) -> bool:
    """Return whether the views of a batch have no teacher features and the teacher is not to be run on them."""
    return batch.get(TEACHER_FEATURES) == UNSEEN


def stored_features(batch: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
    """Return the precomputed teacher features by name, None if there are none."""
    return batch.get(TEACHER_FEATURES) or None
