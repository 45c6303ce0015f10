"""Temperature scaling: calibrating a network's probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax

__all__ = ["fit_temperature"]

_FURTHEST = np.log(100.0)


def fit_temperature(logits: ArrayLike, labels: ArrayLike, multi_label: bool = False) -> float:
    """Fit the temperature T > 0 that maximises the likelihood of the labels under `softmax(logits / T)`.

    The sigmoid takes the place of the softmax for multi-label data. Guo et al. 2017 (arXiv 1706.04599, section 4.2).
    The order of the classes, and so the accuracy, does not change. Labels are smoothed as by Platt (1999): the target
    of a class with n items is (n + 1) / (n + classes). Otherwise a small validation set without errors would give T = 0
    and probabilities of 0 and 1.

    Args:
        logits: logits of the validation set, `[N, classes]`.
        labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.
        multi_label: whether an image may have any number of classes.

    Returns:
        T in [0.01, 100]; above 1 for an overconfident network.

    Raises:
        ValueError: shapes that do not match, or logits that are not finite.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if z.ndim != 2 or not len(z) or y.shape != (z.shape if multi_label else z.shape[:1]):
        raise ValueError(f"logits [N, classes] and their labels are needed, got {list(z.shape)} and {list(y.shape)}")
    if not np.isfinite(z).all():
        raise ValueError("the network's answers on the validation set are not all finite: its training has diverged")
    if multi_label:
        n = np.stack([(1 - y).sum(axis=0), y.sum(axis=0)])  # [2, classes]
        target = np.where(y == 1, (n[1] + 1) / (n[1] + 2), 1 / (n[0] + 2))
    else:
        n = np.bincount(y, minlength=z.shape[1])
        target = (1 / (n + z.shape[1]))[y, None].repeat(z.shape[1], axis=1)
        target[np.arange(len(y)), y] *= n[y] + 1

    def loss(log_t: float) -> float:
        scaled = z / np.exp(log_t)
        if multi_label:
            return float(-(target * log_expit(scaled) + (1 - target) * log_expit(-scaled)).mean())
        return float(-(target * log_softmax(scaled, axis=1)).sum(axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-_FURTHEST, _FURTHEST), method="bounded").x))
