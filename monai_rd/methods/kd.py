r"""Knowledge distillation on logits: the student is pulled to the softened answers of a teacher fitted to the task.

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
    """KD; the KL is summed over classes and averaged over the batch ("batchmean"), and trains nothing of its own.

    RepDistiller weighs 0.1 CE + 0.9 KD, SemCKD's code 1 + 1. The default is 1 + 1: every other method here leaves the
    student's cross entropy at 1, so that they differ by the added term alone, and a teacher that was fitted to some
    hundred labels knows them no better than the labels do.

    Of several classes an image each is a distribution of its own (Bernoulli KL), averaged over the classes.

    Args:
        temperature: T > 0; 4 is RepDistiller's, 1 the one of RD's own KL.
        ce_weight: w_CE, constant over the training.
        kd_weight: w_KD, likewise.

    Raises:
        ValueError: a temperature not above 0.
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
        """Term `kd`, of the logits `[B, classes]` of both."""
        return {"kd": self.kl(step.student.logits, step.teacher_features.logits)}
