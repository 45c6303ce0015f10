r"""Hint: a small regressor makes one of the student's maps equal to one of the teacher's.

Romero et al., "FitNets", ICLR 2015, arXiv 1412.6550, Eq. 3, with the student's map $A_s$, the teacher's $A_t$ and the
regressor $r$:

$$L = \mathrm{mean}\,(r(A_s) - A_t)^2$$
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from monai_rd.methods.base import Method, Step
from monai_rd.methods.maps import shrink_to_common
from monai_rd.networks.features import Reads
from monai_rd.networks.levels import (
    Level,
    nearest_level,
    pair_levels,
    student_levels,
)
from monai_rd.networks.reprogramming import conv_norm
from monai_rd.processes import world_size

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["Hint"]


class RunningStandardisation(nn.Module):
    """Standardises each channel of a frozen network's maps by its mean and variance over all that training has shown.

    The network does not change, so the statistics are those of all batches so far, of all processes, and settle; a
    batch is counted before it is standardised. A channel that hardly varies is divided by a hundredth of the root mean
    square of all channels' deviations.

    Args:
        channels: C.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.zeros(channels))

    @torch.no_grad()
    def forward(self, maps: Tensor) -> Tensor:
        """Standardise maps `[N, C, ...]`, in float32; in training mode count them first."""
        positions = maps.float().flatten(2)
        if self.training:
            self._count(positions)
        column = (1, -1) + (1,) * (maps.dim() - 2)
        floor = 1e-4 * self.variance.mean() + torch.finfo(torch.float32).tiny
        return (maps.float() - self.mean.view(column)) / self.variance.clamp(min=floor).sqrt().view(column)

    def _count(self, positions: Tensor) -> None:
        """Add `[N, C, P]` to the statistics: mean and variance about a shifted centre (Chan et al., 1979)."""
        shifted = positions - self.mean.view(-1, 1)
        number = torch.full_like(self.mean, positions.shape[0] * positions.shape[2])
        sums = torch.stack((shifted.sum(dim=(0, 2)), shifted.square().sum(dim=(0, 2)), number))
        if world_size() > 1:
            dist.all_reduce(sums)
        total = self.count + sums[2, 0]
        shift = sums[0] / total
        self.variance.copy_((self.count * self.variance + sums[1]) / total - shift.square()).clamp_(min=0)
        self.mean.add_(shift)
        self.count.copy_(total)


class Hint(Method):
    """Hint on one pair of levels, by default those of stride 16, where teachers and students have maps of 14 x 14.

    What differs from the reference code (RepDistiller), and why:

    - Two maps of different sides are average-pooled to the smaller; the regressor is a 1x1 convolution and batch
      normalisation. There it is a convolution whose kernel takes up the difference of the sides, 43 x 43 from 56 to 14.
    - The target is standardised by each channel's running mean and variance (buffers, saved and resumed): teachers
      differ by orders of magnitude. The best constant answer then has a loss of 1. The default weight is 10, at
      which the term's gradient in the paper's three students began at 0.3 to 0.7 times that of the cross entropy (224
      pixels, a random ResNet50), and not the 100 that was chosen for the raw maps of CIFAR.
    - There is no ReLU after the regressor: it could not give the negative values of a standardised map.

    Under DDP the target's statistics are those of all processes, the regressor's batch normalisation, like the
    student's, is each process's own unless it is turned into SyncBatchNorm. Of bags every slice is a sample.

    Args:
        pair: the student's level and the teacher's.
        spatial_dims: 3 for volumes.
        weight: of the term, constant over the training.
    """

    def __init__(self, pair: tuple[Level, Level], spatial_dims: int = 2, *, weight: float = 10.0) -> None:
        ours, theirs = pair
        super().__init__(Reads(levels=(theirs,)), [ours])
        self.weight = weight
        self.regressor = conv_norm(ours.channels, theirs.channels, 1, spatial_dims, relu=False)
        self.standardise = RunningStandardisation(theirs.channels)

    @classmethod
    def build(
        cls, student: Student, teacher: FrozenFoundationModel, labels: Tensor, *, stride: int = 16, **options: Any
    ) -> Hint:
        """Build it on the student's level nearest to `stride` (input pixels a position) and the teacher's paired to it.

        Raises:
            ValueError: a network without maps that could be read, or a stride below 1.
        """
        if stride < 1:
            raise ValueError(f"the stride of a hint is at least 1, got {stride}")
        (pair,) = pair_levels([nearest_level(student_levels(student), stride)], teacher.levels)
        return cls(pair, student.spatial_dims, **options)

    def weights(self, progress: float) -> dict[str, float]:
        """The weight, the same in all epochs."""
        return {"hint": self.weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Term `hint`, of one map `[N, C, h, w]` of each."""
        ours, theirs = shrink_to_common(step.student.maps[0], step.taught.maps[0])
        answer = self.regressor(ours)
        with torch.autocast(device_type=answer.device.type, enabled=False):
            return {"hint": F.mse_loss(answer.float(), self.standardise(theirs))}
