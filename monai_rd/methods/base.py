"""What every distillation method is to the co-training handler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["Method", "trainable_parameters", "unwrapped"]


class Method(nn.Module, ABC):
    """Gives named loss terms beside the student's own cross entropy, and owns whatever it trains for them."""

    needs_teacher: bool = True

    @classmethod
    @abstractmethod
    def build(
        cls, student: Student, teacher: FrozenFoundationModel | None, multi_label: bool = False, **options: Any
    ) -> Method:
        """Build the method with the widths of this student and teacher."""

    @abstractmethod
    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each loss term at `progress`, from 0 in the first epoch to 1 in the last."""

    @abstractmethod
    def forward(
        self,
        student_features: Tensor,
        student_logits: Tensor,
        teacher_features: Tensor | None,
        classifier: nn.Module,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """Compute the unweighted loss terms of one batch.

        Args:
            student_features: f_s `[B, D]`.
            student_logits: z_s `[B, classes]`.
            teacher_features: F_t(x), map or vector, with or without the bag axis; None for a method that needs none.
            classifier: g, the linear layer `[B, D]` to `[B, classes]` that belongs to the student.
            target: class indices `[B]`; multi-label 0 or 1 for each class, `[B, classes]`.

        Returns:
            Scalars by name, with the names of `weights`.
        """


def trainable_parameters(network: nn.Module, method: nn.Module) -> list[nn.Parameter]:
    """All parameters that one optimizer trains: the student's with its classifier, then the method's own."""
    return [parameter for module in (network, method) for parameter in module.parameters() if parameter.requires_grad]


def unwrapped(module: nn.Module) -> nn.Module:
    """The module itself, without the wrapper of DistributedDataParallel."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
