"""Mixed precision: where it pays, in which type, and on the CPU, for MONAI's own `amp` is CUDA's alone."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from monai_rd.handlers.failing import on_failure

__all__ = ["CPUAutocast", "amp_settings", "default_amp"]


def default_amp(device: torch.device | str, student: str = "") -> bool:
    """Whether mixed precision pays: on CUDA, and for most students on a CPU that computes in bfloat16."""
    if torch.device(device).type == "cuda":
        return True
    # A step of ShuffleNetV2 took 0.55 s in bfloat16 and 0.43 s in float32, where ResNet18's took 0.66 s and 1.11 s.
    if student.removeprefix("timm:").startswith("shufflenet"):
        return False
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))


def amp_settings(device: torch.device | str) -> dict[str, Any]:
    """Of MONAI's mixed precision, which is CUDA's alone: bfloat16 where the card computes in it, else float16."""
    bfloat16 = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return {"dtype": torch.bfloat16} if bfloat16 else {}


class CPUAutocast:
    """Runs the forward pass and the losses of a `SupervisedTrainer` in bfloat16 where PyTorch's autocast allows it.

    The backward pass is left out, as PyTorch's documentation asks; there is no gradient scaling, because bfloat16 has
    float32's range. Parameters and their gradients stay in float32.

    Args:
        enabled: False: do nothing.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._within: Any = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer; to one of a GPU, which has MONAI's own mixed precision, nothing is attached."""
        if not self.enabled or torch.device(engine.state.device).type != "cpu":
            return
        engine.add_event_handler(Events.ITERATION_STARTED, self._enter)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._leave)
        on_failure(engine, lambda engine, error: self._leave(engine))

    def _enter(self, engine: Engine) -> None:
        self._within = torch.autocast("cpu", torch.bfloat16)
        self._within.__enter__()

    def _leave(self, engine: Engine) -> None:
        if self._within is not None:
            self._within.__exit__(None, None, None)
            self._within = None
