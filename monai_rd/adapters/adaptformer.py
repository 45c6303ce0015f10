r"""AdaptFormer (Chen et al., NeurIPS 2022, arXiv 2205.13535): a bottleneck beside the MLP of every block.

With $x'$ what the block has after its attention, not normalised, the block gives

$$x' + \mathrm{MLP}(\mathrm{LN}(x')) + s\,\mathrm{Up}(\mathrm{dropout}(\mathrm{ReLU}(\mathrm{Down}(x'))))$$

`Up` begins as 0, so the teacher begins as it was. It fits plain ViTs and SAM's encoder at any size: windows are a
matter of attention.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.adapters.base import Adapter, Fitted, Recipe
from monai_rd.adapters.vit import open_transformer

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["ADAPTFORMER", "Bottleneck", "ParallelMLP"]


class Bottleneck(nn.Module):
    """Down to `width`, ReLU, dropout, up again: D (2 width + 1) + width parameters.

    Args:
        channels: D.
        width: inside.
        dropout: share of the inner values.
    """

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """Of tokens `[..., D]`."""
        return self.up(self.dropout(F.relu(self.down(x))))


class ParallelMLP(nn.Module):
    """A block's second half before its residual: its norm, MLP and layer scale, and the bottleneck beside them.

    Args:
        block: of which norm, MLP and scale are.
        bottleneck: beside them.
        scale: s.
    """

    def __init__(self, block: Any, bottleneck: Bottleneck, scale: float) -> None:
        super().__init__()
        self.norm, self.mlp, self.layer_scale = block.norm2, block.mlp, block.ls2
        self.bottleneck, self.scale = bottleneck, scale

    def forward(self, x: Tensor) -> Tensor:
        """Of x' `[B, N, D]`."""
        return self.layer_scale(self.mlp(self.norm(x))) + self.scale * self.bottleneck(x)


def fit(teacher: FrozenFoundationModel, width: int = 64, scale: float = 0.1, dropout: float = 0.1) -> Fitted:
    """Put a bottleneck beside every MLP: 1,189,632 parameters of a ViT-B.

    Args:
        teacher: with a plain ViT or SAM's encoder.
        width: of the bottleneck.
        scale: s.
        dropout: within the bottleneck.

    Raises:
        ValueError: another teacher.
    """
    backbone, transformer = open_transformer(teacher, "adaptformer")
    like = next(transformer.parameters())
    for block in transformer.blocks:
        bottleneck = Bottleneck(transformer.embed_dim, width, dropout).to(like)
        block.mlp = ParallelMLP(block, bottleneck, scale)
        block.norm2, block.ls2 = nn.Identity(), nn.Identity()  # both are inside now
    return Fitted(backbone, teacher.channels, teacher.kind)


ADAPTFORMER = Adapter("adaptformer", fit, Recipe("sgd", 0.1, batch=256, warm_up=0.2), normalised=True)
