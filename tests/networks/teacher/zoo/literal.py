"""Networks written down a second time, line by line from their papers, for weights under their publishers' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


def _norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def _linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def vit(
    x: Tensor,
    w: Weights,
    block: str,
    depth: int,
    heads: int,
    *,
    eps: float = 1e-6,
    norms: Sequence[str] = ("norm1", "norm2"),
    qkv: Sequence[str] = ("attn.qkv",),
    out: str = "attn.proj",
    mlp: Sequence[str] = ("mlp.fc1", "mlp.fc2"),
    scales: Sequence[str] = (),
    final: str | None = "norm",
    gelu: str = "none",
    bias: Tensor | None = None,
    qkv_bias: Sequence[str] = (),
    rope: Sequence[int] = (),
    gated: bool = False,
) -> Tensor:
    """Transformer blocks (Dosovitskiy et al., 2010.11929) on tokens `[B, N, C]`, and the last norm.

    `block` has `{i}` for the block's number, the other names are those within it; three names in `qkv` are three linear
    layers, `qkv_bias` names the biases of q and v where k has none. `bias` `[heads, N, N]` is added to the scores.
    `rope` are rows and columns of a grid whose tokens are turned by their places (`turned`), `gated` is SwiGLU.
    """
    batch, tokens, width = x.shape
    for i in range(depth):
        at = block.format(i=i)
        h = _norm(x, w, at + norms[0], eps)
        if len(qkv) == 3:
            parts = [_linear(h, w, at + name) for name in qkv]
        else:
            h = _linear(h, w, at + qkv[0])
            if qkv_bias:
                q, v = (w[at + name] for name in qkv_bias)
                h = h + torch.cat([q, torch.zeros_like(q), v])
            parts = list(h.chunk(3, dim=-1))
        q, k, v = (part.view(batch, tokens, heads, -1).transpose(1, 2) for part in parts)
        if rope:
            q, k = turned(q, rope), turned(k, rope)
        scores = q @ k.transpose(2, 3) / (width // heads) ** 0.5
        attended = (scores if bias is None else scores + bias).softmax(dim=-1) @ v
        h = _linear(attended.transpose(1, 2).reshape(batch, tokens, width), w, at + out)
        x = x + (h * w[at + scales[0]] if scales else h)
        h = _linear(_norm(x, w, at + norms[1], eps), w, at + mlp[0])
        if gated:  # 2002.05202
            gate, value = h.chunk(2, dim=-1)
            h = F.silu(gate) * value
        else:
            h = F.gelu(h, approximate=gelu)
        h = _linear(h, w, at + mlp[1])
        x = x + (h * w[at + scales[1]] if scales else h)
    return x if final is None else _norm(x, w, final, eps)


def turned(tokens: Tensor, sides: Sequence[int]) -> Tensor:
    """DINOv3's rotary positions (2508.10104) on `[B, heads, N, C]`: the last tokens are the grid's, others stay.

    Rows and columns lie from -1 to 1 at the cells' centres. A pair of channels c and c + C/2 is turned by
    2 pi place / period; the first half of the pairs goes by rows, the second by columns, each with periods
    100^(i / n), i = 0 ... n - 1.
    """
    rows, columns = (2 * (torch.arange(side) + 0.5) / side - 1 for side in sides)
    n = tokens.shape[-1] // 4
    periods = 100 ** (torch.arange(n) / n)
    places = torch.stack([rows.repeat_interleave(sides[1]), columns.repeat(sides[0])], dim=1)
    angle = (2 * torch.pi * places[:, :, None] / periods).flatten(1)
    prefix, on_grid = tokens.split([tokens.shape[2] - len(angle), len(angle)], dim=2)
    first, second = on_grid.chunk(2, dim=-1)
    there = [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()]
    return torch.cat([prefix, torch.cat(there, dim=-1)], dim=2)


def patches(image: Tensor, w: Weights, name: str) -> Tensor:
    """Tokens `[B, N, C]` of images or volumes: a linear layer on every patch."""
    weight = w[f"{name}.weight"]
    sides = weight.shape[2:]
    for axis, side in enumerate(sides):
        image = image.unfold(2 + axis, side, side)
    dims = len(sides)
    order = [0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims)]
    return F.linear(image.permute(order).flatten(1 + dims).flatten(1, dims), weight.flatten(1), w[f"{name}.bias"])


def grid(tokens: Tensor, sides: Sequence[int]) -> Tensor:
    """The last tokens as a map."""
    n = 1
    for side in sides:
        n *= side
    return tokens[:, -n:].transpose(1, 2).unflatten(2, tuple(sides))


def sam(image: Tensor, w: Weights, depth: int, whole: Sequence[int], prefix: str = "", neck: bool = True) -> Tensor:
    """SAM's image encoder (2304.02643): windows of 14, `whole` blocks, decomposed relative positions (2112.01526)."""
    side, heads, width = image.shape[-1] // 16, 12, 768
    x = patches(image, w, f"{prefix}patch_embed.proj").unflatten(1, (side, side))
    if f"{prefix}pos_embed" in w:
        x = x + w[f"{prefix}pos_embed"]
    for i in range(depth):
        at = f"{prefix}blocks.{i}."
        h = _norm(x, w, f"{at}norm1", 1e-6)
        n = side if i in whole else 14
        pad = -side % n
        h = F.pad(h, (0, 0, 0, pad, 0, pad))
        times = h.shape[1] // n
        h = h.unflatten(1, (times, n)).unflatten(3, (times, n)).transpose(2, 3).reshape(-1, n * n, width)
        q, k, v = (
            t.view(-1, n * n, heads, width // heads).transpose(1, 2)
            for t in _linear(h, w, f"{at}attn.qkv").chunk(3, dim=-1)
        )
        scores = q @ k.transpose(2, 3) / (width // heads) ** 0.5
        square = q.unflatten(2, (n, n))
        difference = torch.arange(n)[:, None] - torch.arange(n)[None] + n - 1
        tables = [
            F.interpolate(w[f"{at}attn.rel_pos_{axis}"].T[None], size=2 * n - 1, mode="linear")[0].T[difference]
            for axis in "hw"
        ]
        rows = torch.einsum("bhijc,ikc->bhijk", square, tables[0])[..., :, None]
        columns = torch.einsum("bhijc,jlc->bhijl", square, tables[1])[..., None, :]
        scores = scores + (rows + columns).flatten(4).flatten(2, 3)
        h = _linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, n * n, width), w, f"{at}attn.proj")
        h = h.view(-1, times, times, n, n, width).transpose(2, 3).reshape(len(image), times * n, times * n, width)
        x = x + h[:, :side, :side]
        x = x + _linear(F.gelu(_linear(_norm(x, w, f"{at}norm2", 1e-6), w, f"{at}mlp.lin1")), w, f"{at}mlp.lin2")
    if not neck:
        return x.permute(0, 3, 1, 2)
    x = F.conv2d(x.permute(0, 3, 1, 2), w[f"{prefix}neck.0.weight"]).permute(0, 2, 3, 1)
    x = F.conv2d(_norm(x, w, f"{prefix}neck.1", 1e-6).permute(0, 3, 1, 2), w[f"{prefix}neck.2.weight"], padding=1)
    return _norm(x.permute(0, 2, 3, 1), w, f"{prefix}neck.3", 1e-6).permute(0, 3, 1, 2)


