r"""LoRA on queries and values (Hu et al., arXiv 2106.09685), which MeLo (arXiv 2311.08236) brought to medical ViTs.

The frozen projection $W$ of queries, and that of values, becomes $W + (\alpha / r) B A$ with $A$ of r rows and $B$ of r
columns. `B` begins as 0, so the teacher begins as it was. The `peft` library does it; timm keeps queries, keys and
values in one projection, which is read as three here, because LoRA on the whole of it would be another method with the
same number of parameters. It fits plain ViTs and SAM's encoder at any size.
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
    """A projection to queries, keys and values as three, on the same weights.

    Args:
        qkv: `[D]` to `[3 D]`.
    """

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        biases = (None,) * 3 if qkv.bias is None else qkv.bias.detach().chunk(3)
        self.q, self.k, self.v = (
            _linear(weight, bias) for weight, bias in zip(qkv.weight.detach().chunk(3), biases, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., 3 D]`."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A frozen linear layer on given tensors."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def fit(teacher: FrozenFoundationModel, rank: int = 4, alpha: int = 4) -> Fitted:
    """Put LoRA on queries and values of every block: 147,456 parameters of a ViT-B at rank 4.

    Args:
        teacher: with a plain ViT or SAM's encoder.
        rank: r.
        alpha: the update is scaled by alpha / r.

    Raises:
        ValueError: another teacher.
    """
    from peft import LoraConfig, inject_adapter_in_model

    backbone, transformer = open_transformer(teacher, "lora")
    for block in transformer.blocks:
        block.attn.qkv = SplitProjection(block.attn.qkv)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=r"blocks\.\d+\.attn\.qkv\.[qv]")
    inject_adapter_in_model(config, transformer)
    return Fitted(backbone, teacher.channels, teacher.kind)


LORA = Adapter("lora", fit, Recipe("adam", 1e-3))
