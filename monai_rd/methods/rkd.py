"""Relational knowledge distillation: Park et al., CVPR 2019, arXiv 1904.05068; formulas in `losses.relational`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from monai_rd.losses.relational import angle_loss, distance_loss
from monai_rd.methods.base import Method, Step, gather_batch
from monai_rd.networks import FrozenFoundationModel, Reads, Student

__all__ = ["RelationalDistillation"]


class RelationalDistillation(Method):
    """RKD: distances and angles between the pooled features of a batch; it has no trainable parts.

    Pooled features are the mean over positions and, for a study, over slices. The batch is the global batch of all
    processes; memory grows with the third power of its size. Equal samples have the distance 0 and are excluded from
    the mean distance, where RepDistiller's clamp gives them 1e-6.

    Args:
        distance_weight: weight of the term `distance`, constant over the training.
        angle_weight: weight of the term `angle`, constant over the training.
        normalise: divide the features by their Euclidean length first, as mmrazor does; RepDistiller does not.
    """

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        normalise: bool = False,
    ) -> None:
        super().__init__(student, teacher, labels)
        self.reads, self.normalise = Reads(pooled=True), normalise
        self.constant_weights = {"distance": distance_weight, "angle": angle_weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the terms `distance` and `angle`, computed from pooled features `[B, D]` and `[B, C]`."""
        ours, theirs = gather_batch(step.student.pooled), gather_batch(step.teacher_features.pooled)
        if self.normalise:
            ours, theirs = F.normalize(ours.float(), dim=1), F.normalize(theirs.float(), dim=1)
        return {"distance": distance_loss(ours, theirs), "angle": angle_loss(ours, theirs)}
