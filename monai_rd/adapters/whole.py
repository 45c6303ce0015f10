"""Linear probe (trains only the head) and full fine-tuning (trains the whole backbone)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import nn

from monai_rd.adapters.base import Adapter, Fitted, Recipe

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["FULL", "LINEAR_PROBE"]


def fit_probe(teacher: FrozenFoundationModel) -> Fitted:
    """Keep the teacher frozen: only the head is trained; works for ONNX and TFLite files too."""
    return Fitted(teacher.backbone, teacher.channels, teacher.kind)


def fit_full(teacher: FrozenFoundationModel) -> Fitted:
    """Train a copy of the whole backbone.

    Raises:
        ValueError: the teacher is an ONNX or TFLite file.
    """
    if not isinstance(teacher.backbone, nn.Module):
        raise ValueError(
            f"the teacher '{teacher.name}' is a black box, which gives no gradient: only linear_probe fits it to a task"
        )
    backbone = copy.deepcopy(teacher.backbone).requires_grad_(True)
    return Fitted(backbone, teacher.channels, teacher.kind)


LINEAR_PROBE = Adapter("linear_probe", fit_probe, Recipe("adam", 1e-3), normalised=True)
FULL = Adapter("full", fit_full, Recipe("adamw", 1e-4, batch=32, weight_decay=0.05, warm_up=0.1))
