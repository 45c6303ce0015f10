r"""RD's ablation in two stages: first the teacher path, then the student, instead of both at once.

With the parts of RD (`monai_rd.methods.rd`), the first half of the epochs trains only $\phi$ and $g_t$, the second half
only $F_s$ and $g$, which starts as a copy of the trained $g_t$:

$$L_1 = \mathrm{CE}(y, g_t(\phi(F_t(x)))),\qquad
L_2 = \mathrm{CE}(y, z_s) + \beta\,(\mathrm{KL}(z_t \| z_s) + L_\mathrm{CKA}(f_t, f_s))$$

It is the staged training of TDMR (arXiv 2304.02263) with two stages; TDMR's progressive distillation through
intermediate networks is not implemented.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from monai_rd.losses import CKALoss, Estimator, KLDistillationLoss
from monai_rd.methods.base import Method, Step, gather_batch, linear
from monai_rd.networks import FrozenFoundationModel, Reads, Reprogrammers, Student

__all__ = ["TwoStages"]


class TwoStages(Method):
    """RD in two stages: trains phi with its own classifier g_t first, then the student with both of them frozen.

    g_t is initialised as a copy of g. Parameters that a stage does not train get no gradient, so neither momentum nor
    weight decay changes them, and the optimizer has no state for them when their stage begins. In the second stage phi
    runs in eval mode and without a graph. Both classifiers and the stage are in the method's state dict.

    Args:
        beta: weight of KL and CKA in the first and in the last epoch of the second stage, linear in between.
        temperature: temperature of KL.
        estimator: CKA's estimator, "biased" or "unbiased".
        width: number of channels inside phi.
        blocks: number of residual blocks of phi.
        grid: the teacher's maps are average-pooled to at most this many positions per side, see `Reprogrammer`; None
            for no limit.

    Raises:
        ValueError: an invalid value for `Reprogrammer`, `CKALoss` or `KLDistillationLoss`.
    """

    always_trains_student = False
    in_stages = True
    handed_over: Tensor

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        beta: tuple[float, float] = (1.0, 0.0),
        temperature: float = 1.0,
        estimator: Estimator = "biased",
        width: int = 512,
        blocks: int = 2,
        grid: int | None = 4,
    ) -> None:
        super().__init__(student, teacher, labels)
        self.reads = Reads(tap=True, grid=grid)
        ends = teacher.parts, student.feature_dim, teacher.kind
        self.phi = Reprogrammers(*ends, width, blocks, self.spatial_dims, grid)
        self.classifier = copy.deepcopy(student.classifier)
        self.kl = KLDistillationLoss(temperature, self.multi_label)
        self.cka, self.beta = CKALoss(estimator), beta
        self.second = False
        self.register_buffer("handed_over", torch.tensor(False))

    def start_epoch(self, progress: float, student: Student) -> None:
        """Choose the stage; at the start of the second stage copy g_t's weights to the student's classifier."""
        self.second = progress >= 0.5
        if self.second and not self.handed_over:
            student.classifier.load_state_dict(self.classifier.state_dict())
            self.handed_over.fill_(True)

    def frozen_parameters(self, student: Student) -> list[nn.Parameter]:
        """Return the student's parameters in the first stage, those of phi and g_t in the second."""
        return list((self if self.second else student).parameters())

    def weights(self, progress: float) -> dict[str, float]:
        """Return the weights of L_1 or L_2, depending on the stage, with beta interpolated over the second stage."""
        if progress < 0.5:
            return {"student_ce": 0.0, "teacher_ce": 1.0, "kl": 0.0, "cka": 0.0}
        beta = linear(self.beta, 2 * progress - 1)
        return {"student_ce": 1.0, "teacher_ce": 0.0, "kl": beta, "cka": beta}

    def teacher_path(self, student: Student) -> nn.Module:
        """Return phi followed by g_t."""
        return nn.Sequential(self.phi, self.classifier)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the terms `teacher_ce`, `kl` and `cka`; those with weight 0 in this stage have no graph."""
        learning = torch.is_grad_enabled()
        self.phi.train(self.training and not self.second)
        with torch.set_grad_enabled(learning and not self.second):
            f = self.phi.each(step.teacher_features.tap)
            z = self.classifier(f)
            f_t, z_t = f.mean(dim=0), z.mean(dim=0)
            terms = {"teacher_ce": step.mean_criterion(z)}
        self.keep_path(step, f_t, z_t)
        with torch.set_grad_enabled(learning and self.second):
            terms["kl"] = self.kl(step.student.logits, z_t)
            terms["cka"] = self.cka(gather_batch(step.student.pooled), gather_batch(f_t))
        return terms
