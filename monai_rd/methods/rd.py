r"""Reprogramming Distillation, arXiv 2407.06504.

Eq. 3 with the frozen teacher $F_t$, the student $F_s$, the reprogramming module $\phi$ and the shared classifier $g$.

$$f_s = F_s(x),\quad z_s = g(f_s),\quad f_t = \phi(F_t(x)),\quad z_t = g(f_t)$$
$$L = \mathrm{CE}(y, z_s) + \alpha\,\mathrm{CE}(y, z_t) + \beta\,(\mathrm{KL}(z_t \| z_s) + L_\mathrm{CKA}(f_t, f_s))$$
"""

from __future__ import annotations

from types import MappingProxyType

from torch import Tensor, nn

from monai_rd.losses import CKALoss, Estimator, KLDistillationLoss
from monai_rd.methods.base import Method, Step, gather_batch, linear
from monai_rd.networks import FrozenFoundationModel, Reads, Reprogrammers, Student

__all__ = ["ReprogrammingDistillation"]


class ReprogrammingDistillation(Method):
    """RD: co-trains phi and g on the frozen teacher's features, and aligns the student with them by KL and CKA.

    Args:
        alpha: weight of the teacher path's cross entropy in the first and in the last epoch, linear in between.
        beta: weight of KL and CKA in the first and in the last epoch, linear in between.
        temperature: temperature of KL; 1 in the paper.
        estimator: CKA's estimator, "biased" (the paper's) or "unbiased".
        detach_teacher: no gradient of KL and CKA into phi and, through z_t, into g. The paper says only that the
            foundation model is fixed.
        calibrated: KL uses calibrated logits of the teacher path, see `KLDistillationLoss`. Not in the paper.
        width, blocks: number of channels inside phi, and of its residual blocks.
        grid: the teacher's maps are average-pooled to at most this many positions per side; None for no limit.
        co_training: False omits CE(y, z_t) (direct reprogramming: phi is only aligned with the student).
        kd: False omits KL.
        cka: False omits CKA.

    Raises:
        ValueError: all terms are omitted, or a value is invalid for phi or a loss.

    Example:
        >>> from monai_rd import methods, networks
        >>> rd = methods.build_method("rd", networks.Student("resnet18"), networks.load_teacher("phantom_ct"), [0, 1])
        >>> rd.weights(progress=0.25)
        {'teacher_ce': 0.75, 'kl': 0.75, 'cka': 0.75}
    """

    unlabelled_options = MappingProxyType({"detach_teacher": True, "beta": [1.0, 1.0], "calibrated": True})

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        alpha: tuple[float, float] = (1.0, 0.0),
        beta: tuple[float, float] = (1.0, 0.0),
        temperature: float = 1.0,
        estimator: Estimator = "biased",
        detach_teacher: bool = False,
        calibrated: bool = False,
        width: int = 512,
        blocks: int = 2,
        grid: int | None = 4,
        co_training: bool = True,
        kd: bool = True,
        cka: bool = True,
    ) -> None:
        super().__init__(student, teacher, labels)
        if not (co_training or kd or cka):
            raise ValueError("RD without co-training, KD and CKA teaches nothing: use --method ce")
        self.reads, self.alpha, self.beta, self.detach_teacher = Reads(tap=True, grid=grid), alpha, beta, detach_teacher
        ends = teacher.parts, student.feature_dim, teacher.kind
        self.phi = Reprogrammers(*ends, width, blocks, self.spatial_dims, grid)
        self.cka, self.kl = CKALoss(estimator), KLDistillationLoss(temperature, self.multi_label, calibrated)
        self.terms = [name for name, on in (("teacher_ce", co_training), ("kl", kd), ("cka", cka)) if on]

    def weights(self, progress: float) -> dict[str, float]:
        """Return alpha for `teacher_ce` and beta for the other terms, interpolated linearly."""
        return {name: linear(self.alpha if name == "teacher_ce" else self.beta, progress) for name in self.terms}

    def teacher_path(self, student: Student) -> nn.Module:
        """Return phi followed by g."""
        return nn.Sequential(self.phi, student.classifier)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return Eq. 3's terms but CE(y, z_s): `teacher_ce` CE(y, z_t), a mean over teachers, `kl` and `cka`."""
        f = self.phi.each(step.teacher_features.tap)
        z = step.network.classifier(f)
        f_t, z_t = f.mean(dim=0), z.mean(dim=0)
        self.keep_path(step, f_t, z_t)
        terms = {"teacher_ce": step.mean_criterion(z)} if "teacher_ce" in self.terms else {}
        if self.detach_teacher:
            f_t, z_t = f_t.detach(), z_t.detach()
        if "kl" in self.terms:
            terms["kl"] = self.kl(step.student.logits, z_t)
        if "cka" in self.terms:
            terms["cka"] = self.cka(gather_batch(step.student.pooled), gather_batch(f_t))
        return terms
