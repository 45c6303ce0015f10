"""Transformer tools for adapters: a copy of a backbone that can be changed, and blocks with prompts or queries.

Two families of timm are supported: plain ViTs (`VisionTransformer`), whose blocks pass on tokens `[B, N, D]`, and SAM's
encoder (`VisionTransformerSAM`: LVM-Med, SAM, MedSAM), whose blocks pass on grids `[B, h, w, D]`, attend within windows
and add relative position terms (arXiv 2112.01526) to the attention scores. If the grid is exactly one window (14 x 14
at 224 pixels), every block attends to all positions, and prompts can be added as further tokens. They have no position
in the grid, so all relative position terms to and from them are 0.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["ask", "new_tokens", "open_transformer", "summary", "with_prompts"]


def open_transformer(teacher: FrozenFoundationModel, adapter: str, one_window: bool = False) -> tuple[nn.Module, Any]:
    """Copy a teacher's backbone so that its modules can be changed; parameters and buffers are shared, not copied.

    Args:
        teacher: the teacher.
        adapter: name of the adapter, for error messages.
        one_window: the grid of SAM's encoder must be exactly one window.

    Returns:
        The copy, and the transformer in it, whose `blocks` an adapter changes.

    Raises:
        ValueError: there is no transformer of the two families, or its grid is not one window.
    """
    if not isinstance(teacher.backbone, nn.Module) or not any(map(_is_served, teacher.backbone.modules())):
        raise ValueError(
            f"the adapter '{adapter}' changes the blocks of a ViT or of SAM's encoder as timm builds them, which the "
            f"teacher '{teacher.name}' does not have: linear_probe works for every teacher, full for every one that is "
            "no ONNX or TFLite file"
        )
    if getattr(teacher.backbone, "tap", None) is not None:
        raise ValueError(
            f"the adapter '{adapter}' changes a network that is read at its end, and the teacher '{teacher.name}' is "
            "read inside: leave out its tap, or use linear_probe or full"
        )
    tensors = [*teacher.backbone.parameters(), *teacher.backbone.buffers()]
    backbone = copy.deepcopy(teacher.backbone, {id(tensor): tensor for tensor in tensors})
    transformer: Any = next(filter(_is_served, backbone.modules()))
    if one_window:
        _check_one_window(transformer, teacher, adapter)
    return backbone, transformer


def _is_served(module: Any) -> bool:
    """Whether a module is a transformer of a supported family with standard blocks."""
    from timm.models import vision_transformer as plain
    from timm.models import vision_transformer_sam as sam

    if isinstance(module, sam.VisionTransformerSAM):
        return all(block.attn.rope is None for block in module.blocks)
    if not isinstance(module, plain.VisionTransformer):
        return False
    usual = all(type(block) is plain.Block and type(block.attn) is plain.Attention for block in module.blocks)
    return usual and all(getattr(block.attn, "gate", None) is None for block in module.blocks)


def _check_one_window(transformer: Any, teacher: FrozenFoundationModel, adapter: str) -> None:
    size, patch = teacher.preprocessing.size, transformer.patch_embed.patch_size[0]
    windows = {getattr(block, "window_size", 0) for block in transformer.blocks} - {0}
    sides = {window * patch for window in windows}
    if sides and size is not None and ({size} if isinstance(size, int) else set(size)) != sides:
        raise ValueError(
            f"the adapter '{adapter}' needs the grid of the teacher '{teacher.name}' to be one window, which is "
            f"{sides.pop()} pixels a side, and not {size}: use adaptformer, lora, linear_probe or full"
        )


def new_tokens(shape: tuple[int, ...], transformer: Any) -> nn.Parameter:
    """Return trainable tokens `[*shape, D]`, uniform in +- sqrt(6 / (3 p^2 + D)), p the patch side (2203.12119)."""
    bound = math.sqrt(6 / (3 * math.prod(transformer.patch_embed.patch_size) + transformer.embed_dim))
    like = next(transformer.parameters())
    tokens = torch.empty(*shape, transformer.embed_dim, device=like.device, dtype=like.dtype)
    return nn.Parameter(tokens.uniform_(-bound, bound))


def with_prompts(block: Any, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Run a block on its tokens together with prompts.

    The prompts are appended at the end, as attention does not depend on the order.

    Args:
        block: a block of a plain ViT or of SAM's encoder.
        tokens: `[B, N, D]`, or the grid `[B, h, w, D]`.
        prompts: `[B, P, D]`.

    Returns:
        The block's outputs for tokens and prompts, in the same shapes.

    Raises:
        ValueError: SAM's grid is not one window.
    """
    grid = tokens.shape[1:-1]
    sequence = torch.cat([tokens.flatten(1, -2), prompts.to(tokens.dtype)], dim=1)
    sequence = block(sequence) if len(grid) == 1 else _one_window(block, sequence, (grid[0], grid[1]))
    after, prompts = sequence.split([math.prod(grid), prompts.shape[1]], dim=1)
    return after.unflatten(1, grid), prompts


