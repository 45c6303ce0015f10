"""Feature maps as methods compare them: sides made equal, layers for 2D and 3D."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["average_pool", "convolution", "shrink_to_common"]


def shrink_to_common(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps to the sides of the smaller, axis by axis: no detail is made up."""
    sides = [min(pair) for pair in zip(first.shape[2:], second.shape[2:], strict=True)]
    return average_pool(first, sides), average_pool(second, sides)


def average_pool(maps: Tensor, sides: list[int]) -> Tensor:
    """Average-pool maps to these sides; maps that have them are returned as they are."""
    if list(maps.shape[2:]) == sides:
        return maps
    pool: Any = F.adaptive_avg_pool2d if len(sides) == 2 else F.adaptive_avg_pool3d
    return pool(maps, sides)


def convolution(inputs: int, outputs: int, size: int, spatial_dims: int, bias: bool = True) -> nn.Module:
    """A convolution that keeps the sides."""
    kind = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
    return kind(inputs, outputs, size, padding=size // 2, bias=bias)
