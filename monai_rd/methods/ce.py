"""The student trained alone with cross entropy: the baseline that every method is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from monai_rd.methods.base import Method, Step

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["CrossEntropyAlone"]


class CrossEntropyAlone(Method):
    """No teacher and no term beside the trainer's own cross entropy."""

    needs_teacher = False
    takes_unlabelled = False

    @classmethod
    def build(
        cls, student: Student, teacher: FrozenFoundationModel, labels: Tensor, **options: Any
    ) -> CrossEntropyAlone:
        """Build it; it takes no options, and a teacher is not used."""
        return cls()

    def weights(self, progress: float) -> dict[str, float]:
        """No terms, no weights."""
        return {}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """No terms."""
        return {}
