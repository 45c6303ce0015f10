"""What the figures draw, against slow restatements."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from monai_rd.report.curves import reliability, roc_band


def scored(n: int, seed: int = 0, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    positive = np.arange(n) % 2 == 0
    return (0.5 + random.normal(size=n) / 5 + 0.15 * positive).round(decimals), positive


def test_the_curve_is_the_empirical_one_with_ties() -> None:
    score, positive = scored(80)
    band = roc_band(score, positive)
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(band.false_positive_rate, fpr)
    np.testing.assert_allclose(band.true_positive_rate, tpr)
    assert band.auc == pytest.approx(roc_auc_score(positive, score))
    assert band.positives == 40


def test_the_band_is_that_of_resampled_curves() -> None:
    """A literal stratified bootstrap gives the same band up to the chance of its draws."""
    score, positive = scored(60)
    random, curves, areas = np.random.default_rng(7), [], []
    for _ in range(400):
        rows = np.concatenate([random.choice(np.flatnonzero(side), side.sum()) for side in (positive, ~positive)])
        fpr, tpr, _ = roc_curve(positive[rows], score[rows], drop_intermediate=False)
        curves.append([tpr[fpr <= x].max() for x in (0.1, 0.5)])
        areas.append(roc_auc_score(positive[rows], score[rows]))
    band = roc_band(score, positive)
    low, high = np.quantile(curves, (0.025, 0.975), axis=0)
    # The band is read off at rates between those that occur, on the line between them.
    np.testing.assert_allclose(band.low[[10, 50]], low, atol=0.07)
    np.testing.assert_allclose(band.high[[10, 50]], high, atol=0.07)
    np.testing.assert_allclose(band.interval, np.quantile(areas, (0.025, 0.975)), atol=0.04)


def test_many_images_are_binned_and_stay_close() -> None:
    score, positive = scored(20_000, decimals=6)
    band = roc_band(score, positive)
    assert len(band.false_positive_rate) <= 514
    area = np.sum(np.diff(band.false_positive_rate) * (band.true_positive_rate[1:] + band.true_positive_rate[:-1]) / 2)
    assert area == pytest.approx(band.auc, abs=1e-4)


def test_images_that_agree_have_no_curve() -> None:
    assert roc_band([0.1, 0.9], [True, True]) is None


def test_reliability_of_ten_bins_by_hand() -> None:
    found = reliability([0.05, 0.05, 0.95, 0.95, 1.0], [False, True, True, True, True])
    assert found.counts.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    assert found.predicted[[0, 9]] == pytest.approx([0.05, 2.9 / 3])
    assert found.observed[[0, 9]] == pytest.approx([0.5, 1.0])
    assert np.isnan(found.observed[1:9]).all()
    assert found.error == pytest.approx((2 * 0.45 + 3 * 0.1 / 3) / 5)


@pytest.mark.parametrize("calibrated", [True, False])
def test_interval_of_the_calibration_error(calibrated: bool) -> None:
    """Reaches 0 for probabilities that are true, and lies around the true error of those that are 0.2 too high."""
    random, inside = np.random.default_rng(3), 0
    for seed in range(20):
        p = random.uniform(0.3, 0.9, size=400)
        true = random.uniform(size=400) < (p if calibrated else p - 0.2)
        low, high = reliability(p, true, seed=seed).interval
        inside += low <= (0.0 if calibrated else 0.2) <= high
    assert inside >= 16


def test_multi_label_counts_every_probability() -> None:
    random = np.random.default_rng(0)
    p = random.uniform(size=(50, 4))
    true = random.uniform(size=(50, 4)) < p
    together = reliability(p, true)
    assert together.counts.sum() == 200
    assert together.error == pytest.approx(reliability(p.ravel(), true.ravel()).error)
