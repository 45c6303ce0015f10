"""What methods on feature maps share: which maps belong together, one size for both, one scale for the target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from monai_rd.networks.levels import Level, pair_levels, student_levels

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["CONVOLUTION", "NORMALISATION", "RunningStandardisation", "level_pairs", "pooled_alike"]

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
NORMALISATION = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOLING: dict[int, Any] = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def level_pairs(student: Student, teacher: FrozenFoundationModel) -> tuple[tuple[Level, Level], ...]:
    """Each of the student's levels with the teacher's that belongs to it; see `pair_levels`.

    Raises:
        ValueError: one of them has no maps that could be read.
    """
    levels = student_levels(student)
    for what, name, found in (("student", student.name, levels), ("teacher", teacher.name, teacher.levels)):
        if not found:
            raise ValueError(
                f"the {what} '{name}' has no feature maps inside that could be read, which this method needs: take "
                f"another --{what}, or a method on pooled features such as rd, sp or rkd"
            )
    return pair_levels(levels, teacher.levels)


def pooled_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool two maps to the smaller of their sides, axis by axis, so that no detail is made up.

    Args:
        student: `[N, C1, h1, w1]`, of volumes `[N, C1, d1, h1, w1]`.
        teacher: `[N, C2, h2, w2]`, likewise.
    """
    sides = tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    pool = _POOLING[len(sides)]
    ours, theirs = (maps if maps.shape[2:] == sides else pool(maps, sides) for maps in (student, teacher))
    return ours, theirs


class RunningStandardisation(nn.Module):
    """Standardises each channel of a frozen network's maps by its mean and variance over all that training has shown.

    The network does not change, so the statistics are those of all batches so far, of all processes, and settle; a
    batch is counted before it is standardised. A channel that hardly varies is divided by a hundredth of the root mean square
    of all channels' deviations.

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
        number = positions.new_tensor(float(positions.shape[0] * positions.shape[2])).expand(len(self.mean))
        sums = torch.stack((shifted.sum(dim=(0, 2)), shifted.square().sum(dim=(0, 2)), number))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        total = self.count + sums[2, 0]
        shift = sums[0] / total
        self.variance.copy_((self.count * self.variance + sums[1]) / total - shift.square()).clamp_(min=0)
        self.mean.add_(shift)
        self.count.copy_(total)
