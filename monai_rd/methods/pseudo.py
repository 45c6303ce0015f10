r"""Soft pseudo-labels: on unlabelled images the student learns the predictions of a teacher fitted to the task.

With the unlabelled items $u$ of a batch and the fitted teacher's logits $z_t$ (distillation on unlabelled images as in
Chen et al., NeurIPS 2020, arXiv 2006.10029, Eq. 2, where the student learns from unlabelled images alone),

$$L = \mathrm{CE}(y, z_s) + w\,\Big(-\frac{1}{|u|}\sum_{i \in u} \sum_c
\mathrm{softmax}(z_{t,i}/T)_c\,\log\mathrm{softmax}(z_{s,i}/T)_c\Big)$$
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_rd.losses import class_probabilities
from monai_rd.methods.base import Method, Step
from monai_rd.networks import FrozenFoundationModel, Reads, Student

__all__ = ["PseudoLabels"]


class PseudoLabels(Method):
    """Cross entropy with the teacher's soft predictions on unlabelled images, and with the labels on the others.

    It is the baseline for methods that use the teacher's features: it uses unlabelled images only by labelling them.
    For multi-label data the term is the binary cross entropy of each class, averaged over the classes.

    Args:
        temperature: T > 0, for teacher and student.
        weight: w, constant over the training.

    Raises:
        ValueError: the temperature is not above 0.
    """

    needs_logits = True
    needs_unlabelled = True

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        temperature: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, labels)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.reads, self.constant_weights = Reads(logits=True), {"pseudo_ce": weight}
        self.temperature = temperature

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the term `pseudo_ce`, computed from the logits of the unlabelled items."""
        with torch.autocast(device_type=step.target.device.type, enabled=False):
            student, teacher = (
                z.float() / self.temperature for z in (step.student.logits, step.teacher_features.logits)
            )
            target = class_probabilities(teacher, self.multi_label)
            if self.multi_label:
                losses = F.binary_cross_entropy_with_logits(student, target, reduction="none").mean(1)
            else:
                losses = F.cross_entropy(student, target, reduction="none")
            return {"pseudo_ce": (losses * step.unlabelled).sum() / step.unlabelled.sum().clamp(min=1)}
