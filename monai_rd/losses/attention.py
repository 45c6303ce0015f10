r"""Attention transfer: compares where in an image two networks are active, for any numbers of channels.

The attention map of a feature map $A$ `[N, C, h, w]` is $Q(A) = \frac{1}{C}\sum_c A_c^2$, flattened to a vector over
positions, and $\hat Q = Q / \lVert Q \rVert_2$ for each sample. The loss of Zagoruyko & Komodakis (ICLR 2017, arXiv
1612.03928) is

$$L = \lVert \hat Q(A_s) - \hat Q(A_t) \rVert_2 \qquad (2)$$

Their code, which all others follow, computes the mean of $(\hat Q(A_s) - \hat Q(A_t))^2$ over positions instead.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from monai_rd.losses.precision import in_float32

__all__ = ["AttentionForm", "attention_loss"]

AttentionForm = Literal["mean", "paper"]


@in_float32
def attention_loss(student: Tensor, teacher: Tensor, form: AttentionForm = "mean") -> Tensor:
    """Distance between the attention maps of student and teacher, averaged over samples; gradient flows to both.

    Args:
        student: maps `[N, C1, h, w]`, or of volumes `[N, C1, d, h, w]`.
        teacher: maps `[N, C2, h, w]` (or `[N, C2, d, h, w]`) of the same samples; only the channels may differ.
        form: "mean", the mean of the squared difference over positions: at most 2 / (h * w). "paper", the Euclidean
            length of the difference: at most sqrt(2).

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: the number of samples or the map sizes differ, or the form is unknown.
    """
    if form not in ("mean", "paper"):
        raise ValueError(f"form must be 'mean' or 'paper', not {form!r}")
    if student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:]:
        raise ValueError(f"attention maps differ in shape: of {list(student.shape)} and {list(teacher.shape)}")
    ours, theirs = (F.normalize(maps.square().mean(dim=1).flatten(1), dim=1) for maps in (student, teacher))
    if form == "paper":
        return (ours - theirs).norm(dim=1).mean()
    return F.mse_loss(ours, theirs)
