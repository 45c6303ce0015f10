r"""Variational information distillation: a Gaussian model of the teacher's maps given the student's.

Ahn et al., CVPR 2019, arXiv 1904.05835; with a network $\mu$ and a variance for each channel of the teacher

$$L = \mathrm{mean}\;\tfrac{1}{2}\Bigl[\frac{(A_t - \mu(A_s))^2}{\sigma_c^2} + \log\sigma_c^2\Bigr],
\qquad \sigma_c^2 = \log(1 + e^{\rho_c}) + 10^{-5}$$
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.methods.base import Method, Step
from monai_rd.methods.maps import convolution, shrink_to_common
from monai_rd.networks import FrozenFoundationModel, Reads, Student
from monai_rd.networks.levels import pair_levels

__all__ = ["VariationalInformationDistillation"]

_LEAST, _FIRST = 1e-5, 5.0  # smallest and initial variance


class _Gaussian(nn.Module):
    """Gaussian model of one level: three 1x1 convolutions of the teacher's width, without biases or normalisation."""

    def __init__(self, student: int, teacher: int, dims: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            convolution(student, teacher, 1, dims, bias=False),
            nn.ReLU(inplace=True),
            convolution(teacher, teacher, 1, dims, bias=False),
            nn.ReLU(inplace=True),
            convolution(teacher, teacher, 1, dims, bias=False),
        )
        self.rho = nn.Parameter(torch.full((teacher,), math.log(math.expm1(_FIRST - _LEAST))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = shrink_to_common(student, teacher)
        mean = self.mean(ours)
        with torch.autocast(device_type=mean.device.type, enabled=False):
            variance = (F.softplus(self.rho) + _LEAST).view(-1, *(1,) * (mean.dim() - 2))
            return 0.5 * ((theirs.float() - mean.float()).square() / variance + variance.log()).mean()


class VariationalInformationDistillation(Method):
    """Variational information distillation (VID): sum of the losses of all paired levels.

    A level's loss is the mean over samples, channels and positions; it may be negative, and starts near 0.80 (half of
    log 5) plus a tenth of the teacher's mean square. The variances start at 5; they are trained and saved, without
    weight decay. If the map sizes differ, the larger map is average-pooled. Teachers with signed maps can be used. For
    bags, each slice is one sample.

    Args:
        weight: weight of the term, constant over the training.

    Raises:
        ValueError: a network whose feature maps cannot be read.
    """

    def __init__(
        self, student: Student, teacher: FrozenFoundationModel, labels: Tensor, *, weight: float = 1.0
    ) -> None:
        super().__init__(student, teacher, labels)
        pairs = pair_levels(student.levels, teacher.levels)
        self.student_levels, theirs = zip(*pairs, strict=True)
        self.reads, self.constant_weights = Reads(levels=theirs), {"vid": weight}
        self.gaussians = nn.ModuleList(
            _Gaussian(mine.channels, other.channels, self.spatial_dims) for mine, other in pairs
        )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the term `vid`, computed from one map `[N, C, h, w]` per level."""
        levels = zip(self.gaussians, step.student.maps, step.teacher_features.maps, strict=True)
        return {"vid": torch.stack([gaussian(ours, theirs) for gaussian, ours, theirs in levels]).sum()}

    def no_weight_decay(self) -> list[nn.Parameter]:
        """Return the parameter rho of every level."""
        return [parameter for name, parameter in self.named_parameters() if name.endswith("rho")]
