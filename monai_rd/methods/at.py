"""Attention transfer: Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928; the formula is in `losses.attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monai_rd.losses.attention import AttentionForm, attention_loss
from monai_rd.methods.base import Method, Step
from monai_rd.methods.maps import shrink_to_common
from monai_rd.networks.features import Reads
from monai_rd.networks.levels import Level, pair_levels, student_levels

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["AttentionTransfer"]

_WEIGHTS = {"mean": 1000.0, "paper": 0.05}


class AttentionTransfer(Method):
    """AT on all paired levels, their losses summed; it trains nothing of its own.

    In the form "mean", the authors' code and everybody's, a level of h x w positions adds at most 2 / (h * w): times
    1000 that is 0.64, 2.6, 10 and 41 for 56, 28, 14 and 7 rows, so at 224 pixels the last levels decide. The form
    "paper", Eq. 2, adds at most sqrt(2) a level, whatever its size; its weight is half of a beta of "about 0.1".

    Where the sides differ, the larger map is average-pooled before its attention is taken. The tokens of a ViT are a
    map too, without the class token. They must not be normalised first, which would make their attention the same
    everywhere; a few tokens of high norm may dominate it. Of bags every slice is a sample.

    Args:
        pairs: the student's levels and the teacher's.
        form: "mean" or "paper".
        weight: of the term, constant over the training; None for 1000 ("mean") or 0.05 ("paper").

    Raises:
        ValueError: an unknown form.
    """

    def __init__(
        self, pairs: tuple[tuple[Level, Level], ...], *, form: AttentionForm = "mean", weight: float | None = None
    ) -> None:
        if form not in _WEIGHTS:
            raise ValueError(f"form must be 'mean' or 'paper', not {form!r}")
        ours, theirs = zip(*pairs, strict=True)
        super().__init__(Reads(levels=theirs), ours)
        self.form: AttentionForm = form
        self.weight = _WEIGHTS[form] if weight is None else weight

    @classmethod
    def build(
        cls, student: Student, teacher: FrozenFoundationModel, labels: Tensor, **options: Any
    ) -> AttentionTransfer:
        """Build it on all levels of this student.

        Raises:
            ValueError: a network without maps that could be read, or what the class refuses.
        """
        return cls(pair_levels(student_levels(student), teacher.levels), **options)

    def weights(self, progress: float) -> dict[str, float]:
        """The weight, the same in all epochs."""
        return {"at": self.weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Term `at`, of one map `[N, C, h, w]` of each level."""
        losses = [
            attention_loss(*shrink_to_common(ours, theirs), form=self.form)
            for ours, theirs in zip(step.student.maps, step.taught.maps, strict=True)
        ]
        return {"at": torch.stack(losses).sum()}
