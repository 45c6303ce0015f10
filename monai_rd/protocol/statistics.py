"""Means, intervals and tests over seeds and test images at once.

A benchmark's numbers vary for two reasons: another seed gives another network, another test set gives other images.
Every measure here is a mean over seeds and images of values `[S, N]` (seed by image), so that both are accounted for:

- The interval is a percentile bootstrap that draws seeds and images independently, with replacement (the "pigeonhole"
  bootstrap: Owen, Annals of Applied Statistics 1(2), 2007, which shows that it is conservative). Of S seeds S - 1 are
  drawn, the correction for few units (Rao and Wu, JASA 83, 1988): drawing S would make the interval of 3 seeds a fifth
  too narrow.
- Two methods are compared by the differences of their values, seed by seed and image by image. `p` is the test of
  Dorfman, Berbaum and Metz (Investigative Radiology 27, 1992) with Hillis' degrees of freedom (Statistics in Medicine
  26, 2007), with seeds in place of readers: would the difference persist with new seeds and new images? `p_images` is a
  sign-flip permutation test over images: would these same networks differ on new images?

Implemented here because scipy's `bootstrap` resamples along one axis only, not seeds and images at once, and because
scipy has no multi-reader multi-case tests.

With one seed nothing can be said about other seeds: the spread is None, and the interval and both tests are over images
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from monai_rd.report.metrics import accuracy_of_groups, auc_and_influence, sides_of_classes

__all__ = ["Difference", "Estimate", "compare", "estimate", "handed_over", "holm", "image_values"]

DRAWS = 4000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and images.

    Args:
        mean: mean of all values.
        sd: standard deviation of the means of the seeds; None with one seed.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        by_seed: mean of each seed.
        n: number of images.

    Example:
        Two seeds, four images: 1 where an image is classified correctly.

        >>> import numpy as np
        >>> from monai_rd.protocol.statistics import estimate
        >>> found = estimate(np.array([[1, 1, 1, 0], [1, 0, 1, 0]]))
        >>> type(found).__name__, found.mean, found.by_seed
        ('Estimate', 0.625, (0.75, 0.5))
    """

    mean: float
    sd: float | None
    low: float
    high: float
    by_seed: tuple[float, ...]
    n: int

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """A paired difference of two methods, with its significance.

    Args:
        estimate: estimate of the difference.
        p: two-sided p value over seeds and images.
        p_images: two-sided p value over images, for these trained networks.

    Example:
        >>> import numpy as np
        >>> from monai_rd.protocol.statistics import compare
        >>> found = compare(np.array([[1, 1, 1, 0], [1, 0, 1, 0]]), np.array([[1, 0, 1, 0], [1, 0, 1, 0]]))
        >>> type(found).__name__, found.estimate.mean, found.p > 0.05
        ('Difference', 0.125, True)
    """

    estimate: Estimate
    p: float
    p_images: float

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {**self.estimate.as_dict(), "p": self.p, "p_images": self.p_images}


