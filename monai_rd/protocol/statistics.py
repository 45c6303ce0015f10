"""Means, intervals and tests over seeds and test images at once.

A benchmark's numbers vary for two reasons: another seed gives another network, another test set gives other images.
Every measure here is a mean over seeds and images of values `[S, N]` (seed by image), so that both are seen:

- the interval is a percentile bootstrap that draws seeds and images independently, with replacement (the "pigeonhole"
  bootstrap: Owen, Annals of Applied Statistics 1(2), 2007, which shows that it is rather too wide than too narrow). Of
  S seeds S - 1 are drawn, as few units must be (Rao and Wu, JASA 83, 1988): S of S would make the interval of 3 seeds
  by a fifth too narrow;
- two methods are compared by the differences of their values, seed by seed and image by image. `p` is the test of
  Dorfman, Berbaum and Metz (Investigative Radiology 27, 1992) with Hillis' degrees of freedom (Statistics in Medicine
  26, 2007), seeds in the place of readers: would the difference be there with new seeds and new images? `p_images` is
  a sign-flip permutation test over images: would these very networks differ on new images?

By hand, because scipy's `bootstrap` draws along one axis and not seeds and images at once, and because it has none of
the tests of readers and cases.

With one seed nothing can be said of other seeds: the spread is None, the interval and both tests are those of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from monai_rd.report.metrics import auc_and_influence

__all__ = ["Difference", "Estimate", "compare", "estimate", "handed_over", "holm", "image_values"]

DRAWS = 4000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and images.

    Args:
        mean: of all values.
        sd: standard deviation over seeds of their means; None with one seed.
        low: of the 95 % interval.
        high: of the 95 % interval.
        by_seed: the mean of each seed.
        n: number of images.
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
    """A paired difference of two methods: an estimate of it, and whether it is more than chance.

    Args:
        estimate: of the difference.
        p: two-sided; seeds and images both vary.
        p_images: two-sided; the images vary and the trained networks are as they are.
    """

    estimate: Estimate
    p: float
    p_images: float

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {**self.estimate.as_dict(), "p": self.p, "p_images": self.p_images}


def image_values(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What each image contributes to each measure, so that a measure is the mean of its values.

    Accuracy, sensitivity and specificity: 1 where the image is classified right. ROC AUC: DeLong's structural
    components (DOI 10.2307/2531595), of more classes their mean over classes, each against the rest.

    Args:
        probabilities: `[S, N, classes]`, by seed.
        labels: class indices `[N]`, or 0 and 1 `[N, classes]` of a multi-label test set.

    Returns:
        `[S, N]` for "accuracy" and "roc_auc"; of two classes also "sensitivity" `[S, positives]` and "specificity"
        `[S, negatives]`. Of a multi-label set "roc_auc" alone, over classes with both values.

    Raises:
        ValueError: shapes that do not fit, or no class that has both values.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 3 or y.shape not in (p.shape[1:2], p.shape[1:]):
        raise ValueError(f"probabilities [S, N, classes] and labels [N] are needed, got {p.shape} and {y.shape}")
    multi_label, classes = y.ndim == 2, p.shape[2]
    members = y.T.astype(bool) if multi_label else np.stack([y == index for index in range(classes)])
    candidates = range(classes) if multi_label or classes > 2 else (1,)  # of two classes each has the same AUC
    scored = [index for index in candidates if 0 < members[index].mean() < 1]
    if not scored:
        raise ValueError("no class has both positive and negative test images: nothing can be measured")
    areas = [[sum(auc_and_influence(one[:, index], members[index])) for index in scored] for one in p]
    found = {"roc_auc": np.asarray(areas).mean(axis=1)}
    if multi_label:
        return found
    right = (p.argmax(axis=2) == y).astype(np.float64)
    found = {"accuracy": right, **found}
    if classes == 2:
        found |= {"sensitivity": right[:, y == 1], "specificity": right[:, y == 0]}
    return found


def estimate(values: np.ndarray, seed: int = 0) -> Estimate:
    """Mean, spread over seeds and 95 % interval of values `[S, N]`."""
    by_seed = values.mean(axis=1)
    low, high = np.quantile(_draws(values, seed), (0.025, 0.975))
    sd = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
    return Estimate(
        float(values.mean()), sd, float(low), float(high), tuple(float(one) for one in by_seed), values.shape[1]
    )


def compare(values: np.ndarray, others: np.ndarray, seed: int = 0) -> Difference:
    """Compare two methods by their values `[S, N]` of the same seeds and images: the first minus the second.

    Raises:
        ValueError: the shapes differ.
    """
    if values.shape != others.shape:
        raise ValueError(f"only the same seeds and images can be compared, got {values.shape} and {others.shape}")
    difference = values - others
    return Difference(estimate(difference, seed), _p_of_both(difference), _p_of_images(difference, seed))


def handed_over(student: np.ndarray, alone: np.ndarray, path: np.ndarray, seed: int = 0) -> Estimate | None:
    """Of what a teacher path is ahead of the student that is trained alone, the share that arrives at its student.

    Args:
        student: values `[S, N]` of the student that the path taught.
        alone: of the student that was trained alone, of the same seeds and images.
        path: of the teacher path.
        seed: of the draws.

    Returns:
        The mean lead of the student over that of the path, and its 95 % interval: leads are drawn together. 0: nothing
        arrives, 1: all of it. None where the path's own lead has an interval that reaches 0: there is nothing to share.

    Raises:
        ValueError: the shapes differ.
    """
    if not student.shape == alone.shape == path.shape:
        raise ValueError(f"the same seeds and images are needed, got {student.shape}, {alone.shape}, {path.shape}")
    ours, leads = _draws(student - alone, seed), _draws(path - alone, seed)
    if np.quantile(leads, 0.025) <= 0:
        return None
    # The few draws without a lead go to the ends, which makes the interval wider.
    low, high = np.quantile(ours / np.maximum(leads, np.finfo(float).tiny), (0.025, 0.975))
    share = float((student - alone).mean() / (path - alone).mean())
    return Estimate(share, None, float(low), float(high), (), student.shape[1])


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p values of as many tests, so that one false rejection among all stays rare (Holm, 1979)."""
    corrected, reached = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        reached = max(reached, min(ps[index] * (len(ps) - rank), 1.0))
        corrected[index] = reached
    return corrected


