r"""Relational knowledge distillation: distances and angles between the samples of a batch.

Park et al., CVPR 2019, arXiv 1904.05068, with $x_i$ the features of sample i and $\ell$ the smooth L1 (Huber) loss:

$$\psi_D(i, j) = \frac{1}{\mu} \lVert x_i - x_j \rVert_2, \qquad
\psi_A(i, j, k) = \Bigl\langle \frac{x_j - x_i}{\lVert x_j - x_i \rVert},
\frac{x_k - x_i}{\lVert x_k - x_i \rVert} \Bigr\rangle$$

where $\mu$ is the mean of the distances above 0. $L_D$ and $L_A$ are the means of $\ell(\psi(s), \psi(t))$ over all
pairs and all triplets, including those with i = j or i = k, which are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_rd.losses.precision import in_float32

__all__ = ["angle_loss", "distance_loss"]


def _distances(x: Tensor) -> Tensor:
    """Euclidean distances `[n, n]`, computed from differences: exactly 0, without gradient, between equal samples."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _relative_distances(x: Tensor) -> Tensor:
    distances = _distances(x)
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1)


def _cosines(x: Tensor) -> Tensor:
    """Cosine of the angle at i between j and k `[n, n, n]`; 0 if sample j or k equals i.

    The inner products of differences are computed from the Gram matrix, which avoids a tensor `[n, n, d]`. They are
    small differences of large numbers, hence float64.
    """
    distances = _distances(x)
    inverse = torch.where(distances > 0, 1 / torch.where(distances > 0, distances, 1), 0)
    centred = x.double()
    centred = centred - centred.mean(dim=0)
    gram = centred @ centred.T
    # <x_j - x_i, x_k - x_i> = <x_j, x_k> - <x_i, x_j> - <x_i, x_k> + <x_i, x_i>
    inner = gram.unsqueeze(0) - gram.unsqueeze(2) - gram.unsqueeze(1) + gram.diagonal().view(-1, 1, 1)
    return inner.to(x.dtype) * inverse.unsqueeze(2) * inverse.unsqueeze(1)


def _check(student: Tensor, teacher: Tensor) -> None:
    if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher):
        raise ValueError(
            f"features must be [n, d1] and [n, d2] of one batch, got {list(student.shape)} and {list(teacher.shape)}"
        )


@in_float32
def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance loss L_D of two sets of features; gradient flows to both.

    Args:
        student: features `[n, d1]`.
        teacher: features `[n, d2]` of the same samples in the same order.

    Returns:
        Scalar, at least 0; it is 0, not NaN, for a single sample, or if all samples are equal on both sides.

    Raises:
        ValueError: the features are not two matrices of the same batch size.
    """
    _check(student, teacher)
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


@in_float32
def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Angle loss L_A of two sets of features, with the arguments of `distance_loss`; its memory grows with n^3."""
    _check(student, teacher)
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher))
