"""Losses in full precision, also under mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

__all__ = ["in_float32"]

Options = ParamSpec("Options")
Loss = Callable[Concatenate[Tensor, Tensor, Options], Tensor]


def in_float32(loss: Loss[Options]) -> Loss[Options]:
    """Compute a loss of two tensors in float32 (float64 where a tensor is float64) with autocast off.

    Sums of squares and Gram matrices can exceed float16's largest number, and small differences are lost in it.
    """

    @wraps(loss)
    def computed(student: Tensor, teacher: Tensor, /, *args: Options.args, **kwargs: Options.kwargs) -> Tensor:
        with torch.autocast(device_type=student.device.type, enabled=False):
            student, teacher = (x if x.dtype == torch.float64 else x.float() for x in (student, teacher))
            return loss(student, teacher, *args, **kwargs)

    return computed
