"""Networks of volumes written down a second time, line by line, for weights under their publishers' names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


def inflated_resnet(volume: Tensor, w: Weights, at: str = "") -> tuple[Tensor, Tensor]:
    """The outputs of layer3 and layer4 of a ResNet-152 (1512.03385) inflated to volumes (1705.07750)."""

    def conv(x: Tensor, name: str, stride: int | tuple[int, int, int] = 1) -> Tensor:
        kernel = w[f"{at}{name}.weight"].float()
        return F.conv3d(x, kernel, stride=stride, padding=[side // 2 for side in kernel.shape[2:]])

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            w[f"{at}{name}.{kind}"].float() for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias)

    x = F.relu(norm(conv(torch.cat([volume] * 3, dim=1), "conv1", (1, 2, 2)), "bn1"))
    x = F.max_pool3d(x, 3, 2, padding=1)
    outputs = []
    for layer, blocks in ((1, 3), (2, 8), (3, 36), (4, 3)):
        for block in range(blocks):
            on, stride = f"layer{layer}.{block}.", 2 if layer > 1 and block == 0 else 1
            h = F.relu(norm(conv(x, f"{on}conv1"), f"{on}bn1"))
            h = F.relu(norm(conv(h, f"{on}conv2", stride), f"{on}bn2"))
            h = norm(conv(h, f"{on}conv3"), f"{on}bn3")
            if block == 0:
                x = norm(conv(x, f"{on}downsample.0", stride), f"{on}downsample.1")
            x = F.relu(h + x)
        outputs.append(x)
    return outputs[2], outputs[3]


def residual_encoder(x: Tensor, w: Weights, blocks: Sequence[int]) -> Tensor:
    """nnU-Net's ResEnc-L (2404.09556), whose shortcuts are those of ResNet-D (1812.01187)."""

    def conv_norm(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = w[f"{name}.conv.weight"]
        x = F.conv3d(x, kernel, w.get(f"{name}.conv.bias"), stride, padding=kernel.shape[-1] // 2)
        mean, var = x.mean(dim=(2, 3, 4), keepdim=True), x.var(dim=(2, 3, 4), keepdim=True, correction=0)
        scale, shift = (w[f"{name}.norm.{kind}"].view(1, -1, 1, 1, 1) for kind in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    x = F.leaky_relu(conv_norm(x, "encoder.stem.convs.0"), 0.01)
    for stage, depth in enumerate(blocks):
        for block in range(depth):
            at = f"encoder.stages.{stage}.blocks.{block}."
            stride = 2 if stage > 0 and block == 0 else 1
            h = conv_norm(F.leaky_relu(conv_norm(x, f"{at}conv1", stride), 0.01), f"{at}conv2")
            x = F.avg_pool3d(x, 2) if stride == 2 else x
            if f"{at}skip.1.conv.weight" in w:
                x = conv_norm(x, f"{at}skip.1")
            x = F.leaky_relu(h + x, 0.01)
    return x


def rotary_vit(image: Tensor, w: Weights, depth: int, heads: int) -> Tensor:
    """FlexiCT (2605.21906): DINOv3 (2508.10104) with rotary positions (2104.09864) along two or three axes.

    Angles are computed and applied in bfloat16, as the authors' code does.
    """
    dims = image.dim() - 2
    embed, rope = f"backbone.patch_embed_{dims}D.proj", f"backbone.rope_embed_{dims}D.periods"
    kernel = w[f"{embed}.weight"]
    x = (F.conv2d if dims == 2 else F.conv3d)(image, kernel, w[f"{embed}.bias"], stride=kernel.shape[-1])
    grid = x.shape[2:]
    tokens = torch.cat([w["backbone.cls_token"], w["backbone.storage_tokens"], x.flatten(2).transpose(1, 2)], dim=1)
    batch, count, width = tokens.shape
    pairs, periods = width // heads // 2, w[rope].bfloat16()
    angles = torch.zeros(count, pairs, dtype=torch.bfloat16)  # the first five tokens have no position
    for number, place in enumerate(torch.cartesian_prod(*(torch.arange(n) for n in grid))):
        for axis in range(dims):
            x01 = (place[axis] + 0.5).bfloat16() / grid[axis]
            here = slice(axis * len(periods), (axis + 1) * len(periods))
            angles[5 + number, here] = 2 * math.pi * (2.0 * x01 - 1.0) / periods

    def turned(x: Tensor) -> Tensor:
        """Each pair of channels i and i + width / 2 of a head turned by the pair's angle."""
        first, second = x.bfloat16()[..., :pairs], x.bfloat16()[..., pairs:]
        cosine, sine = angles.cos(), angles.sin()
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).float()

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    for i in range(depth):
        at = f"backbone.blocks.{i}."
        q, k, v = (
            part.view(batch, count, heads, -1).transpose(1, 2)
            for part in F.linear(norm(tokens, f"{at}norm1"), w[f"{at}attn.qkv.weight"]).chunk(3, dim=-1)
        )
        h = (turned(q) @ turned(k).transpose(2, 3) / (width // heads) ** 0.5).softmax(dim=-1) @ v
        h = F.linear(h.transpose(1, 2).flatten(2), w[f"{at}attn.proj.weight"], w[f"{at}attn.proj.bias"])
        tokens = tokens + h * w[f"{at}ls1.gamma"]
        h = F.gelu(F.linear(norm(tokens, f"{at}norm2"), w[f"{at}mlp.fc1.weight"], w[f"{at}mlp.fc1.bias"]))
        tokens = tokens + F.linear(h, w[f"{at}mlp.fc2.weight"], w[f"{at}mlp.fc2.bias"]) * w[f"{at}ls2.gamma"]
    return norm(tokens, "backbone.norm")[:, 5:].transpose(1, 2).unflatten(2, grid)
