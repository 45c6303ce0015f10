"""Networks at their full size, for shapes and counts: nothing is computed or kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from monai_rd.networks.teacher.zoo.networks import build


def on_meta(builder: str, arguments: Mapping[str, Any]) -> nn.Module:
    with torch.device("cpu" if builder.startswith("monai:") else "meta"):  # MONAI's Swin cannot be built on meta
        return build(builder, arguments).to("meta")
