"""The data behind a report's figures: ROC curve with band, reliability with calibration error; bootstrap intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score

from monai_rd.proportions import wilson

__all__ = ["Reliability", "RocBand", "calibrated_events", "reliability", "roc_band"]

DRAWS = 1000
THRESHOLDS = 512  # points of a curve; with at most as many distinct scores the curve is exact


class RocBand(NamedTuple):
    """A ROC curve with its pointwise 95 % band.

    Args:
        false_positive_rate: x values of the empirical curve, rising from 0 to 1, `[K]`.
        true_positive_rate: y values of the empirical curve, `[K]`.
        grid: false positive rates of the band, `[101]`.
        low: 2.5 % quantile of the true positive rate at each point of `grid`.
        high: 97.5 % quantile of the true positive rate at each point of `grid`.
        auc: area under the empirical curve.
        interval: 95 % interval of the area.
        positives: number of positive images.
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    grid: np.ndarray
    low: np.ndarray
    high: np.ndarray
    auc: float
    interval: tuple[float, float]
    positives: int


def roc_band(score: ArrayLike, positive: ArrayLike, seed: int = 0) -> RocBand | None:
    """Compute the ROC curve of one class, with a stratified percentile bootstrap of 1000 draws.

    Positives and negatives are resampled separately. Scores are binned at 512 of their quantiles, so that a draw is one
    multinomial sample for each of the two and costs the same for any number of images.

    Args:
        score: score of each image `[N]`, higher is more positive.
        positive: whether each image is positive, bool `[N]`.
        seed: seed of the bootstrap.

    Returns:
        The curve; None where all images are positive or all are negative.
    """
    score, positive = np.asarray(score, dtype=np.float64), np.asarray(positive, dtype=bool)
    if not 0 < positive.sum() < len(positive):
        return None
    thresholds = np.unique(score)
    if len(thresholds) > THRESHOLDS:
        thresholds = np.unique(np.quantile(score, np.linspace(0, 1, THRESHOLDS), method="nearest"))
    bins = len(thresholds) - np.searchsorted(thresholds, score, side="right")  # 0 holds the highest scores
    hits, alarms = (np.bincount(bins[side], minlength=len(thresholds)) for side in (positive, ~positive))
    random, grid = np.random.default_rng(seed), np.linspace(0, 1, 101)
    drawn = [random.multinomial(n.sum(), n / n.sum(), size=DRAWS) for n in (hits, alarms)]
    rates = [_cumulated_shares(counts) for counts in drawn]
    curves = np.stack([_highest_at(grid, fpr, tpr) for tpr, fpr in zip(*rates, strict=True)])
    heights, widths = rates[0][:, 1:] + rates[0][:, :-1], np.diff(rates[1], axis=1)
    areas = (heights * widths).sum(axis=1) / 2
    tpr, fpr = (_cumulated_shares(counts[None])[0] for counts in (hits, alarms))
    low, high = np.quantile(curves, (0.025, 0.975), axis=0)
    least, most = np.quantile(areas, (0.025, 0.975))
    auc = float(roc_auc_score(positive, score))
    return RocBand(fpr, tpr, grid, low, high, auc, (float(least), float(most)), int(positive.sum()))


def _cumulated_shares(counts: np.ndarray) -> np.ndarray:
    """Convert counts by bin `[draws, K]` to the share at or above each bin, from 0 to 1, `[draws, K + 1]`."""
    total = counts.sum(axis=1, keepdims=True)
    return np.concatenate([np.zeros((len(counts), 1)), counts.cumsum(axis=1) / total], axis=1)


def _highest_at(grid: np.ndarray, fpr: np.ndarray, tpr: np.ndarray) -> np.ndarray:
    """Return the true positive rate at each false positive rate; the upper end of vertical segments."""
    last = np.append(fpr[1:] > fpr[:-1], True)
    return np.interp(grid, fpr[last], tpr[last])


