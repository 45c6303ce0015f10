"""The student trained with cross entropy alone: the baseline for all methods."""

from __future__ import annotations

from torch import Tensor

from monai_rd.methods.base import Method, Step

__all__ = ["CrossEntropyAlone"]


class CrossEntropyAlone(Method):
    """Trains the student with cross entropy alone, without a teacher; it has no options."""

    needs_teacher = False
    takes_unlabelled = False

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return no terms."""
        return {}
