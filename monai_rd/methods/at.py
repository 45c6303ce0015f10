r"""Attention transfer: Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928.

With $\hat Q$ as defined in `losses.attention`, the authors' code adds, for each pair $l$ of maps, the mean of
$(\hat Q(A_s) - \hat Q(A_t))^2$ over its $h_l w_l$ positions, times 1000. As $\hat Q$ has length 1 at any map size, this
is at most $2000 / (h_l w_l)$: the smaller the images, the stronger the method (the four maps of a ResNet add up to at
most 54 at 224 pixels, and 664 at 64). Here the loss is

$$L_\mathrm{AT} = \sum_l \frac{1}{(224 / \tau_l)^2}\,\lVert \hat Q(A_s^l) - \hat Q(A_t^l) \rVert_2^2$$

where $\tau_l$ is the stride of the coarser map of the pair. At 224 pixels it equals the authors' loss; at other image
sizes, and for volumes, it is as strong as at 224 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_rd.losses.attention import AttentionForm, attention_loss
from monai_rd.methods.base import Method, Step
from monai_rd.methods.maps import shrink_to_common
from monai_rd.networks import FrozenFoundationModel, Reads, Student
from monai_rd.networks.levels import pair_levels

__all__ = ["AttentionTransfer"]

_WEIGHTS = {"mean": 1000.0, "paper": 0.05}
_SIDE = 224  # pixels of the images that the weight 1000 is for


class AttentionTransfer(Method):
    """Attention transfer (AT): sum of the losses of all paired levels; it has no trainable parts of its own.

    In the form "mean" (the formula above, times 1000), levels of stride 4, 8, 16 and 32 add at most 0.64, 2.6, 10 and
    41, so the last ones dominate. The form "paper" (Eq. 2) adds at most sqrt(2) per level at any map size; its weight
    is half of the paper's beta of "about 0.1".

    If the map sizes differ, the larger map is average-pooled before its attention is computed. The tokens of a ViT,
    without the class token, are used as a map too. They must not be normalised first, which would make their attention
    the same everywhere; a few tokens of high norm may dominate it. For bags, each slice is one sample.

    Args:
        form: "mean" or "paper".
        weight: weight of the term, constant over the training; None for 1000 ("mean") or 0.05 ("paper").

    Raises:
        ValueError: an unknown form, or a network whose feature maps cannot be read.
    """

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        form: AttentionForm = "mean",
        weight: float | None = None,
    ) -> None:
        super().__init__(student, teacher, labels)
        if form not in _WEIGHTS:
            raise ValueError(f"form must be 'mean' or 'paper', not {form!r}")
        pairs = pair_levels(student.levels, teacher.levels)
        self.student_levels, theirs = zip(*pairs, strict=True)
        self.reads = Reads(levels=theirs)
        self.form: AttentionForm = form
        self.strides = [max(mine.stride, other.stride) for mine, other in pairs]
        self.constant_weights = {"at": _WEIGHTS[form] if weight is None else weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the term `at`, computed from one map `[N, C, h, w]` per level."""
        losses = []
        for ours, theirs, stride in zip(step.student.maps, step.teacher_features.maps, self.strides, strict=True):
            mine, wanted = shrink_to_common(ours, theirs)
            loss = attention_loss(mine, wanted, form=self.form)
            if self.form == "mean":
                loss = loss * mine.shape[2:].numel() / (_SIDE / stride) ** 2
            losses.append(loss)
        return {"at": torch.stack(losses).sum()}
