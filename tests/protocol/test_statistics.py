"""Estimates, intervals and tests on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from monai_rd.protocol import statistics
from monai_rd.protocol.statistics import compare, estimate, handed_over, holm, image_values


def trained(random: np.random.Generator, seeds: int, images: int, spread: float = 0.0) -> np.ndarray:
    """Whether each network classifies each image right: images are easy or hard, networks good or bad."""
    hard = random.normal(1.0, 1.0, images)
    good = random.normal(0.0, spread, (seeds, 1))
    return (hard + good + random.normal(0, 0.5, (seeds, images)) > 0).astype(float)


def test_measures_are_means_of_image_values() -> None:
    random = np.random.default_rng(0)
    for classes in (2, 3):
        p = random.dirichlet([1] * classes, size=(4, 50)).round(1)  # with ties
        y = np.arange(50) % classes
        values = image_values(p, y)
        assert values["accuracy"].mean(axis=1).tolist() == [(one.argmax(1) == y).mean() for one in p]
        areas = [[roc_auc_score(y == c, one[:, c]) for c in (range(3) if classes == 3 else [1])] for one in p]
        assert values["roc_auc"].mean(axis=1) == pytest.approx(np.mean(areas, axis=1))
        assert ("sensitivity" in values) == (classes == 2)
        skewed = np.repeat([0, 1, 1, 1, 1] if classes == 2 else [0, 1, 1, 1, 2], 10)
        balanced = image_values(p, skewed)["balanced_accuracy"].mean(axis=1)
        assert balanced == pytest.approx([balanced_accuracy_score(skewed, one.argmax(1)) for one in p])
    y = random.integers(0, 2, (50, 3))
    y[:, 2] = 0  # a class that no image has
    values = image_values(p, y)
    assert values.keys() == {"roc_auc", "balanced_accuracy"}
    by_class = [[balanced_accuracy_score(y[:, c], one[:, c] >= 0.5) for c in (0, 1)] for one in p]
    assert values["balanced_accuracy"].mean(axis=1) == pytest.approx(np.mean(by_class, axis=1))
    assert values["roc_auc"].mean(axis=1) == pytest.approx(
        [np.mean([roc_auc_score(y[:, c], one[:, c]) for c in (0, 1)]) for one in p]
    )


def test_what_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="no class has both"):
        image_values(np.full((1, 4, 2), 0.5), np.zeros(4, int))
    with pytest.raises(ValueError, match="are needed"):
        image_values(np.full((1, 4, 2), 0.5), np.zeros(5, int))
    with pytest.raises(ValueError, match="same seeds and images"):
        compare(np.ones((3, 9)), np.ones((2, 9)))


def test_one_seed_says_nothing_of_spread() -> None:
    random = np.random.default_rng(0)
    one, other = trained(random, 1, 200), trained(random, 1, 200)
    found = estimate(one)
    half = 1.96 * one.std() / np.sqrt(200)
    assert found.sd is None
    assert (found.low, found.high) == pytest.approx((one.mean() - half, one.mean() + half), abs=0.01)
    assert compare(one, other).p == pytest.approx(ttest_rel(one[0], other[0]).pvalue)


def test_equal_and_unequal_methods() -> None:
    random = np.random.default_rng(0)
    ours = trained(random, 4, 150, 0.1)
    same = compare(ours, ours)
    assert (same.estimate.mean, same.estimate.low, same.estimate.high) == (0, 0, 0)
    assert same.p == same.p_images == 1
    worse = np.where(random.random(ours.shape) < 0.3, 0.0, ours)
    found = compare(ours, worse)
    assert found.estimate.low > 0.1
    assert found.p < 1e-3
    assert found.p_images < 1e-3
    turned = compare(worse, ours)
    assert turned.p == found.p
    assert turned.estimate.mean == -found.estimate.mean
    assert compare(np.ones((2, 5)), np.zeros((2, 5))).p == 0


def test_the_literal_form_of_the_test() -> None:
    """Hillis 2007: F = S N mean^2 / (MS seed + max(MS image - MS both, 0)), of 1 and df degrees of freedom."""
    from scipy.stats import f as f_distribution

    random = np.random.default_rng(1)
    ours, theirs = trained(random, 3, 40, 0.3), trained(random, 3, 40, 0.3)
    d = ours - theirs
    mean = d.mean()
    of_seed = 40 * sum((d[s].mean() - mean) ** 2 for s in range(3)) / 2
    of_image = 3 * sum((d[:, i].mean() - mean) ** 2 for i in range(40)) / 39
    both = sum((d[s, i] - d[s].mean() - d[:, i].mean() + mean) ** 2 for s in range(3) for i in range(40)) / (2 * 39)
    error = of_seed + max(of_image - both, 0)
    df = error**2 / (of_seed**2 / 2)
    assert compare(ours, theirs).p == pytest.approx(f_distribution.sf(3 * 40 * mean**2 / error, 1, df))


def test_holm() -> None:
    """The example of Holm's steps: the smallest times 3, the next times 2, and none below one before it."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_intervals_and_tests_keep_their_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many made-up benchmarks of 5 seeds: 95 % intervals hold the truth about so often, p < 0.05 is as rare."""
    monkeypatch.setattr(statistics, "DRAWS", 400)
    random = np.random.default_rng(0)
    truth = trained(random, 1000, 1000, 0.15).mean()
    held, missed, rejected = [], [], []
    for number in range(100):
        ours, theirs = (trained(random, 5, 100, 0.15) for _ in range(2))
        one, both = estimate(ours, number), compare(ours, theirs, number)
        held.append(one.low <= truth <= one.high)
        missed.append(not both.estimate.low <= 0 <= both.estimate.high)
        rejected.append(both.p < 0.05)
    assert 0.89 <= np.mean(held) <= 1.0
    assert np.mean(missed) <= 0.1
    assert 0.0 < np.mean(rejected) <= 0.1


def test_what_is_handed_over() -> None:
    random = np.random.default_rng(0)
    alone = random.normal(0.7, 0.05, (5, 400))
    path = alone + random.normal(0.2, 0.05, (5, 400))
    for share in (0.0, 0.5, 1.0):
        found = handed_over(alone + share * 0.2 + random.normal(0, 0.02, (5, 400)), alone, path)
        assert found is not None
        assert found.mean == pytest.approx(share, abs=0.03)
        assert found.low < found.mean < found.high
        assert found.high - found.low < 0.2


def test_a_path_that_is_not_ahead_has_nothing_to_hand_over() -> None:
    random = np.random.default_rng(0)
    alone, noise = random.normal(0.7, 0.05, (5, 400)), random.normal(0, 0.3, (5, 400))
    assert handed_over(alone + 0.1, alone, alone + noise - noise.mean()) is None
    assert handed_over(alone + 0.1, alone, alone) is None
    with pytest.raises(ValueError, match="same seeds and images"):
        handed_over(alone, alone, alone[:3])


def test_the_interval_of_a_share_holds_the_true_one_mostly() -> None:
    random, held = np.random.default_rng(1), 0
    for _ in range(60):
        alone = random.normal(0.7, 0.3, (5, 200)) + random.normal(0, 0.02, (5, 1))
        lead = 0.2 + random.normal(0, 0.3, (5, 200)) + random.normal(0, 0.02, (5, 1))
        got = 0.5 * lead + random.normal(0, 0.2, (5, 200)) + random.normal(0, 0.01, (5, 1))
        found = handed_over(alone + got, alone, alone + lead)
        assert found is not None
        held += found.low <= 0.5 <= found.high
    assert held >= 54  # of 60; 57 are expected
