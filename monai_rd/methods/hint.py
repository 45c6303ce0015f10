r"""Hint: one of the student's maps, through a small regressor, is trained to predict one of the teacher's maps.

Romero et al., "FitNets", ICLR 2015, arXiv 1412.6550, Eq. 3, with the student's map $A_s$, the teacher's $A_t$ and the
regressor $r$:

$$L = \mathrm{mean}\,(r(A_s) - A_t)^2$$
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_rd.methods.base import Method, Step
from monai_rd.methods.maps import shrink_to_common
from monai_rd.networks import FrozenFoundationModel, Reads, Student
from monai_rd.networks.levels import nearest_level, pair_levels
from monai_rd.networks.reprogramming import conv_norm
from monai_rd.networks.teacher.standardisation import RunningStandardisation

__all__ = ["Hint"]


class Hint(Method):
    """Hint on one pair of levels, by default those of stride 16 (maps of 14 x 14 at 224 pixels).

    Differences from the reference code (RepDistiller), and why:

    - Maps of different size are average-pooled to the smaller size; the regressor is a 1x1 convolution and batch
      normalisation. There it is a convolution whose kernel bridges the difference in size, 43 x 43 from 56 to 14.
    - The target is standardised by each channel's running mean and variance (buffers, saved and resumed), because the
      scales of teachers differ by orders of magnitude. The best constant prediction then has a loss of 1. The default
      weight is 10, at which the term's gradient in the paper's three students began at 0.3 to 0.7 times that of the
      cross entropy (224 pixels, a random ResNet50), and not the 100 that was chosen for the raw maps of CIFAR.
    - There is no ReLU after the regressor, which could not predict the negative values of a standardised map.

    Under DDP the target's statistics are those of all processes; the regressor's batch normalisation, like the
    student's, is separate in each process unless it is converted to SyncBatchNorm. For bags, each slice is one sample.

    Args:
        stride: stride of the student's level in input pixels per position, at least 1; the nearest existing level is
            used, with the teacher's level that is paired with it.
        weight: weight of the term, constant over the training.

    Raises:
        ValueError: a stride below 1, or a network whose feature maps cannot be read.
    """

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        stride: int = 16,
        weight: float = 10.0,
    ) -> None:
        super().__init__(student, teacher, labels)
        if stride < 1:
            raise ValueError(f"the stride of a hint is at least 1, got {stride}")
        ((ours, theirs),) = pair_levels([nearest_level(student.levels, stride)], teacher.levels)
        self.student_levels, self.reads, self.constant_weights = (ours,), Reads(levels=(theirs,)), {"hint": weight}
        self.regressor = conv_norm(ours.channels, theirs.channels, 1, self.spatial_dims, relu=False)
        self.standardise = RunningStandardisation(theirs.channels)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the term `hint`, computed from one map `[N, C, h, w]` of student and teacher."""
        ours, theirs = shrink_to_common(step.student.maps[0], step.teacher_features.maps[0])
        answer = self.regressor(ours)
        with torch.autocast(device_type=answer.device.type, enabled=False):
            return {"hint": F.mse_loss(answer.float(), self.standardise(theirs))}
