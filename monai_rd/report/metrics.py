"""Classification metrics of a test set, with 95 % intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata
from sklearn.metrics import average_precision_score

from monai_rd.proportions import proportion

__all__ = [
    "METRIC_NAMES",
    "OF_CLASSES",
    "accuracy_of_groups",
    "auc_and_influence",
    "classification_metrics",
    "mean_of_proportions",
    "multi_label_metrics",
    "normal",
    "present_metrics",
    "sides_of_classes",
]

METRIC_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
# Columns of the table of classes; those that the metrics of a class do not have are left out.
OF_CLASSES = {
    "items": "items",
    "positives": "positive",
    "sensitivity": "found (sensitivity)",
    "precision": "right when named (precision)",
    "specificity": "let pass (specificity)",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
}


def classification_metrics(
    probabilities: ArrayLike, labels: ArrayLike, seed: int = 0, chosen: ArrayLike | None = None
) -> dict[str, Any]:
    """Compute accuracy, balanced accuracy, ROC AUC, sensitivity and specificity, and some of them for each class.

    The balanced accuracy is the mean over classes of the share of their images that are classified correctly. With two
    classes, class 1 is the positive one. With more, the AUC is the unweighted mean over classes, each against the rest
    (macro AUC), and sensitivity and specificity are left out.

    Args:
        probabilities: `[N, classes]`, rows summing to 1.
        labels: class indices `[N]`.
        seed: seed of the bootstrap.
        chosen: indices of the classes that are said `[N]`; None: the most probable.

    Returns:
        `n`, and for each metric its `value` in [0, 1] and 95 % `interval`: Wilson's (1927) for proportions; for their
        mean, the balanced accuracy, by the squares of the distances to Wilson's limits (Newcombe, Statistics in
        Medicine 17, 1998; here of several proportions); a stratified percentile bootstrap of 1000 draws for the AUC.
        `classes`, in order: `items`, and with intervals `sensitivity`, `precision` (None if the class was never chosen)
        and `roc_auc` against the rest (DeLong et al. 1988).

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
    said = p.argmax(axis=1) if chosen is None else np.asarray(chosen)
    classes = [_class_metrics(p[:, index], y == index, said == index) for index in range(p.shape[1])]
    result: dict[str, Any] = {
        "n": len(y),
        "accuracy": proportion(said == y),
        "balanced_accuracy": mean_of_proportions([one["sensitivity"] for one in classes]),
        "roc_auc": _auc(p, y, seed),
    }
    if p.shape[1] == 2:
        result["sensitivity"] = proportion(said[y == 1] == 1)
        result["specificity"] = proportion(said[y == 0] == 0)
    return {**result, "classes": classes}


def present_metrics(
    probabilities: ArrayLike, labels: ArrayLike, multi_label: bool = False, chosen: ArrayLike | None = None
) -> dict[str, Any]:
    """Compute the metrics that the labels of a small group allow: only accuracy if all have one class.

    Args:
        probabilities: `[N, classes]`, N > 0.
        labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.
        multi_label: whether an image may have any number of classes.
        chosen: see `classification_metrics` and `multi_label_metrics`.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if multi_label:
        return multi_label_metrics(p, y, chosen) if (y.min(axis=0) < y.max(axis=0)).any() else {"n": len(y)}
    if set(np.unique(y)) == set(range(p.shape[1])):
        return classification_metrics(p, y, chosen=chosen)
    return {"n": len(y), "accuracy": proportion((p.argmax(axis=1) if chosen is None else np.asarray(chosen)) == y)}


def mean_of_proportions(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of independent proportions, with an interval from theirs."""
    value = float(np.mean([one["value"] for one in found]))
    low, high = (
        float(np.sqrt(sum((one["value"] - one["interval"][end]) ** 2 for one in found)) / len(found)) for end in (0, 1)
    )
    return {"value": value, "interval": [value - low, value + high]}


def normal(value: float, influence: np.ndarray, most: float = 1.0) -> dict[str, Any]:
    """Return a value of 0 to `most` with its normal 95 % interval, from each image's influence on it."""
    half = float(norm.ppf(0.975) * influence.std() / np.sqrt(len(influence)))
    return {"value": value, "interval": [max(value - half, 0.0), min(value + half, most)]}