def _heads(attention: Any, projected: Tensor) -> Tensor:
    """Reshape `[B, N, heads * d]` to `[B, heads, N, d]`."""
    return projected.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _one_window(block: Any, sequence: Tensor, grid: tuple[int, int]) -> Tensor:
    """Run a block of SAM's encoder on a grid of one window with P more tokens: `[B, h * w + P, D]`."""
    from timm.models.vision_transformer_sam import get_decomposed_rel_pos_bias

    if block.window_size > 0 and grid != (block.window_size, block.window_size):
        raise ValueError(f"prompts need a grid of one window of {block.window_size} positions a side, got {grid}")
    attention, positions = block.attn, grid[0] * grid[1]
    q, k, v = (_heads(attention, part) for part in attention.qkv(block.norm1(sequence)).chunk(3, dim=-1))
    q, k = attention.q_norm(q), attention.k_norm(k)
    bias = None
    if attention.use_rel_pos:
        of_grid = q[:, :, :positions].flatten(0, 1)
        bias = get_decomposed_rel_pos_bias(of_grid, attention.rel_pos_h, attention.rel_pos_w, grid, grid)
        more = sequence.shape[1] - positions
        bias = F.pad(bias, (0, more, 0, more)).unflatten(0, q.shape[:2])
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    sequence = sequence + block.ls1(attention.proj(attended.transpose(1, 2).flatten(2)))
    return sequence + block.ls2(block.mlp(block.norm2(sequence)))


def ask(block: Any, tokens: Tensor, queries: Tensor) -> Tensor:
    """Run a block on query tokens that attend to its tokens only, while its tokens do not attend to them.

    Keys and values come from the tokens alone, and SAM's relative position terms are 0 for queries.

    Args:
        block: a block of a plain ViT or of SAM's encoder.
        tokens: the block's input `[B, N, D]` or `[B, h, w, D]`.
        queries: `[B, T, D]`.

    Returns:
        The block's outputs for the queries `[B, T, D]`.
    """
    attention = block.attn
    weights = attention.qkv.weight.chunk(3)
    biases = (None,) * 3 if attention.qkv.bias is None else attention.qkv.bias.chunk(3)
    seen = block.norm1(tokens.flatten(1, -2))
    q, k, v = (
        _heads(attention, F.linear(x, weight, bias))
        for x, weight, bias in zip((block.norm1(queries), seen, seen), weights, biases, strict=True)
    )
    attended = F.scaled_dot_product_attention(attention.q_norm(q), attention.k_norm(k), v)
    attended = getattr(attention, "norm", nn.Identity())(attended.transpose(1, 2).flatten(2))
    queries = queries + block.ls1(attention.proj(attended))
    return queries + block.ls2(block.mlp(block.norm2(queries)))


def summary(transformer: Any, tokens: Tensor) -> Tensor:
    """Return one token `[B, D]` that represents an image after the last block.

    For a plain ViT this is the class token after the last norm; without a class token, the mean over positions.

    Args:
        transformer: the transformer.
        tokens: output of its last block, `[B, N, D]` or `[B, h, w, D]`.
    """
    if tokens.dim() == 4:
        return tokens.flatten(1, 2).mean(dim=1)
    tokens = transformer.norm(tokens)
    return tokens[:, 0] if transformer.cls_token is not None else tokens[:, transformer.num_prefix_tokens :].mean(dim=1)
