r"""LoRA on queries and values (Hu et al., arXiv 2106.09685), which MeLo (arXiv 2311.08236) applied to medical ViTs.

The frozen projections $W$ of queries and of values become $W + (\alpha / r) B A$, where $A$ has r rows and $B$ has r
columns. `B` is initialised with 0, so training starts from the unchanged teacher. It is implemented with the `peft`
library. timm has one projection for queries, keys and values, which is split into three here, because LoRA on the whole
projection would be another method with the same number of parameters. It supports plain ViTs and SAM's encoder at any
image size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from monai_rd.adapters.base import Adapter, Fitted, Recipe
from monai_rd.adapters.vit import open_transformer

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["LORA", "SplitProjection"]


class SplitProjection(nn.Module):
    """A joint projection to queries, keys and values, split into three layers that share its weights.

    Args:
        qkv: linear layer from `[..., D]` to `[..., 3 D]`.
    """

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        biases = (None,) * 3 if qkv.bias is None else qkv.bias.detach().chunk(3)
        self.q, self.k, self.v = (
            _linear(weight, bias) for weight, bias in zip(qkv.weight.detach().chunk(3), biases, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[..., D]` to queries, keys and values `[..., 3 D]`."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a frozen linear layer that shares the given tensors."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def fit(teacher: FrozenFoundationModel, rank: int = 4, alpha: int = 4) -> Fitted:
    """Add LoRA to queries and values of every block: 147,456 trained parameters for a ViT-B at rank 4.

    Args:
        teacher: a teacher with a plain ViT or SAM's encoder.
        rank: r.
        alpha: the update is scaled by alpha / r.

    Raises:
        ValueError: the teacher has no such network.
    """
    from peft import LoraConfig, inject_adapter_in_model

    backbone, transformer = open_transformer(teacher, "lora")
    for block in transformer.blocks:
        block.attn.qkv = SplitProjection(block.attn.qkv)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=r"blocks\.\d+\.attn\.qkv\.[qv]")
    inject_adapter_in_model(config, transformer)
    return Fitted(backbone, teacher.channels, teacher.kind)


LORA = Adapter("lora", fit, Recipe("adam", 1e-3))