def image_values(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the contribution of each image to each measure; a measure is the mean of its values.

    Accuracy, sensitivity and specificity: 1 where the image is classified correctly, else 0. Balanced accuracy: the
    measure plus the image's influence on it. ROC AUC: the same, by DeLong's structural components (DOI
    10.2307/2531595); with more than two classes, their mean over classes, each against the rest.

    Args:
        probabilities: predictions of each seed `[S, N, classes]`.
        labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.

    Returns:
        `[S, N]` for "accuracy", "balanced_accuracy" and "roc_auc"; for two classes also "sensitivity" `[S, positives]`
        and "specificity" `[S, negatives]`. For multi-label data only "roc_auc" and "balanced_accuracy" (see
        `multi_label_metrics`), over classes with both label values.

    Raises:
        ValueError: shapes that do not match, or no class with both label values.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 3 or y.shape not in (p.shape[1:2], p.shape[1:]):
        raise ValueError(f"probabilities [S, N, classes] and labels [N] are needed, got {p.shape} and {y.shape}")
    multi_label, classes = y.ndim == 2, p.shape[2]
    members = y.T.astype(bool) if multi_label else np.stack([y == index for index in range(classes)])
    candidates = range(classes) if multi_label or classes > 2 else (1,)  # both of two classes have the same AUC
    scored = [index for index in candidates if 0 < members[index].mean() < 1]
    if not scored:
        raise ValueError("no class has both positive and negative test images: nothing can be measured")
    areas = [[sum(auc_and_influence(one[:, index], members[index])) for index in scored] for one in p]
    found = {"roc_auc": np.asarray(areas).mean(axis=1)}
    if multi_label:
        truth = y[:, scored].astype(bool)
        each = [accuracy_of_groups(*sides_of_classes(one[:, scored] >= 0.5, truth)) for one in p]
        return {**found, "balanced_accuracy": np.stack([value + influence for value, influence in each])}
    right = (p.argmax(axis=2) == y).astype(np.float64)
    there = members[members.any(axis=1)].T
    each = [accuracy_of_groups(one[:, None] == 1, there) for one in right]
    balanced = np.stack([value + influence for value, influence in each])
    found = {"accuracy": right, "balanced_accuracy": balanced, **found}
    if classes == 2:
        found |= {"sensitivity": right[:, y == 1], "specificity": right[:, y == 0]}
    return found


def estimate(values: np.ndarray, seed: int = 0) -> Estimate:
    """Estimate the mean, the spread over seeds and the 95 % interval of values `[S, N]`."""
    by_seed = values.mean(axis=1)
    low, high = np.quantile(_draws(values, seed), (0.025, 0.975))
    sd = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
    return Estimate(
        float(values.mean()), sd, float(low), float(high), tuple(float(one) for one in by_seed), values.shape[1]
    )


def compare(values: np.ndarray, others: np.ndarray, seed: int = 0) -> Difference:
    """Compare two methods by their values `[S, N]` for the same seeds and images: the first minus the second.

    Raises:
        ValueError: the shapes differ.
    """
    if values.shape != others.shape:
        raise ValueError(f"only the same seeds and images can be compared, got {values.shape} and {others.shape}")
    difference = values - others
    return Difference(estimate(difference, seed), _p_of_both(difference), _p_of_images(difference, seed))


def handed_over(student: np.ndarray, alone: np.ndarray, path: np.ndarray, seed: int = 0) -> Estimate | None:
    """Estimate the share of a teacher path's lead that its student gains, relative to a student trained alone.

    Args:
        student: values `[S, N]` of the student taught by the path.
        alone: values `[S, N]` of the student trained alone, same seeds and images.
        path: values `[S, N]` of the teacher path.
        seed: seed of the bootstrap.

    Returns:
        The student's mean lead divided by the path's mean lead, with its 95 % interval (both leads are resampled
        together): 0 means that nothing is gained, 1 everything. None if the interval of the path's own lead reaches 0.

    Raises:
        ValueError: the shapes differ.
    """
    if not student.shape == alone.shape == path.shape:
        raise ValueError(f"the same seeds and images are needed, got {student.shape}, {alone.shape}, {path.shape}")
    ours, leads = _draws(student - alone, seed), _draws(path - alone, seed)
    if np.quantile(leads, 0.025) <= 0:
        return None
    # The few draws without a lead become extreme values, which widens the interval.
    low, high = np.quantile(ours / np.maximum(leads, np.finfo(float).tiny), (0.025, 0.975))
    share = float((student - alone).mean() / (path - alone).mean())
    return Estimate(share, None, float(low), float(high), (), student.shape[1])


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p values for multiple testing, which controls the family-wise error rate (Holm, 1979)."""
    corrected, reached = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        reached = max(reached, min(ps[index] * (len(ps) - rank), 1.0))
        corrected[index] = reached
    return corrected


def _draws(values: np.ndarray, seed: int) -> np.ndarray:
    """Return `DRAWS` means of `values`, each with resampled seeds and images."""
    random = np.random.default_rng(seed)
    seeds, images = values.shape
    drawn = []
    for count in _blocks(images):
        # Weights: how often each is drawn. A single seed is always drawn.
        of_seeds = _drawn(random, count, max(seeds - 1, 1), seeds)
        of_images = _drawn(random, count, images, images)
        drawn.append(((of_seeds @ values) * of_images).sum(axis=1))
    return np.concatenate(drawn)


def _drawn(random: np.random.Generator, count: int, size: int, units: int) -> np.ndarray:
    """Return the shares `[count, units]` of the units in `size` draws with replacement."""
    chosen = random.integers(units, size=(count, size)) + units * np.arange(count)[:, None]
    return np.bincount(chosen.ravel(), minlength=count * units).reshape(count, units) / size


def _blocks(images: int) -> list[int]:
    """Split `DRAWS` into blocks whose weights take about 8 MB."""
    block = min(max(1_000_000 // images, 1), DRAWS)
    return [min(block, DRAWS - start) for start in range(0, DRAWS, block)]


def _p_of_both(difference: np.ndarray) -> float:
    """Apply Hillis' form of the Dorfman-Berbaum-Metz test to differences `[S, N]`; a paired t-test with one seed."""
    seeds, images = difference.shape
    mean, of_seed, of_image = difference.mean(), difference.mean(axis=1), difference.mean(axis=0)
    by_image = seeds * ((of_image - mean) ** 2).sum() / (images - 1)
    if seeds == 1:
        error, freedom = by_image, float(images - 1)
    else:
        by_seed = images * ((of_seed - mean) ** 2).sum() / (seeds - 1)
        rest = ((difference - of_seed[:, None] - of_image + mean) ** 2).sum() / ((seeds - 1) * (images - 1))
        error = by_seed + max(by_image - rest, 0.0)
        freedom = (seeds - 1) * (error / by_seed) ** 2 if by_seed > 0 else np.inf
    if error == 0:  # all differences are equal
        return 1.0 if mean == 0 else 0.0
    return float(2 * student_t.sf(abs(mean) / np.sqrt(error / difference.size), freedom))


def _p_of_images(difference: np.ndarray, seed: int) -> float:
    """Sign-flip permutation test over images; the observed arrangement counts as one draw (Phipson and Smyth 2010)."""
    random, of_image = np.random.default_rng(seed), difference.mean(axis=0)
    observed, reached = abs(of_image.sum()) - 1e-9, 0
    for count in _blocks(len(of_image)):
        signs = 2.0 * random.integers(0, 2, size=(count, len(of_image))) - 1
        reached += int((abs(signs @ of_image) >= observed).sum())
    return (reached + 1) / (DRAWS + 1)
