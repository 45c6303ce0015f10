"""Classification metrics of a test set, each with its 95 % interval where it has one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

__all__ = ["classification_metrics"]


def classification_metrics(probabilities: ArrayLike, labels: ArrayLike, seed: int = 0) -> dict[str, Any]:
    """Accuracy, ROC AUC, sensitivity and specificity.

    Of two classes, class 1 is the positive one. Of more, AUC is the unweighted mean over classes, each against the
    rest, and sensitivity and specificity are left out.

    Args:
        probabilities: `[N, classes]`, rows summing to 1.
        labels: class indices `[N]`.
        seed: of the bootstrap.

    Returns:
        `n`, and for each metric its `value` in [0, 1] and 95 % `interval`: Wilson's (1927) for proportions, a
        stratified percentile bootstrap of 1000 draws for the AUC.

    Raises:
        ValueError: shapes that do not fit, a label out of range, or a class without a sample.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1]:
        raise ValueError(
            f"probabilities [N, classes] and labels [N] are needed, got {list(p.shape)} and {list(y.shape)}"
        )
    if set(np.unique(y)) != set(range(p.shape[1])):
        raise ValueError(
            f"every class of 0 to {p.shape[1] - 1} must occur among the labels, found {sorted(set(y.tolist()))}"
        )
    chosen = p.argmax(axis=1)
    result: dict[str, Any] = {"n": len(y), "accuracy": _proportion(chosen == y), "roc_auc": _auc(p, y, seed)}
    if p.shape[1] == 2:
        result["sensitivity"] = _proportion(chosen[y == 1] == 1)
        result["specificity"] = _proportion(chosen[y == 0] == 0)
    return result


def _proportion(hits: np.ndarray) -> dict[str, Any]:
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return {"value": float(hits.mean()), "interval": [float(interval.low), float(interval.high)]}


def _auc(p: np.ndarray, y: np.ndarray, seed: int) -> dict[str, Any]:
    scored = range(p.shape[1]) if p.shape[1] > 2 else [1]  # of two classes each has the same AUC

    def auc(rows: np.ndarray) -> float:
        return float(np.mean([roc_auc_score(y[rows] == index, p[rows, index]) for index in scored]))

    random = np.random.default_rng(seed)
    classes = [np.flatnonzero(y == index) for index in range(p.shape[1])]
    draws = [auc(np.concatenate([random.choice(rows, len(rows)) for rows in classes])) for _ in range(1000)]
    return {"value": auc(np.arange(len(y))), "interval": [float(q) for q in np.quantile(draws, (0.025, 0.975))]}
