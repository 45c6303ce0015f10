"""The student trained alone with cross entropy: the baseline that every method is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from monai_rd.methods.base import Method

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["CrossEntropyAlone"]


class CrossEntropyAlone(Method):
    """No teacher and no term beside the trainer's own cross entropy."""

    needs_teacher = False

    @classmethod
    def build(
        cls, student: Student, teacher: FrozenFoundationModel | None, multi_label: bool = False, **options: Any
    ) -> CrossEntropyAlone:
        """Build it; it takes no options, and a teacher is not used.

        Raises:
            ValueError: an option was given.
        """
        if options:
            raise ValueError(f"the method 'ce' takes no options, got: {', '.join(options)}")
        return cls()

    def weights(self, progress: float) -> dict[str, float]:
        """No terms, no weights."""
        return {}

    def forward(
        self,
        student_features: Tensor,
        student_logits: Tensor,
        teacher_features: Tensor | None,
        classifier: nn.Module,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """No terms."""
        return {}
