r"""Masked generative distillation (MGD), arXiv 2205.01529.

A random mask $M$ sets some channels of the student's last map $S$ to zero, and a small network $G$ learns to generate
the teacher's map $T$ from the rest:

$$L_\mathrm{MGD} = \frac{1}{N} \sum \bigl(T - G(M \odot \mathrm{align}(S))\bigr)^2,\qquad
G = \mathrm{conv}_{3\times3} \circ \mathrm{ReLU} \circ \mathrm{conv}_{3\times3}$$
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from monai_rd.methods.base import Method, Step
from monai_rd.methods.maps import convolution, fold_slices, last_student_map, shrink_to_common, teacher_map_channels
from monai_rd.networks import FrozenFoundationModel, Reads, Student

__all__ = ["MaskedGenerativeDistillation"]


class MaskedGenerativeDistillation(Method):
    """MGD on the last map of student and teacher, with the paper's setting for classification.

    The term is a sum over channels and positions, so the weight of the mean square is `weight` * C * h * w: 7.0 for a
    ResNet-50 teacher (2048 x 7 x 7), 2.6 for a ViT-B at 7 x 7. It changes with the teacher's width and the image size.
    As in the paper, the kept entries are not scaled up to compensate for the masked ones. For bags, each slice counts
    as one image.

    If the map sizes differ, the larger map is average-pooled to the smaller size; the reference code rejects such
    pairs. The teacher's map is its tap (its output features), so stored features can be used.

    Args:
        mask_ratio: share that is masked, in [0, 1).
        mask: "channels" masks whole channels, the paper's choice for classification; "pixels" masks positions, its
            choice for detection and segmentation (there with a ratio of 0.65 and 0.75 and a weight of 2e-5).
        weight: weight of the term.

    Raises:
        ValueError: an unknown mask, a ratio outside [0, 1), a student whose features are not the mean of a map, or a
            teacher that gives vectors.
    """

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        mask_ratio: float = 0.15,
        mask: Literal["channels", "pixels"] = "channels",
        weight: float = 7e-5,
    ) -> None:
        super().__init__(student, teacher, labels)
        if mask not in ("channels", "pixels"):
            raise ValueError(f"mask is 'channels' or 'pixels', not {mask!r}")
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio is at least 0 and below 1, got {mask_ratio}")
        channels, level, dims = (
            teacher_map_channels(teacher, "mgd"),
            last_student_map(student, "mgd"),
            self.spatial_dims,
        )
        self.student_levels, self.reads, self.constant_weights = (level,), Reads(tap=True), {"mgd": weight}
        self.align = nn.Identity() if level.channels == channels else convolution(level.channels, channels, 1, dims)
        self.generator = nn.Sequential(
            convolution(channels, channels, 3, dims),
            nn.ReLU(inplace=True),
            convolution(channels, channels, 3, dims),
        )
        self.mask_ratio, self.mask = mask_ratio, mask

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the term `mgd`, a sum of squares per image. The mask is drawn from torch's global random state."""
        wanted = fold_slices(step.teacher_features.tap, self.spatial_dims)
        seen, wanted = shrink_to_common(step.student.maps[0], wanted)
        aligned = self.align(seen)
        shape = list(aligned.shape)
        if self.mask == "channels":
            shape[2:] = [1] * self.spatial_dims
        else:
            shape[1] = 1
        kept = (torch.rand(shape, device=aligned.device) >= self.mask_ratio).to(aligned.dtype)
        generated = self.generator(aligned * kept)
        with torch.autocast(generated.device.type, enabled=False):
            return {"mgd": (generated.float() - wanted.float()).square().sum() / len(generated)}
