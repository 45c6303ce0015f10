"""phi, the reprogramming module: it maps frozen teacher features into the student's feature space.

arXiv 2407.06504, Sec. 3.2: standard residual blocks. It is trained together with the student and its classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from monai_rd.networks.features import pool_to_grid

__all__ = ["Reprogrammer", "Reprogrammers", "conv_norm"]


class _Residual(nn.Module):
    def __init__(self, body: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.last = body, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.body(x))


def conv_norm(inputs: int, outputs: int, size: int, dims: int, relu: bool = True) -> nn.Sequential:
    """Convolution that keeps the spatial size, BatchNorm, and ReLU; no bias, because BatchNorm would cancel it."""
    convolution, normalisation = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
    layers: list[nn.Module] = [
        convolution(inputs, outputs, size, padding=size // 2, bias=False),
        normalisation(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def _map_block(width: int, dims: int) -> nn.Module:
    """ResNet's bottleneck block (He et al., arXiv 1512.03385)."""
    middle = max(width // 4, 1)
    body = nn.Sequential(
        conv_norm(width, middle, 1, dims),
        conv_norm(middle, middle, 3, dims),
        conv_norm(middle, width, 1, dims, relu=False),
    )
    return _Residual(body, nn.ReLU(inplace=True))


def _vector_block(width: int) -> nn.Module:
    """A residual MLP block with LayerNorm first; BatchNorm statistics of a few vectors would be noise."""
    body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width))
    return _Residual(body, nn.Identity())


def _are_bags(features: Tensor, kind: str, spatial_dims: int) -> bool:
    """Return whether these are features of bags.

    Raises:
        ValueError: neither bags nor single images or volumes of this kind.
    """
    single = 2 + spatial_dims if kind == "map" else 2
    if features.ndim not in (single, single + 1):
        raise ValueError(f"phi was built for a teacher's {kind}, got features of shape {list(features.shape)}")
    return features.ndim == single + 1


class Reprogrammer(nn.Module):
    """The reprogramming module phi: f_t = phi(F_t(x)) (arXiv 2407.06504, Sec. 3.2).

    For maps (`kind="map"`): 1x1 convolution to `width` channels, residual bottleneck blocks, global average pooling,
    linear layer to the student's D. For vectors (`kind="vector"`): linear layer, residual MLP blocks, linear layer.
    Bags are averaged over their slices after the blocks. Maps with more than `grid` positions along a side are
    average-pooled to it first: on a ViT's 14 x 14 positions phi would cost more than a small student.

    Args:
        channels: C of the teacher's features.
        feature_dim: D of the student's features.
        kind: kind of the teacher's features, "map" or "vector".
        width: number of channels inside phi; it determines the cost of phi in every training step.
        blocks: number of residual blocks, at least 1.
        spatial_dims: 2 for maps of images, 3 for maps of volumes.
        grid: maximum number of positions along each side of a map; None for no limit.

    Raises:
        ValueError: an unknown kind, a number below 1, or `spatial_dims` other than 2 and 3.

    Example:
        >>> import torch
        >>> from monai_rd.networks import Reprogrammer
        >>> phi = Reprogrammer(channels=256, feature_dim=512, width=64)
        >>> phi(torch.rand(4, 256, 7, 7)).shape
        torch.Size([4, 512])
    """

    def __init__(
        self,
        channels: int,
        feature_dim: int,
        kind: Literal["map", "vector"] = "map",
        width: int = 512,
        blocks: int = 2,
        spatial_dims: int = 2,
        grid: int | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("map", "vector"):
            raise ValueError(f"kind must be 'map' or 'vector', not {kind!r}")
        if min(channels, feature_dim, width, blocks, 1 if grid is None else grid) < 1:
            raise ValueError(
                f"channels, feature_dim, width, blocks, grid must be at least 1: {channels}, {feature_dim}, {width}, "
                f"{blocks}, {grid}"
            )
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        self.kind, self.spatial_dims, self.grid = kind, spatial_dims, grid
        if kind == "map":
            layers = [conv_norm(channels, width, 1, spatial_dims)]
            self.blocks = nn.Sequential(*layers, *(_map_block(width, spatial_dims) for _ in range(blocks)))
        else:
            self.blocks = nn.Sequential(nn.Linear(channels, width), *(_vector_block(width) for _ in range(blocks)))
        self.output = nn.Linear(width, feature_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map teacher features to features `[B, D]` in the student's feature space.

        Args:
            features: maps `[B, C, h, w]` (volumes `[B, C, d, h, w]`) or vectors `[B, C]`; for bags S follows B.

        Raises:
            ValueError: a wrong number of dimensions.
        """
        bags = features if _are_bags(features, self.kind, self.spatial_dims) else features.unsqueeze(1)
        singles = bags.flatten(0, 1)
        if self.kind == "map":
            singles = pool_to_grid(singles, self.grid, self.spatial_dims)
        hidden = self.blocks(singles)
        pooled = hidden.flatten(2).mean(dim=2) if self.kind == "map" else hidden
        return self.output(pooled.unflatten(0, (-1, bags.shape[1])).mean(dim=1))


class Reprogrammers(nn.Module):
    """phi of one teacher or of several joined ones: each has its own `Reprogrammer`, and f_t is the mean of theirs.

    Each teacher's features are taken from the channels of the joined ones. With one phi for all channels a good teacher
    is drowned by worse ones: on few labelled images phi fits whichever channels fit by chance. Not in the paper, which
    has one teacher.

    Args:
        parts: number of channels of each teacher, see `FrozenFoundationModel.parts`.
        feature_dim: D of the student's features.
        kind: see `Reprogrammer`.
        width, blocks, spatial_dims, grid: of each, see `Reprogrammer`.

    Raises:
        ValueError: see `Reprogrammer`.

    Example:
        Two teachers with 256 and 64 channels.

        >>> import torch
        >>> from monai_rd.networks import Reprogrammers
        >>> phi, joined = Reprogrammers([256, 64], feature_dim=512, width=64), torch.rand(4, 320, 7, 7)
        >>> phi.each(joined).shape, phi(joined).shape
        (torch.Size([2, 4, 512]), torch.Size([4, 512]))
    """

    def __init__(
        self,
        parts: Sequence[int],
        feature_dim: int,
        kind: Literal["map", "vector"] = "map",
        width: int = 512,
        blocks: int = 2,
        spatial_dims: int = 2,
        grid: int | None = None,
    ) -> None:
        super().__init__()
        settings: tuple[Any, ...] = (feature_dim, kind, width, blocks, spatial_dims, grid)
        self.own = nn.ModuleList(Reprogrammer(channels, *settings) for channels in parts)
        self.parts, self.kind, self.spatial_dims = list(parts), kind, spatial_dims

    def each(self, features: Tensor) -> Tensor:
        """Map teacher features to `[teachers, B, D]`, those of each teacher by its own phi.

        Args:
            features: see `Reprogrammer.forward`; C is the sum of `parts`.

        Raises:
            ValueError: a wrong number of dimensions.
        """
        axis = 2 if _are_bags(features, self.kind, self.spatial_dims) else 1
        separate = features.split(self.parts, dim=axis)
        return torch.stack([phi(one) for phi, one in zip(self.own, separate, strict=True)])

    def forward(self, features: Tensor) -> Tensor:
        """Map teacher features to f_t `[B, D]`, the mean over the teachers; see `each`."""
        return self.each(features).mean(dim=0)
