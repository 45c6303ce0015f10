r"""AdaptFormer (Chen et al., NeurIPS 2022, arXiv 2205.13535): a bottleneck in parallel with the MLP of every block.

With $x'$ the block's tokens after attention, not normalised, the output of the block is

$$x' + \mathrm{MLP}(\mathrm{LN}(x')) + s\,\mathrm{Up}(\mathrm{dropout}(\mathrm{ReLU}(\mathrm{Down}(x'))))$$

`Up` is initialised with 0, so training starts from the unchanged teacher. It supports plain ViTs and SAM's encoder at
any image size, as it does not depend on the attention's windows.
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
    """Bottleneck of two linear layers with ReLU and dropout in between: D (2 width + 1) + width parameters.

    Args:
        channels: D, the width of the tokens.
        width: number of hidden channels.
        dropout: dropout probability of the hidden values.
    """

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[..., D]` to `[..., D]`."""
        return self.up(self.dropout(F.relu(self.down(x))))


class ParallelMLP(nn.Module):
    """The second half of a block without its residual: norm, MLP and layer scale, plus the parallel bottleneck.

    Args:
        block: the transformer block whose norm, MLP and layer scale are used.
        bottleneck: the parallel bottleneck.
        scale: s, the factor of the bottleneck's output.
    """

    def __init__(self, block: Any, bottleneck: Bottleneck, scale: float) -> None:
        super().__init__()
        self.norm, self.mlp, self.layer_scale = block.norm2, block.mlp, block.ls2
        self.bottleneck, self.scale = bottleneck, scale

    def forward(self, x: Tensor) -> Tensor:
        """Map x' `[B, N, D]` to `[B, N, D]`."""
        return self.layer_scale(self.mlp(self.norm(x))) + self.scale * self.bottleneck(x)


def fit(teacher: FrozenFoundationModel, width: int = 64, scale: float = 0.1, dropout: float = 0.1) -> Fitted:
    """Add a parallel bottleneck to every MLP: 1,189,632 trained parameters for a ViT-B.

    Args:
        teacher: a teacher with a plain ViT or SAM's encoder.
        width: number of hidden channels of the bottleneck.
        scale: s, the factor of the bottleneck's output.
        dropout: dropout probability within the bottleneck.

    Raises:
        ValueError: the teacher has no such network.
    """
    backbone, transformer = open_transformer(teacher, "adaptformer")
    like = next(transformer.parameters())
    for block in transformer.blocks:
        bottleneck = Bottleneck(transformer.embed_dim, width, dropout).to(like)
        block.mlp = ParallelMLP(block, bottleneck, scale)
        block.norm2, block.ls2 = nn.Identity(), nn.Identity()  # both are inside `ParallelMLP` now
    return Fitted(backbone, teacher.channels, teacher.kind)


ADAPTFORMER = Adapter("adaptformer", fit, Recipe("sgd", 0.1, batch=256, warm_up=0.2), normalised=True)
