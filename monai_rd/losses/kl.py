r"""Knowledge distillation on logits: $T^2\,\mathrm{KL}(\mathrm{softmax}(z_t/T)\,\|\,\mathrm{softmax}(z_s/T))$.

Hinton et al., arXiv 1503.02531; with T = 1 the KL term of arXiv 2407.06504, Eq. 3. It is summed over classes and
averaged over the batch. For multi-label data each class is its own distribution (present or absent), and
$T^2\,\mathrm{KL}(\mathrm{Bern}(\sigma(z_t/T))\,\|\,\mathrm{Bern}(\sigma(z_s/T)))$ is averaged over classes and batch,
like binary cross entropy (Yang et al., arXiv 2308.06453, sum it over classes).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["KLDistillationLoss"]


class KLDistillationLoss(nn.Module):
    """KL divergence of the student's class distribution from the teacher's.

    Args:
        temperature: T > 0; 1 in the paper's preset, 4 is common in the field.
        multi_label: an image may have any number of the classes.
        calibrated: the teacher's logits are first divided by `teacher_temperature`, which calibrates them.

    Attributes:
        teacher_temperature: 1 until `Method.calibrate` sets it after a validation (Guo et al., arXiv 1706.04599), which
            it does if calibrated.

    Raises:
        ValueError: the temperature is not above 0, or (when called) the logits differ in shape.

    Example:
        >>> import torch
        >>> from monai_rd.losses import KLDistillationLoss
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> kl = KLDistillationLoss(temperature=4.0)
        >>> kl(teacher, teacher).item()
        0.0
        >>> round(kl(torch.zeros(2, 2), teacher).item(), 3)
        0.304
    """

    teacher_temperature: Tensor

    def __init__(self, temperature: float = 1.0, multi_label: bool = False, calibrated: bool = False) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature, self.multi_label, self.calibrated = temperature, multi_label, calibrated
        self.register_buffer("teacher_temperature", torch.ones(()))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the scalar loss (at least 0, in float32) of two `[B, classes]` logits; gradient flows to both."""
        if student_logits.shape != teacher_logits.shape:
            raise ValueError(f"logits differ in shape: {list(student_logits.shape)} and {list(teacher_logits.shape)}")
        with torch.autocast(device_type=student_logits.device.type, enabled=False):
            student, teacher = (
                (z if z.dtype == torch.float64 else z.float()) / (self.temperature * by)
                for z, by in ((student_logits, 1.0), (teacher_logits, self.teacher_temperature))
            )
            if self.multi_label:  # [B, classes] of two log-probabilities each, absent and present
                student, teacher = (
                    torch.stack((F.logsigmoid(-z), F.logsigmoid(z)), dim=-1).flatten(0, 1) for z in (student, teacher)
                )
            else:
                student, teacher = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
            return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * self.temperature**2
