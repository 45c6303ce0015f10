r"""Attention transfer: where in an image two networks are active, whatever their channels.

A map $A$ `[N, C, h, w]` has the attention map $Q(A) = \frac{1}{C}\sum_c A_c^2$, flattened to a vector of its positions,
and $\hat Q = Q / \lVert Q \rVert_2$ for each sample. Zagoruyko & Komodakis (ICLR 2017, arXiv 1612.03928) write

$$L = \lVert \hat Q(A_s) - \hat Q(A_t) \rVert_2 \qquad (2)$$

and their code, which all others follow, computes the mean of $(\hat Q(A_s) - \hat Q(A_t))^2$ over positions.
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
    """Distance of two attention maps, mean over the samples; gradient flows to both.

    Args:
        student: maps `[N, C1, h, w]`, of volumes `[N, C1, d, h, w]`.
        teacher: maps `[N, C2, h, w]` of the same samples and sides; their channels may differ.
        form: "mean", the mean of the squared difference over positions: at most 2 / (h * w). "paper", the Euclidean
            length of the difference: at most sqrt(2).

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: maps of other samples or sides than the other's, or an unknown form.
    """
    if form not in ("mean", "paper"):
        raise ValueError(f"form must be 'mean' or 'paper', not {form!r}")
    if student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:]:
        raise ValueError(f"attention maps differ in shape: of {list(student.shape)} and {list(teacher.shape)}")
    ours, theirs = (F.normalize(maps.square().mean(dim=1).flatten(1), dim=1) for maps in (student, teacher))
    if form == "paper":
        return (ours - theirs).norm(dim=1).mean()
    return F.mse_loss(ours, theirs)
