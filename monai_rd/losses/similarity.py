r"""Similarity-preserving distillation: samples that are similar for the teacher should be similar for the student.

$A$ `[n, d]` are the features of a batch, one flattened row per sample, and $G$ is $A A^T$ with each row divided by its
Euclidean length (Tung & Mori, ICCV 2019, arXiv 1907.09682):

$$L = \frac{1}{n^2} \lVert G_t - G_s \rVert_F^2$$
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from monai_rd.losses.precision import in_float32

__all__ = ["similarity_loss"]


@in_float32
def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the row-normalised similarity matrices; gradient flows to both.

    Args:
        student: features `[n, ...]`, with any further axes.
        teacher: features `[n, ...]` of the same samples in the same order.

    Returns:
        Scalar, at least 0; at most 2 / n if no feature is negative. As rows are normalised, the matrices are not
        symmetric.

    Raises:
        ValueError: the batch sizes differ.
    """
    if len(student) != len(teacher):
        raise ValueError(f"features of different batches: {list(student.shape)} and {list(teacher.shape)}")
    ours, theirs = (F.normalize(rows @ rows.T, dim=1) for rows in (student.flatten(1), teacher.flatten(1)))
    return F.mse_loss(ours, theirs)