def shared_bias(table: Tensor, side: int) -> Tensor:
    """BEiT's relative position bias (2106.08254) `[heads, 1 + side^2, 1 + side^2]` out of its table.

    The table's last three rows are for class token to patch, patch to class token, and class token to itself.
    """
    n = side * side
    spread = 2 * side - 1
    rows, columns = torch.arange(n) // side, torch.arange(n) % side
    index = torch.empty(1 + n, 1 + n, dtype=torch.long)
    index[1:, 1:] = (rows[:, None] - rows + side - 1) * spread + columns[:, None] - columns + side - 1
    index[0, :], index[:, 0], index[0, 0] = spread**2, spread**2 + 1, spread**2 + 2
    return table[index].permute(2, 0, 1)


def segres(x: Tensor, w: Weights, blocks: Sequence[int]) -> Tensor:
    """The encoder of SegResNet (1810.11654) with batch normalisation, its last level."""

    def normed(x: Tensor, name: str) -> Tensor:
        running = (w[f"{name}.running_mean"], w[f"{name}.running_var"])
        return F.relu(F.batch_norm(x, *running, w[f"{name}.weight"], w[f"{name}.bias"]))

    x = F.conv3d(x, w["conv_init.weight"], padding=1)
    for level, times in enumerate(blocks):
        for block in range(times):
            at = f"layers.{level}.blocks.{block}."
            h = F.conv3d(normed(x, f"{at}norm1"), w[f"{at}conv1.weight"], padding=1)
            x = x + F.conv3d(normed(h, f"{at}norm2"), w[f"{at}conv2.weight"], padding=1)
        if level + 1 < len(blocks):
            x = F.conv3d(x, w[f"layers.{level}.downsample.weight"], stride=2, padding=1)
    return x
