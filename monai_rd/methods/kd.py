r"""Knowledge distillation on logits: the student learns the softened predictions of a teacher fitted to the task.

Hinton, Vinyals & Dean, NIPS 2014 workshop, arXiv 1503.02531:

$$L = w_\mathrm{CE}\,\mathrm{CE}(y, z_s)
+ w_\mathrm{KD}\,T^2\,\mathrm{KL}(\mathrm{softmax}(z_t/T) \,\|\, \mathrm{softmax}(z_s/T))$$
"""

from __future__ import annotations

from torch import Tensor

from monai_rd.losses import KLDistillationLoss
from monai_rd.methods.base import Method, Step
from monai_rd.networks import FrozenFoundationModel, Reads, Student

__all__ = ["KnowledgeDistillation"]


class KnowledgeDistillation(Method):
    """KD: KL divergence summed over classes and averaged over the batch ("batchmean"); it has no trainable parts.

    RepDistiller weights 0.1 CE + 0.9 KD, SemCKD's code 1 + 1. The default is 1 + 1: every other method here keeps the
    student's cross entropy at 1, so the methods differ only in the added term; and for the labelled images, a teacher
    fitted to a few hundred labels knows no more than the labels themselves.

    For multi-label data, each class is its own distribution (Bernoulli KL), averaged over the classes.

    Args:
        temperature: T > 0; RepDistiller uses 4, RD's own KL term 1.
        ce_weight: w_CE, constant over the training.
        kd_weight: w_KD, constant over the training.

    Raises:
        ValueError: the temperature is not above 0.
    """

    needs_logits = True

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        temperature: float = 4.0,
        ce_weight: float = 1.0,
        kd_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, labels)
        self.reads, self.constant_weights = Reads(logits=True), {"student_ce": ce_weight, "kd": kd_weight}
        self.kl = KLDistillationLoss(temperature, self.multi_label)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the term `kd`, computed from the logits `[B, classes]` of student and teacher."""
        return {"kd": self.kl(step.student.logits, step.teacher_features.logits)}
