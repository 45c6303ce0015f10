r"""Similarity-preserving distillation: samples that look alike to the teacher shall look alike to the student.

With the features of a batch flattened to rows, $A$ `[n, d]`, and $G = A A^T$ with each row divided by its Euclidean
length (Tung & Mori, ICCV 2019, arXiv 1907.09682):

$$L = \frac{1}{n^2} \lVert G_t - G_s \rVert_F^2$$
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from monai_rd.losses.precision import in_float32

__all__ = ["similarity_loss"]


@in_float32
def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the row-normalised similarities; gradient flows to both.

    Args:
        student: features `[n, ...]`, of any further shape.
        teacher: features `[n, ...]` of the same samples in the same order.

    Returns:
        Scalar, at least 0; at most 2 / n where no feature is negative. The normalisation is by row, so that neither
        matrix is symmetric.

    Raises:
        ValueError: batches of different sizes.
    """
    if len(student) != len(teacher):
        raise ValueError(f"features of different batches: {list(student.shape)} and {list(teacher.shape)}")
    ours, theirs = (F.normalize(rows @ rows.T, dim=1) for rows in (student.flatten(1), teacher.flatten(1)))
    return F.mse_loss(ours, theirs)