def _class_metrics(score: np.ndarray, positive: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Return the metrics of one class against the rest, from its scores `[N]` and masks of its images."""
    return {
        "items": int(positive.sum()),
        "sensitivity": proportion(chosen[positive]),
        "precision": proportion(positive[chosen]) if chosen.any() else None,
        "roc_auc": normal(*auc_and_influence(score, positive)),
    }


def _auc(p: np.ndarray, y: np.ndarray, seed: int) -> dict[str, Any]:
    scored = range(p.shape[1]) if p.shape[1] > 2 else [1]  # both of two classes have the same AUC
    random = np.random.default_rng(seed)
    classes = [np.flatnonzero(y == index) for index in range(p.shape[1])]
    # Every draw has as many images of each class in the same places.
    draws = np.array([np.concatenate([random.choice(rows, len(rows)) for rows in classes]) for _ in range(1000)])
    place = np.sort(y)
    parts = np.array_split(draws, 20)  # for the memory's sake
    areas = np.concatenate(
        [np.mean([_areas(p[part, index], place == index) for index in scored], axis=0) for part in parts]
    )
    value = np.mean([auc_and_influence(p[:, index], y == index)[0] for index in scored])
    return {"value": float(value), "interval": [float(q) for q in np.quantile(areas, (0.025, 0.975))]}


def _areas(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the AUC of each row of scores `[draws, N]`, from the ranks of its positives (Mann and Whitney)."""
    n, m = positive.sum(), (~positive).sum()
    return (rankdata(scores, axis=1)[:, positive].sum(axis=1) - n * (n + 1) / 2) / (n * m)


def multi_label_metrics(probabilities: ArrayLike, labels: ArrayLike, chosen: ArrayLike | None = None) -> dict[str, Any]:
    """Compute ROC AUC, average precision and balanced accuracy, means over the classes with both label values.

    The balanced accuracy of a class is the mean of sensitivity and specificity.

    Args:
        probabilities: probability of each class `[N, classes]`.
        labels: 0 or 1 `[N, classes]`.
        chosen: whether each class is said, bool `[N, classes]`; None: from a probability of 0.5 on.

    Returns:
        `n`; `balanced_accuracy` and `roc_auc` with `value` and 95 % `interval` (for the AUC DeLong et al. 1988, DOI
        10.2307/2531595: normal, from each image's influence on the mean, so that classes may be correlated);
        `average_precision` with `value`; `classes`, in order: `positives`, with intervals `sensitivity` and
        `specificity` (Wilson's) and `roc_auc`, and the number `average_precision` of each; None where all labels are
        equal.

    Raises:
        ValueError: shapes that do not match, labels other than 0 and 1, or no class with both values.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape or not np.isin(y, (0, 1)).all():
        raise ValueError(f"probabilities and labels (0 or 1) [N, classes] are needed, got {p.shape} and {y.shape}")
    both = [index for index, column in enumerate(y.T) if 0 < column.sum() < len(column)]
    if not both:
        raise ValueError("no class has both positive and negative images: nothing can be measured")
    truth, said = y.astype(bool), p >= 0.5 if chosen is None else np.asarray(chosen)
    areas, influences = zip(*(auc_and_influence(p[:, index], truth[:, index]) for index in both), strict=True)
    classes: list[dict[str, Any]] = [
        {"positives": int(one.sum()), **dict.fromkeys(("sensitivity", "specificity", "roc_auc", "average_precision"))}
        for one in truth.T
    ]
    for index, auc, influence in zip(both, areas, influences, strict=True):
        classes[index] |= {
            "sensitivity": proportion(said[truth[:, index], index]),
            "specificity": proportion(~said[~truth[:, index], index]),
            "roc_auc": normal(auc, influence),
            "average_precision": float(average_precision_score(truth[:, index], p[:, index])),
        }
    return {
        "n": len(p),
        "balanced_accuracy": normal(*accuracy_of_groups(*sides_of_classes(said[:, both], truth[:, both]))),
        "roc_auc": normal(float(np.mean(areas)), np.mean(influences, axis=0)),
        "average_precision": {"value": float(np.mean([classes[index]["average_precision"] for index in both]))},
        "classes": classes,
    }


def sides_of_classes(chosen: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `right` and `members` for `accuracy_of_groups`: present and absent images of each class apart.

    Args:
        chosen: whether an image was taken to have a class, bool `[N, classes]`.
        truth: whether it has it, bool `[N, classes]`.
    """
    return np.tile(chosen == truth, 2), np.concatenate([truth, ~truth], axis=1)


def accuracy_of_groups(right: np.ndarray, members: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean over groups of images of their accuracy, and each image's influence on it `[N]`.

    Args:
        right: whether an image was classified correctly, bool `[N, groups]`, or `[N, 1]` if it is the same in each.
        members: whether it belongs to a group, bool `[N, groups]`; no group is empty.
    """
    sizes = members.sum(axis=0)
    accuracies = (right & members).sum(axis=0) / sizes
    influence = ((right - accuracies) * members * (len(members) / sizes)).mean(axis=1)
    return float(accuracies.mean()), influence


def auc_and_influence(score: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the AUC and each image's influence on it: DeLong's structural components, centred and scaled by class."""
    n, m = positive.sum(), (~positive).sum()
    ranks = rankdata(score)
    below = np.empty(len(score))  # share of the other class on the right side
    below[positive] = (ranks[positive] - rankdata(score[positive])) / m
    below[~positive] = 1 - (ranks[~positive] - rankdata(score[~positive])) / n
    auc = float(below[positive].mean())
    return auc, (below - auc) * len(score) / np.where(positive, n, m)
