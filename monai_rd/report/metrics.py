"""Classification metrics of a test set, with 95 % intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, norm, rankdata
from sklearn.metrics import average_precision_score

__all__ = [
    "METRIC_NAMES",
    "auc_and_influence",
    "classification_metrics",
    "multi_label_metrics",
    "present_metrics",
    "wilson",
]

METRIC_NAMES = {
    "accuracy": "accuracy",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}


def classification_metrics(probabilities: ArrayLike, labels: ArrayLike, seed: int = 0) -> dict[str, Any]:
    """Compute accuracy, ROC AUC, sensitivity and specificity.

    With two classes, class 1 is the positive one. With more, the AUC is the unweighted mean over classes, each against
    the rest, and sensitivity and specificity are left out.

    Args:
        probabilities: `[N, classes]`, rows summing to 1.
        labels: class indices `[N]`.
        seed: seed of the bootstrap.

    Returns:
        `n`, and for each metric its `value` in [0, 1] and 95 % `interval`: Wilson's (1927) for proportions, a
        stratified percentile bootstrap of 1000 draws for the AUC.

    Raises:
        ValueError: shapes that do not match, a label out of range, or a class without samples.
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


def present_metrics(probabilities: ArrayLike, labels: ArrayLike, multi_label: bool = False) -> dict[str, Any]:
    """Compute the metrics that the labels of a small group allow: only accuracy if all have one class.

    Args:
        probabilities: `[N, classes]`, N > 0.
        labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.
        multi_label: whether an image may have any number of classes.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if multi_label:
        return multi_label_metrics(p, y) if (y.min(axis=0) < y.max(axis=0)).any() else {"n": len(y)}
    if set(np.unique(y)) == set(range(p.shape[1])):
        return classification_metrics(p, y)
    return {"n": len(y), "accuracy": _proportion(p.argmax(axis=1) == y)}


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of the proportion `hits / n`, n > 0 (Wilson, 1927)."""
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _proportion(hits: np.ndarray) -> dict[str, Any]:
    return {"value": float(hits.mean()), "interval": list(wilson(int(hits.sum()), len(hits)))}


def _auc(p: np.ndarray, y: np.ndarray, seed: int) -> dict[str, Any]:
    scored = range(p.shape[1]) if p.shape[1] > 2 else [1]  # both of two classes have the same AUC

    def auc(rows: np.ndarray) -> float:
        return float(np.mean([auc_and_influence(p[rows, index], y[rows] == index)[0] for index in scored]))

    random = np.random.default_rng(seed)
    classes = [np.flatnonzero(y == index) for index in range(p.shape[1])]
    draws = [auc(np.concatenate([random.choice(rows, len(rows)) for rows in classes])) for _ in range(1000)]
    return {"value": auc(np.arange(len(y))), "interval": [float(q) for q in np.quantile(draws, (0.025, 0.975))]}


def multi_label_metrics(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
    """Compute ROC AUC and average precision, each the unweighted mean over the classes with both label values.

    Args:
        probabilities: probability of each class `[N, classes]`.
        labels: 0 or 1 `[N, classes]`.

    Returns:
        `n`; `roc_auc` with `value` and 95 % `interval` (DeLong et al. 1988, DOI 10.2307/2531595: normal, from each
        image's influence on the mean, so that classes may be correlated); `average_precision` with `value`; `classes`,
        in order: `positives`, `roc_auc` and `average_precision` of each, None where all labels are equal.

    Raises:
        ValueError: shapes that do not match, labels other than 0 and 1, or no class with both values.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape or not np.isin(y, (0, 1)).all():
        raise ValueError(f"probabilities and labels (0 or 1) [N, classes] are needed, got {p.shape} and {y.shape}")
    classes: list[dict[str, Any]] = []
    influences = []
    for score, positive in zip(p.T, y.T.astype(bool), strict=True):
        auc = precision = None
        if 0 < positive.sum() < len(positive):
            auc, influence = auc_and_influence(score, positive)
            influences.append(influence)
            precision = float(average_precision_score(positive, score))
        classes.append({"positives": int(positive.sum()), "roc_auc": auc, "average_precision": precision})
    if not influences:
        raise ValueError("no class has both positive and negative images: nothing can be measured")
    found = [one for one in classes if one["roc_auc"] is not None]
    value = float(np.mean([one["roc_auc"] for one in found]))
    half = norm.ppf(0.975) * np.mean(influences, axis=0).std() / np.sqrt(len(p))
    return {
        "n": len(p),
        "roc_auc": {"value": value, "interval": [max(value - half, 0.0), min(value + half, 1.0)]},
        "average_precision": {"value": float(np.mean([one["average_precision"] for one in found]))},
        "classes": classes,
    }


def auc_and_influence(score: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the AUC and each image's influence on it: DeLong's structural components, centred and scaled by class."""
    n, m = positive.sum(), (~positive).sum()
    ranks = rankdata(score)
    below = np.empty(len(score))  # share of the other class on the right side
    below[positive] = (ranks[positive] - rankdata(score[positive])) / m
    below[~positive] = 1 - (ranks[~positive] - rankdata(score[~positive])) / n
    auc = float(below[positive].mean())
    return auc, (below - auc) * len(score) / np.where(positive, n, m)
