r"""Reprogramming Distillation, arXiv 2407.06504.

With the frozen teacher $F_t$, the student $F_s$, the reprogramming module $\phi$ and the shared classifier $g$,

$$f_s = F_s(x),\quad z_s = g(f_s),\quad f_t = \phi(F_t(x)),\quad z_t = g(f_t)$$
$$L = \mathrm{CE}(y, z_s) + \alpha\,\mathrm{CE}(y, z_t) + \beta\,(\mathrm{KL}(z_t \| z_s) + L_\mathrm{CKA}(f_t, f_s))
\qquad (3)$$

The first term is the trainer's own loss; this method gives the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist

from monai_rd.losses import CKALoss, ClassificationLoss, KLDistillationLoss
from monai_rd.losses.cka import Estimator
from monai_rd.methods.base import Method
from monai_rd.networks.reprogramming import Reprogrammer

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["ReprogrammingDistillation", "gather_batch"]


def gather_batch(features: Tensor) -> Tensor:
    """Features of the global batch `[ranks * B, D]` with gradient, or `features` itself in a single process.

    Every rank then computes the same CKA of the whole batch. The backward pass sums the ranks' gradients, which DDP's
    averaging turns into the gradient of that one CKA. All ranks must hold the same B (drop_last).
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(features)))


class ReprogrammingDistillation(Method):
    """RD: co-trains phi and g on the frozen teacher's features and pulls the student towards them.

    Args:
        channels: C of the teacher's features.
        feature_dim: D of the student's features.
        kind: "map" or "vector", what the teacher gives.
        alpha: weight of the teacher path's cross entropy in the first and in the last epoch, linear between.
        beta: weight of KL and CKA, likewise.
        temperature: of the KL term; 1 in the paper.
        estimator: of CKA; "biased" in the paper.
        detach_teacher: stop the gradient of KL and CKA into phi and, by way of z_t, into g. The paper says only that
            the foundation model is fixed, so the default lets it flow.
        width: channels inside phi.
        blocks: residual blocks of phi.
        multi_label: an image may have any number of the classes: both cross entropies are binary, KL is by class.
        spatial_dims: 3 for a teacher and a student of volumes.

    Raises:
        ValueError: what `Reprogrammer`, `CKALoss` and `KLDistillationLoss` refuse.
    """

    def __init__(
        self,
        channels: int,
        feature_dim: int,
        kind: Literal["map", "vector"] = "map",
        *,
        alpha: tuple[float, float] = (1.0, 0.0),
        beta: tuple[float, float] = (1.0, 0.0),
        temperature: float = 1.0,
        estimator: Estimator = "biased",
        detach_teacher: bool = False,
        width: int = 512,
        blocks: int = 2,
        multi_label: bool = False,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        self.phi = Reprogrammer(channels, feature_dim, kind, width=width, blocks=blocks, spatial_dims=spatial_dims)
        self.ce = ClassificationLoss(multi_label)
        self.kl, self.cka = KLDistillationLoss(temperature, multi_label), CKALoss(estimator)
        self.alpha, self.beta, self.detach_teacher = alpha, beta, detach_teacher

    @classmethod
    def build(
        cls, student: Student, teacher: FrozenFoundationModel | None, multi_label: bool = False, **options: Any
    ) -> ReprogrammingDistillation:
        """Build RD with the widths of this student and teacher.

        Raises:
            ValueError: no teacher, or one of them reads volumes and the other images.
        """
        if teacher is None:
            raise ValueError("the method 'rd' needs a teacher: give --teacher NAME or FILE, or use --method ce")
        if teacher.spatial_dims != student.spatial_dims:
            reads = {2: "images or slices", 3: "volumes"}
            raise ValueError(
                f"the teacher '{teacher.name}' reads {reads[teacher.spatial_dims]}, the student "
                f"{reads[student.spatial_dims]}: choose another --student (`monai-rd students` lists both kinds) or "
                "--teacher"
            )
        return cls(
            teacher.channels,
            student.feature_dim,
            teacher.kind,
            multi_label=multi_label,
            spatial_dims=teacher.spatial_dims,
            **options,
        )

    def weights(self, progress: float) -> dict[str, float]:
        """Alpha and beta, linear between their first and last value."""
        alpha, beta = (first + (last - first) * progress for first, last in (self.alpha, self.beta))
        return {"teacher_ce": alpha, "kl": beta, "cka": beta}

    def forward(
        self,
        student_features: Tensor,
        student_logits: Tensor,
        teacher_features: Tensor | None,
        classifier: nn.Module,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """Terms of Eq. 3 beside CE(y, z_s): `teacher_ce` CE(y, z_t), `kl` KL(z_t || z_s), `cka` L_CKA(f_t, f_s)."""
        if teacher_features is None:
            raise ValueError("RD got no teacher features")
        f_t = self.phi(teacher_features)
        z_t = classifier(f_t)
        teacher_ce = self.ce(z_t, target)
        if self.detach_teacher:
            f_t, z_t = f_t.detach(), z_t.detach()
        cka = self.cka(gather_batch(student_features), gather_batch(f_t))
        return {"teacher_ce": teacher_ce, "kl": self.kl(student_logits, z_t), "cka": cka}
