"""What an item or a batch brings of the teacher: features of its view, or word that no teacher saw it.

Under the key `TEACHER_FEATURES` stand the parts by name that `networks.features.to_rows` gives, where they were
computed beforehand, or `UNSEEN`. Without the key the teacher is asked in the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["TEACHER_FEATURES", "UNSEEN", "is_unseen", "stored_features"]

TEACHER_FEATURES = "teacher_features"

# What stands there of a view that no teacher saw: the student learns it from its label alone. It is a mapping without
# parts because collating the items of a batch leaves that as it is.
UNSEEN: Mapping[str, Tensor] = {}


def is_unseen(batch: Mapping[str, Any]) -> bool:
    """Whether no teacher saw the views of a batch, and none is to be asked."""
    return batch.get(TEACHER_FEATURES) == UNSEEN


def stored_features(batch: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
    """The parts that were computed beforehand; None where there are none."""
    return batch.get(TEACHER_FEATURES) or None
