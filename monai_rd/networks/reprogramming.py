"""phi, the reprogramming module: frozen teacher features into the student's feature space.

arXiv 2407.06504, Sec. 3.2: standard residual blocks, the only new trainable part beside the student and its classifier.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

__all__ = ["Reprogrammer"]


class _Residual(nn.Module):
    def __init__(self, body: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.last = body, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.body(x))


def _conv(inputs: int, outputs: int, size: int, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def _map_block(width: int) -> nn.Module:
    """ResNet's bottleneck block (He et al., arXiv 1512.03385)."""
    middle = max(width // 4, 1)
    body = nn.Sequential(_conv(width, middle, 1), _conv(middle, middle, 3), _conv(middle, width, 1, relu=False))
    return _Residual(body, nn.ReLU(inplace=True))


def _vector_block(width: int) -> nn.Module:
    """A residual MLP block, normalised first: batch statistics of a few vectors would be noise."""
    body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width))
    return _Residual(body, nn.Identity())


class Reprogrammer(nn.Module):
    """phi: f_t = phi(F_t(x)).

    Spatial (`kind="map"`, the default of the project): 1x1 convolution to `width`, residual bottleneck blocks, global
    average pooling, linear layer to the student's D. Vector (`kind="vector"`, for embeddings that have no map): linear
    layer, residual MLP blocks, linear layer. Bags are averaged over their slices after the blocks.

    Args:
        channels: C of the teacher's features.
        feature_dim: D of the student's features.
        kind: "map" or "vector", what the teacher gives.
        width: channels inside phi. It bounds phi's cost, which every training step pays.
        blocks: number of residual blocks, at least 1.

    Raises:
        ValueError: an unknown kind, or a number below 1.
    """

    def __init__(
        self, channels: int, feature_dim: int, kind: Literal["map", "vector"] = "map", width: int = 512, blocks: int = 2
    ) -> None:
        super().__init__()
        if kind not in ("map", "vector"):
            raise ValueError(f"kind must be 'map' or 'vector', not {kind!r}")
        if min(channels, feature_dim, width, blocks) < 1:
            raise ValueError(
                f"channels, feature_dim, width, blocks must be at least 1: {channels}, {feature_dim}, {width}, {blocks}"
            )
        self.kind = kind
        if kind == "map":
            self.blocks = nn.Sequential(_conv(channels, width, 1), *(_map_block(width) for _ in range(blocks)))
        else:
            self.blocks = nn.Sequential(nn.Linear(channels, width), *(_vector_block(width) for _ in range(blocks)))
        self.output = nn.Linear(width, feature_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Reprogram teacher features into `[B, D]`.

        Args:
            features: maps `[B, C, h, w]` or vectors `[B, C]`; of bags `[B, S, C, h, w]` or `[B, S, C]`.

        Raises:
            ValueError: another number of dimensions.
        """
        single = 4 if self.kind == "map" else 2
        if features.ndim not in (single, single + 1):
            raise ValueError(f"phi was built for a teacher's {self.kind}, got features of shape {list(features.shape)}")
        bags = features if features.ndim == single + 1 else features.unsqueeze(1)
        hidden = self.blocks(bags.flatten(0, 1))
        pooled = hidden.mean(dim=(2, 3)) if self.kind == "map" else hidden
        return self.output(pooled.unflatten(0, (-1, bags.shape[1])).mean(dim=1))