def _draws(values: np.ndarray, seed: int) -> np.ndarray:
    """Means of `values` with seeds and images drawn anew, `DRAWS` times."""
    random = np.random.default_rng(seed)
    seeds, images = values.shape
    drawn = []
    for count in _blocks(images):
        # Weights: how often each is drawn. The only seed there is is always drawn.
        of_seeds = _drawn(random, count, max(seeds - 1, 1), seeds)
        of_images = _drawn(random, count, images, images)
        drawn.append(((of_seeds @ values) * of_images).sum(axis=1))
    return np.concatenate(drawn)


def _drawn(random: np.random.Generator, count: int, size: int, units: int) -> np.ndarray:
    """Shares `[count, units]` of units in `size` draws with replacement."""
    chosen = random.integers(units, size=(count, size)) + units * np.arange(count)[:, None]
    return np.bincount(chosen.ravel(), minlength=count * units).reshape(count, units) / size


def _blocks(images: int) -> list[int]:
    """Split `DRAWS` so that a block's weights take some 8 MB."""
    block = min(max(1_000_000 // images, 1), DRAWS)
    return [min(block, DRAWS - start) for start in range(0, DRAWS, block)]


def _p_of_both(difference: np.ndarray) -> float:
    """Hillis' form of the Dorfman-Berbaum-Metz test on differences `[S, N]`; a paired t-test with one seed."""
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
    if error == 0:  # every image of every seed differs by the same
        return 1.0 if mean == 0 else 0.0
    return float(2 * student_t.sf(abs(mean) / np.sqrt(error / difference.size), freedom))


def _p_of_images(difference: np.ndarray, seed: int) -> float:
    """Flip the signs of images at random; the observed arrangement counts as one (Phipson and Smyth 2010)."""
    random, of_image = np.random.default_rng(seed), difference.mean(axis=0)
    observed, reached = abs(of_image.sum()) - 1e-9, 0
    for count in _blocks(len(of_image)):
        signs = 2.0 * random.integers(0, 2, size=(count, len(of_image))) - 1
        reached += int((abs(signs @ of_image) >= observed).sum())
    return (reached + 1) / (DRAWS + 1)
