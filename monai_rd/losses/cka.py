r"""Centred kernel alignment (CKA) between two sets of features of the same samples.

With features $X$ `[n, d1]` and $Y$ `[n, d2]`, $K = XX^T$, $L = YY^T$ and $H = I - 11^T/n$:

$$\mathrm{CKA}(X, Y) = \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}}$$

Two estimators of HSIC:

- biased, the paper's (arXiv 2407.06504, Eq. 2): $\langle HKH, HLH \rangle / (n-1)^2$. On *independent* features it is
  far from 0 when n is small beside d (0.94 at n=32, d=512).
- unbiased, HSIC_1 of Song et al. (JMLR 13, 2012, Eq. 5), the minibatch estimator of Nguyen et al. (arXiv 2010.15327).

Both are computed from centred features. Then $K1 = 0$, so the sums over rows that HSIC_1 subtracts reduce to the
diagonals $k$, $l$ of the centred Gram matrices,

$$n(n-3)\,\mathrm{HSIC}_1 = \langle K, L \rangle - k \cdot l + \frac{(\sum k)(\sum l)}{(n-1)(n-2)}
- \frac{2\,k \cdot l}{n-2}$$

and $\langle K, L \rangle = \lVert X^T Y \rVert_F^2$ may be taken from whichever product is cheaper. HSIC_1 does not
change when the features are shifted, but without centring first it is a small difference of large numbers, lost in
float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["SMALLEST_BATCH", "CKALoss", "Estimator", "cka", "hsics"]

Estimator = Literal["biased", "unbiased"]
SMALLEST_BATCH = {"biased": 2, "unbiased": 4}


def cka(x: Tensor, y: Tensor, estimator: Estimator = "biased") -> Tensor:
    """CKA of two feature matrices, with gradient to both.

    Computed in float32 (float64 for float64 input) with autocast off: Gram sums pass float16's largest number.

    Args:
        x: features `[n, d1]`.
        y: features `[n, d2]` of the same n samples in the same order.
        estimator: "biased" (the paper's) or "unbiased".

    Returns:
        Scalar. Biased: in [0, 1]. Unbiased: at most 1, may be negative. 0 where one side is constant over the batch.

    Raises:
        ValueError: not two matrices of one batch size; a batch smaller than 2 (biased) or 4 (unbiased); an unknown
            estimator.
    """
    if estimator not in SMALLEST_BATCH:
        raise ValueError(f"estimator must be 'biased' or 'unbiased', not {estimator!r}")
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ValueError(
            f"CKA needs features [n, d1] and [n, d2] of one batch, got {list(x.shape)} and {list(y.shape)}"
        )
    if x.shape[0] < SMALLEST_BATCH[estimator]:
        raise ValueError(
            f"the {estimator} CKA needs a batch of at least {SMALLEST_BATCH[estimator]}, got {x.shape[0]}: "
            "use a larger batch_size, or drop_last=True if this is the last, incomplete batch"
        )
    cross, own_x, own_y = hsics(x, y, estimator)
    # The square root's slope at 0 is infinite; constant features end here and get CKA 0 and no gradient.
    smallest = torch.finfo(cross.dtype).eps ** 2
    return cross / (own_x * own_y).clamp(min=smallest).sqrt()


def hsics(x: Tensor, y: Tensor, estimator: Estimator) -> tuple[Tensor, Tensor, Tensor]:
    """What `cka` divides, for the same features: HSIC of x and y, of x and x, of y and y.

    Of batches of one size they may be summed before they are divided (Nguyen et al.), which unbiased ones of small
    batches need: by chance a single one of these is negative.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        x, y = _centred_and_scaled(x), _centred_and_scaled(y)
        return _hsic(x, y, estimator), _hsic(x, x, estimator), _hsic(y, y, estimator)


def _centred_and_scaled(features: Tensor) -> Tensor:
    """Centre over the batch, then bring to Frobenius norm 1: CKA does not change and no product can overflow."""
    features = features if features.dtype == torch.float64 else features.float()
    features = features - features.mean(dim=0, keepdim=True)
    return features / torch.linalg.vector_norm(features).clamp(min=torch.finfo(features.dtype).tiny ** 0.5)


def _hsic(x: Tensor, y: Tensor, estimator: Estimator) -> Tensor:
    """HSIC of centred features, up to a factor that depends on n alone and cancels in CKA."""
    n, d1, d2 = x.shape[0], x.shape[1], y.shape[1]
    gram_is_cheaper = n * (d1 + d2) <= d1 * d2
    inner = ((x @ x.T) * (y @ y.T)).sum() if gram_is_cheaper else (x.T @ y).square().sum()
    if estimator == "biased":
        return inner
    k, l = x.square().sum(dim=1), y.square().sum(dim=1)  # noqa: E741 - the names of the formula
    return inner - (k @ l) * (1 + 2 / (n - 2)) + k.sum() * l.sum() / ((n - 1) * (n - 2))


class CKALoss(nn.Module):
    """L_CKA = -CKA(student, teacher): arXiv 2407.06504, Eq. 2.

    Args:
        estimator: "biased" (the paper's) or "unbiased" (needs a batch of at least 4).

    Raises:
        ValueError: an unknown estimator, or (when called) what `cka` refuses.

    Example:
        Features of eight images. CKA is 1 between features and the same ones turned and scaled, in another width too.

        >>> import torch
        >>> from monai_rd.losses import CKALoss
        >>> student = torch.randn(8, 4)
        >>> turn, _ = torch.linalg.qr(torch.randn(6, 4))
        >>> round(CKALoss()(student, 3 * student @ turn.T).item(), 3)
        -1.0
    """

    def __init__(self, estimator: Estimator = "biased") -> None:
        super().__init__()
        if estimator not in SMALLEST_BATCH:
            raise ValueError(f"estimator must be 'biased' or 'unbiased', not {estimator!r}")
        self.estimator = estimator

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the scalar -CKA of `student` `[B, D1]` and `teacher` `[B, D2]`; gradient flows to both."""
        return -cka(student, teacher, self.estimator)
