"""The student trained alone with cross entropy: the baseline that every method is held against."""

from __future__ import annotations

from torch import Tensor

from monai_rd.methods.base import Method, Step

__all__ = ["CrossEntropyAlone"]


class CrossEntropyAlone(Method):
    """No teacher and no term beside the trainer's own cross entropy; it takes no options."""

    needs_teacher = False
    takes_unlabelled = False

    def forward(self, step: Step) -> dict[str, Tensor]:
        """No terms."""
        return {}
