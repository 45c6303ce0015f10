"""The vision transformer of FlexiCT, with rotary position embeddings along two or three axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.networks.stages import quarters

__all__ = ["RotaryViT"]

_BASE = 100  # of the longest period
_PRECISION = torch.bfloat16  # the authors' code computes periods, angles and rotations in it


def _rotate(tokens: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
    """Rotate the last tokens of `[B, heads, N, width]` by angles whose sines and cosines are `[positions, width]`."""
    moved = tokens.to(sine.dtype)
    before, grid = moved.split([moved.shape[2] - len(sine), len(sine)], dim=2)
    first, second = grid.chunk(2, dim=-1)
    turned = grid * cosine + torch.cat([-second, first], dim=-1) * sine
    return torch.cat([before, turned], dim=2).to(tokens.dtype)


class _Block(nn.Module):
    """Attention and a two-layer perceptron, each normalised before and scaled after."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(_rotate(q, sine, cosine), _rotate(k, sine, cosine), v)
        tokens = tokens + self.scale1 * self.proj(mixed.transpose(1, 2).flatten(2))
        return tokens + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(tokens))))


class RotaryViT(nn.Module):
    """A vision transformer of images or volumes with rotary position embeddings, as FlexiCT has it (2605.21906).

    It is a DINOv3 (Siméoni et al., 2508.10104) of one channel, whose rotary embeddings (Su et al., 2104.09864) have two
    or three axes. Before the grid's tokens are a class token and registers.

    Args:
        spatial_dims: 2 for images, 3 for volumes.
        width: of the tokens.
        depth: number of blocks.
        heads: number of attention heads.
        patch: side of a patch in pixels (voxels).
        registers: number of register tokens.

    Attributes:
        stages: paths of the last block of each quarter.
        prefix: number of tokens before the grid's.

    Example:
        >>> import torch
        >>> from monai_rd.networks.teacher.zoo.architectures import RotaryViT
        >>> vit = RotaryViT(spatial_dims=3, width=24, depth=4, heads=2)
        >>> vit(torch.rand(1, 1, 16, 24, 32)).shape, vit.stages
        (torch.Size([1, 24, 2, 3, 4]), ('blocks.0', 'blocks.1', 'blocks.2', 'blocks.3'))
    """

    periods: Tensor

    def __init__(
        self,
        spatial_dims: Literal[2, 3],
        width: int = 864,
        depth: int = 16,
        heads: int = 12,
        patch: int = 8,
        registers: int = 4,
    ) -> None:
        super().__init__()
        self.patch_embed = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(1, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.storage_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        of_a_head = width // heads
        exponents = 2 * torch.arange(of_a_head // (2 * spatial_dims), dtype=_PRECISION) / (of_a_head // 2)
        self.register_buffer("periods", _BASE**exponents)
        self.stages, self.prefix = quarters("blocks", depth), 1 + registers

    def forward(self, image: Tensor) -> Tensor:
        """Compute the grid's tokens after the last normalisation.

        Args:
            image: `[B, 1, H, W]`, or `[B, 1, D, H, W]` for volumes; sides multiples of a patch's.

        Returns:
            A map `[B, C, h, w]` or `[B, C, d, h, w]`.
        """
        patches = self.patch_embed(image)
        before = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(len(image), -1, -1)
        tokens = torch.cat([before, patches.flatten(2).transpose(1, 2)], dim=1)
        angles = self._angles(patches.shape[2:])
        sine, cosine = angles.sin(), angles.cos()
        for block in self.blocks:
            tokens = block(tokens, sine, cosine)
        return self.norm(tokens)[:, self.prefix :].transpose(1, 2).unflatten(2, patches.shape[2:])

    def _angles(self, grid: Sequence[int]) -> Tensor:
        """Angles `[positions, head width]`: 2 pi x / period, with x from -1 to 1 along each axis, twice."""
        periods = self.periods.to(_PRECISION)
        axes = [2.0 * (torch.arange(0.5, n, dtype=_PRECISION, device=periods.device) / n) - 1.0 for n in grid]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
        return (2 * math.pi * places[:, :, None] / periods).flatten(1).tile(2)