class Reliability(NamedTuple):
    """Predicted probabilities against observed frequencies, in bins of equal width.

    Args:
        counts: number of predictions in each bin `[bins]`.
        predicted: mean predicted probability of each bin, NaN where it is empty.
        observed: share of predictions that came true in each bin, NaN where it is empty.
        low: lower end of Wilson's 95 % interval of `observed`.
        high: upper end of that interval.
        error: expected calibration error: the mean of |observed - predicted|, weighted by the counts.
        interval: 95 % interval of `error`.
    """

    counts: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: float
    interval: tuple[float, float]


def reliability(predicted: ArrayLike, came_true: ArrayLike, bins: int = 10, seed: int = 0) -> Reliability:
    """Reliability diagram and expected calibration error (Naeini et al. 2015; Guo et al., arXiv 1706.04599, Eq. 3).

    Chance alone makes the error larger than 0, and that of a resample larger still. The interval is therefore the basic
    (reflected) bootstrap of 500 draws of images. It begins at 0 where the error is not above the 97.5 % quantile of the
    errors that perfectly calibrated probabilities would give.

    Args:
        predicted: probabilities `[N]`; multi-label: `[N, classes]`, where an image is resampled with all its classes.
        came_true: whether each prediction came true, bool, same shape.
        bins: number of bins of equal width over [0, 1].
        seed: seed of the bootstrap.
    """
    p = np.asarray(predicted, dtype=np.float64)
    p, y = p.reshape(len(p), -1), np.asarray(came_true, dtype=np.float64).reshape(len(p), -1)
    place = np.clip((p * bins).astype(int), 0, bins - 1)
    # For each image and bin: the number of predictions, their sum, and how many came true.
    rows = np.repeat(np.arange(len(p)), p.shape[1])
    tables = np.zeros((3, len(p), bins))
    for table, values in zip(tables, (np.ones_like(p), p, y), strict=True):
        np.add.at(table, (rows, place.ravel()), values.ravel())
    count, expected, true = tables.sum(axis=1)
    error = _calibration_error(count, expected, true)
    random = np.random.default_rng(seed)
    draws = []
    for _ in range(DRAWS // 2):
        weights = np.bincount(random.integers(len(p), size=len(p)), minlength=len(p)).astype(np.float64)
        draws.append(_calibration_error(*(weights @ table for table in tables)))
    low, high = np.quantile(draws, (0.025, 0.975))
    variance = np.bincount(place.ravel(), (p * (1 - p)).ravel(), minlength=bins)  # if p is correct
    noise = np.sqrt(variance) * random.normal(size=(DRAWS, bins))
    by_chance = np.quantile(np.abs(noise).sum(axis=1) / count.sum(), 0.975)
    least = 0.0 if error <= by_chance else np.clip(2 * error - high, 0, 1)
    filled = np.maximum(count, 1)
    empty = np.where(count > 0, 0.0, np.nan)
    bounds = np.array(
        [wilson(round(k), round(n)) if n else (np.nan, np.nan) for k, n in zip(true, count, strict=True)]
    ).T
    return Reliability(
        count.astype(int),
        expected / filled + empty,
        true / filled + empty,
        bounds[0],
        bounds[1],
        error,
        (float(least), float(np.clip(2 * error - low, 0, 1))),
    )


def calibrated_events(probabilities: ArrayLike, labels: ArrayLike, multi_label: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities to calibrate (see `figures.calibration_diagram`), and whether each came true."""
    p, y = np.asarray(probabilities), np.asarray(labels)
    if multi_label:
        return p, y == 1
    if p.shape[1] == 2:
        return p[:, 1], y == 1
    return p.max(axis=1), p.argmax(axis=1) == y


def _calibration_error(count: np.ndarray, expected: np.ndarray, true: np.ndarray) -> float:
    return float(np.abs(true - expected).sum() / count.sum())
