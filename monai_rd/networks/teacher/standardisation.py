"""Standardisation of a frozen network's features by running statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist

from monai_rd.processes import world_size

__all__ = ["RunningStandardisation"]


class RunningStandardisation(nn.Module):
    """Standardises each channel of a frozen network's maps by its mean and variance over all batches seen in training.

    All batches of all processes have equal weight, because the network does not change. In training mode a batch
    updates the statistics before it is standardised. The standard deviation of a channel is at least a hundredth of
    the root mean square of all channels' standard deviations.

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
        """Standardise maps `[N, C, ...]` in float32; in training mode, update the statistics with them first."""
        if self.training:
            self.update(maps)
        column = (1, -1) + (1,) * (maps.dim() - 2)
        floor = 1e-4 * self.variance.mean() + torch.finfo(torch.float32).tiny
        return (maps.float() - self.mean.view(column)) / self.variance.clamp(min=floor).sqrt().view(column)

    @torch.no_grad()
    def update(self, maps: Tensor) -> None:
        """Update mean and variance with maps `[N, C, ...]`, by shifted sums (Chan et al., 1979)."""
        positions = maps.float().flatten(2)
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
