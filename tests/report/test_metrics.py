"""Metrics against slow restatements."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from monai_rd.proportions import proportion
from monai_rd.report import classification_metrics, multi_label_metrics
from monai_rd.report.metrics import mean_of_proportions


def slow_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs (positive, negative) in the right order; a tie counts half."""
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    return float(np.mean(pairs))


def scored(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    logits = random.normal(size=(n, classes)) + 1.2 * np.eye(classes)[labels]
    p = np.exp(logits)
    return (p / p.sum(axis=1, keepdims=True)).round(2), labels  # rounded: some scores tie


def test_two_classes() -> None:
    p, y = scored(60, 2)
    found = classification_metrics(p, y)
    chosen = (p[:, 1] > p[:, 0]).astype(int)
    assert found["n"] == 60
    assert found["accuracy"]["value"] == pytest.approx((chosen == y).mean())
    assert found["sensitivity"]["value"] == pytest.approx(chosen[y == 1].mean())
    assert found["specificity"]["value"] == pytest.approx(1 - chosen[y == 0].mean())
    assert found["roc_auc"]["value"] == pytest.approx(slow_auc(p[:, 1], y == 1))
    for name in ("accuracy", "roc_auc", "sensitivity", "specificity"):
        low, high = found[name]["interval"]
        assert 0 <= low < found[name]["value"] < high <= 1


def test_more_classes_have_the_mean_auc_and_no_sensitivity() -> None:
    p, y = scored(45, 3)
    found = classification_metrics(p, y)
    assert found["roc_auc"]["value"] == pytest.approx(np.mean([slow_auc(p[:, k], y == k) for k in range(3)]))
    assert set(found) == {"n", "accuracy", "balanced_accuracy", "roc_auc", "classes"}


def skewed() -> tuple[np.ndarray, np.ndarray]:
    """40, 15 and 3 images of three classes; the last is never chosen."""
    p, y = scored(200, 3)
    kept = np.concatenate([np.flatnonzero(y == k)[:n] for k, n in enumerate((40, 15, 3))])
    p = p[kept]
    p[:, 2] *= 0.1
    return p, y[kept]


def test_each_class_counts_alike_and_has_its_own_row() -> None:
    p, y = skewed()
    found, chosen = classification_metrics(p, y), p.argmax(axis=1)
    assert found["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(y, chosen))
    for k, one in enumerate(found["classes"]):
        assert one["items"] == (y == k).sum()
        assert one["sensitivity"]["value"] == pytest.approx((chosen[y == k] == k).mean())
        assert one["roc_auc"]["value"] == pytest.approx(slow_auc(p[:, k], y == k))
        if k < 2:
            assert one["precision"]["value"] == pytest.approx((y[chosen == k] == k).mean())
            for name in ("sensitivity", "precision", "roc_auc"):
                assert one[name]["interval"][0] < one[name]["value"] < one[name]["interval"][1]
    assert found["classes"][2]["precision"] is None
    low, high = found["balanced_accuracy"]["interval"]
    assert high - found["balanced_accuracy"]["value"] > 0.1  # 0 of 3 may well be 1 of 3
    assert low < found["balanced_accuracy"]["value"] < high


@pytest.mark.slow
def test_the_interval_of_the_balanced_accuracy_covers_as_often_as_it_says() -> None:
    """Of 600 cohorts with few images of rare classes the 95 % interval should hold the truth in about 570."""
    random, sizes, truths = np.random.default_rng(0), np.array([60, 25, 12]), np.array([0.95, 0.7, 0.6])
    y, hits = np.repeat(np.arange(3), sizes), 0
    for _ in range(600):
        chosen = np.where(random.random(len(y)) < truths[y], y, (y + 1) % 3)
        right, members = (chosen == y)[:, None], y[:, None] == np.arange(3)
        low, high = mean_of_proportions([proportion(right[members[:, k], 0]) for k in range(3)])["interval"]
        hits += low <= truths.mean() <= high
    assert 555 <= hits <= 585


def test_interval_of_a_proportion_is_wilsons() -> None:
    """9 of 10 right. Wilson's formula: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96."""
    p = np.tile([[0.9, 0.1], [0.1, 0.9]], (5, 1))
    p[0] = [0.2, 0.8]
    z, n, share = 1.959964, 10, 0.9
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    expected = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    assert classification_metrics(p, np.arange(10) % 2)["accuracy"]["interval"] == pytest.approx(expected, abs=1e-6)


def test_bootstrap_is_repeatable_and_narrows_with_n() -> None:
    few, many = scored(40, 2), scored(1000, 2)
    assert classification_metrics(*few) == classification_metrics(*few)
    widths = [np.diff(classification_metrics(*cohort)["roc_auc"]["interval"])[0] for cohort in (few, many)]
    assert widths[1] < widths[0] / 3


def test_perfect_and_useless_scores() -> None:
    y = np.arange(20) % 2
    perfect = classification_metrics(np.eye(2)[y], y)
    assert perfect["roc_auc"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert perfect["accuracy"]["interval"][0] < 1
    assert classification_metrics(np.full((20, 2), 0.5), y)["roc_auc"]["value"] == 0.5


@pytest.mark.parametrize(
    ("shape", "labels", "said"),
    [
        ((4,), [0, 1, 0, 1], "are needed"),
        ((4, 2), [0, 1], "are needed"),
        ((4, 2), [0, 0, 0, 0], "every class of 0 to 1 must occur"),
        ((4, 2), [0, 1, 2, 1], "every class of 0 to 1 must occur"),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], labels: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        classification_metrics(np.full(shape, 0.5), labels)


def several(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of four classes; the last one never occurs."""
    random = np.random.default_rng(seed)
    labels = (random.random((n, 4)) < (0.5, 0.2, 0.7, 0.0)).astype(int)
    return (1 / (1 + np.exp(-random.normal(size=(n, 4)) - labels))).round(2), labels


def test_multi_label_is_the_mean_over_classes_that_occur() -> None:
    p, y = several(80)
    found = multi_label_metrics(p, y)
    aucs = [slow_auc(p[:, k], y[:, k] == 1) for k in range(3)]
    assert [one["roc_auc"]["value"] for one in found["classes"][:3]] == pytest.approx(aucs)
    assert all(one["roc_auc"]["interval"][0] < auc for one, auc in zip(found["classes"], aucs, strict=False))
    halves = [[(p[y[:, k] == side, k] >= 0.5).mean() for side in (1, 0)] for k in range(3)]
    for (found_of, alarms), one in zip(halves, found["classes"], strict=False):
        assert one["sensitivity"]["value"] == pytest.approx(found_of)
        assert one["specificity"]["value"] == pytest.approx(1 - alarms)
    expected = np.mean([(found_of + 1 - alarms) / 2 for found_of, alarms in halves])
    assert found["balanced_accuracy"]["value"] == pytest.approx(expected)
    low, high = found["balanced_accuracy"]["interval"]
    assert low < expected < high
    assert found["roc_auc"]["value"] == pytest.approx(np.mean(aucs))
    names = ("sensitivity", "specificity", "roc_auc", "average_precision")
    assert found["classes"][3] == {"positives": 0, **dict.fromkeys(names)}
    # average precision: precision at each positive, in falling order of the score
    distinct = np.unique(p[:, 0])[::-1]
    total, before = 0.0, 0
    for threshold in distinct:
        chosen = p[:, 0] >= threshold
        hits = int(y[chosen, 0].sum())
        total += (hits - before) / y[:, 0].sum() * hits / chosen.sum()
        before = hits
    assert found["classes"][0]["average_precision"] == pytest.approx(total)


@pytest.mark.slow
def test_multi_label_interval_covers_as_often_as_it_says() -> None:
    """Of 300 cohorts the 95 % interval should hold the truth (its mean over many images) in about 285."""
    truth = multi_label_metrics(*several(200_000, seed=1))["roc_auc"]["value"]
    hits = 0
    for seed in range(300):
        low, high = multi_label_metrics(*several(120, seed=seed + 2))["roc_auc"]["interval"]
        hits += low <= truth <= high
    assert 273 <= hits <= 296


def test_multi_label_refuses_what_does_not_fit() -> None:
    p, y = several(10)
    with pytest.raises(ValueError, match="are needed"):
        multi_label_metrics(p, y[:, 0])
    with pytest.raises(ValueError, match="no class has both"):
        multi_label_metrics(p, np.zeros_like(y))
