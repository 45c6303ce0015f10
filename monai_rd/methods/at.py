r"""Attention transfer: Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928.

With $\hat Q$ of `losses.attention`, the authors' code adds, of each pair $l$ of maps, the mean of
$(\hat Q(A_s) - \hat Q(A_t))^2$ over its $h_l w_l$ positions, times 1000. As $\hat Q$ has length 1, whatever the sides,
that is at most $2000 / (h_l w_l)$: the smaller the images, the stronger the method (all four maps of a ResNet at most
54 together at 224 pixels, 664 at 64). Here it is

$$L_\mathrm{AT} = \sum_l \frac{1}{(224 / \tau_l)^2}\,\lVert \hat Q(A_s^l) - \hat Q(A_t^l) \rVert_2^2$$

with $\tau_l$ the stride of the pair's coarser map: the authors' own at 224 pixels, and as strong as there at any other
size, and in volumes.
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
    """AT on all paired levels, their losses summed; it trains nothing of its own.

    In the form "mean", the formula above, times 1000, levels of stride 4, 8, 16 and 32 add at most 0.64, 2.6, 10 and
    41, so that the last ones decide. The form "paper", Eq. 2, adds at most sqrt(2) a level, whatever its size; its
    weight is half of a beta of "about 0.1".

    Where the sides differ, the larger map is average-pooled before its attention is taken. The tokens of a ViT are a
    map too, without the class token. They must not be normalised first, which would make their attention the same
    everywhere; a few tokens of high norm may dominate it. Of bags every slice is a sample.

    Args:
        form: "mean" or "paper".
        weight: of the term, constant over the training; None for 1000 ("mean") or 0.05 ("paper").

    Raises:
        ValueError: an unknown form, or a network without maps that could be read.
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
        """Term `at`, of one map `[N, C, h, w]` of each level."""
        losses = []
        for ours, theirs, stride in zip(step.student.maps, step.teacher_features.maps, self.strides, strict=True):
            mine, wanted = shrink_to_common(ours, theirs)
            loss = attention_loss(mine, wanted, form=self.form)
            if self.form == "mean":
                loss = loss * mine.shape[2:].numel() / (_SIDE / stride) ** 2
            losses.append(loss)
        return {"at": torch.stack(losses).sum()}
