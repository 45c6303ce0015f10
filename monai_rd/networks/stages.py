"""The modules of timm, open_clip and MONAI networks whose outputs are feature maps."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["monai_stages", "open_clip_stages", "quarters", "timm_stages"]

Stages = tuple[tuple[str, ...], int]
"""Paths of the modules, from the input to the output, and the number of tokens before the grid's."""


def quarters(blocks: str, depth: int) -> tuple[str, ...]:
    """Return the paths of the last block of each quarter of a transformer: blocks 3, 6, 9 and 12 of 12."""
    last = dict.fromkeys(math.ceil(depth * quarter / 4) - 1 for quarter in (1, 2, 3, 4))
    return tuple(f"{blocks}.{number}" for number in last)


# Hiera's tokens are in the order of its windows, not of the grid. Each stage of HRNet outputs several maps, and timm
# describes different ones.
_WITHOUT_STAGES = ("Hiera", "HighResolutionNet", "HighResolutionNetFeatures")


def timm_stages(network: Any) -> Stages:
    """Find a timm network's stages from its `feature_info`: those with stride 4 or more, or the quarters of a ViT."""
    if type(network).__name__ in _WITHOUT_STAGES:
        return (), 0
    described = getattr(network, "feature_info", [])
    prefix = getattr(network, "num_prefix_tokens", 0)
    strides = {stage["module"]: stage["reduction"] for stage in getattr(described, "info", described)}
    if len(strides) > 4 and len(set(strides.values())) == 1:
        return quarters("blocks", len(strides)), prefix
    names = {name for name, _ in network.named_modules()}
    return tuple(name for name, stride in strides.items() if stride >= 4 and name in names), prefix


def open_clip_stages(network: Any) -> Stages:
    """Find the stages of an open_clip image tower: a ModifiedResNet, a ViT, or a timm network."""
    if hasattr(network, "trunk"):
        stages, prefix = timm_stages(network.trunk)
        return tuple(f"trunk.{stage}" for stage in stages), prefix
    if hasattr(network, "layer4"):
        return ("layer1", "layer2", "layer3", "layer4"), 0
    return quarters("transformer.resblocks", len(network.transformer.resblocks)), 1


def monai_stages(network: Any) -> Stages:
    """Find the stages of a MONAI encoder: a SegResEncoder, a SwinTransformer or a ViT."""
    name = type(network).__name__
    if name == "SegResEncoder":
        return tuple(f"layers.{number}.blocks" for number in range(len(network.layers))), 0
    if name == "SwinTransformer":
        return tuple(f"layers{number}.0" for number in (1, 2, 3, 4)), 0
    return quarters("blocks", len(network.blocks)), int(hasattr(network, "cls_token"))
