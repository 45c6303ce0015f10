"""Mixed precision: when it is faster, in which type, and on the CPU, as MONAI's own `amp` is for CUDA only."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from monai_rd.handlers.failing import on_failure
from monai_rd.methods.base import unwrapped
from monai_rd.networks import student_dims

__all__ = ["CPUAutocast", "amp_settings", "default_amp"]

# Parts of the names of students with strided depthwise convolutions, whose step took longer in bfloat16 than in float32
# on a CPU at 64 pixels, 1.3 to 2.8 times, and at 224 pixels 0.7 to 2.1 times; ResNet18's took 0.4 to 0.7 times as long.
_FASTER_IN_FLOAT32 = ("efficientnet", "efficientvit", "fastvit", "hgnet", "mobilenet", "mobileone", "shufflenet")


def default_amp(device: torch.device | str, student: str = "") -> bool:
    """Whether mixed precision is faster: on CUDA, and for most 2D students on a CPU with bfloat16 instructions.

    3D students are trained in float32 on a CPU, see `CPUAutocast`.

    Args:
        device: device of the training.
        student: name of the student, as `Student` takes it.
    """
    if torch.device(device).type == "cuda":
        return True
    if any(part in student for part in _FASTER_IN_FLOAT32) or (student and student_dims(student) == 3):
        return False
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))


def amp_settings(device: torch.device | str) -> dict[str, Any]:
    """Return `amp_kwargs` for MONAI's engines: bfloat16 on a GPU that supports it, otherwise the default float16."""
    bfloat16 = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return {"dtype": torch.bfloat16} if bfloat16 else {}


class CPUAutocast:
    """Runs the forward pass and the losses of a `SupervisedTrainer` on a CPU under PyTorch's autocast to bfloat16.

    The backward pass runs outside autocast, as PyTorch's documentation recommends. There is no gradient scaling,
    because bfloat16 has the range of float32. Parameters and their gradients stay in float32.

    3D students are refused: with PyTorch 2.14 (oneDNN 3.12) the gradient of a 3 x 3 x 3 convolution in bfloat16 comes
    from memory that was never written, NaN or any number, where the map is 2 voxels wide (stride 1) or 1 (stride 2).

    Args:
        enabled: False disables the handler.

    Raises:
        ValueError: (when attached) the trainer's network is a 3D student.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from monai_rd.handlers import CPUAutocast
        >>> network, batch = torch.nn.Linear(8, 2), {"image": torch.rand(4, 8), "label": torch.tensor([0, 1, 0, 1])}
        >>> optimizer, loss = torch.optim.SGD(network.parameters(), 0.1), torch.nn.CrossEntropyLoss()
        >>> trainer = SupervisedTrainer("cpu", 1, [batch], network, optimizer, loss, decollate=False)
        >>> CPUAutocast().attach(trainer)
        >>> trainer.run()
        >>> trainer.state.output["pred"].dtype, network.weight.dtype
        (torch.bfloat16, torch.float32)
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._within: Any = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer; nothing is attached to a trainer on a GPU, which uses MONAI's own mixed precision."""
        if not self.enabled or torch.device(engine.state.device).type != "cpu":
            return
        network = getattr(engine, "network", None)  # MONAI's trainers have one
        if network is not None and getattr(unwrapped(network), "spatial_dims", 2) == 3:
            raise ValueError(
                "--amp true: 3D students are trained in float32 on a CPU, as PyTorch's gradients of small maps of "
                "volumes are wrong there in bfloat16: leave --amp out"
            )
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
