"""Conformal sets of LAC against those of RAPS, from the predictions that finished trainings left.

    python benchmarks/raps.py benchmarks/results/unlabelled/btc/runs

LAC is what `monai_rd.inference.conformal` does, with one limit and as it is. RAPS (Angelopoulos et al. 2021, arXiv
2009.14193) adds up the probabilities from the largest to that of an answer, and lambda for each rank above k_reg; an
answer is in the set if the sum is at most a limit. As in the paper, k_reg is the 90 % quantile of the true answer's
rank, and lambda one of six with the smallest sets, both on a fifth of the validation images, and the rest sets the
limit. It is measured without random numbers; randomised, where a share of the answer's own probability, drawn anew for
each image, is left out of the sum; and without, with a limit of each class.

For each folder, the means over its runs and 1,000 resamplings as in `conformal.py`. *Off by size*: the largest
difference between 0.9 and the coverage of the sets of up to one, of two, and of more answers, among those of 10 images
or more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conformal import RESAMPLINGS, mixed, splits

from monai_rd.inference import ConformalSet
from monai_rd.inference.conformal import FEWEST, excluded

Members = Callable[[np.ndarray], np.ndarray]  # from probabilities to which answers are in the set, both [N, classes]
LAMBDAS = (0.001, 0.01, 0.1, 0.2, 0.5, 1.0)
COLUMNS = ("coverage", "mean size", "empty", "one class", "of these right", "all classes", "off by size", "worst class")


def main() -> None:
    """Print a table, a row for each folder and kind of set."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    arguments.add_argument("--resamplings", type=int, default=RESAMPLINGS)
    given = arguments.parse_args()
    print(f"| runs | sets | {' | '.join(COLUMNS)} |\n|---|---" + "|---" * len(COLUMNS) + "|")
    for folder in given.runs:
        found = splits(folder)
        for name, fit in WAYS.items():
            random = np.random.default_rng(0)
            rows = []
            for split in found:
                for _ in range(given.resamplings):
                    p, y, q, t = mixed(split, random)
                    rows.append(measured(fit(p.astype(float), y, random)(q.astype(float)), t))
            cells = (f"{one:.3f}" for one in np.nanmean(rows, axis=0))
            print(f"| {folder.parent.name} | {name} | {' | '.join(cells)} |", flush=True)


def lac(p: np.ndarray, y: np.ndarray, random: np.random.Generator) -> Members:
    """LAC with one limit."""
    limit = -largest(-p[np.arange(len(y)), y])
    return lambda q: q >= limit


def lac_as_built(p: np.ndarray, y: np.ndarray, random: np.random.Generator) -> Members:
    """LAC as a training has it: a limit of each class where the counts allow."""
    found = ConformalSet.fit(p, y)
    assert found is not None
    return found.members


def raps(
    p: np.ndarray, y: np.ndarray, random: np.random.Generator, randomised: bool = False, by_class: bool = False
) -> Members:
    """RAPS; with `by_class` a limit of each class, if each has at least 20 images besides those for lambda."""

    def scored(q: np.ndarray, weight: float) -> np.ndarray:
        left_out = random.random((len(q), 1)) if randomised else 0.0
        return scores(q, weight, rank, left_out)

    tuned = len(y) // 5
    rank = int(largest(ranks(p[:tuned])[np.arange(tuned), y[:tuned]]))
    sizes = []
    for weight in LAMBDAS:
        found = scored(p[:tuned], weight)
        sizes.append((found <= largest(found[np.arange(tuned), y[:tuned]])).sum(axis=1).mean())
    weight = LAMBDAS[int(np.argmin(sizes))]
    rest = y[tuned:]
    true = scored(p[tuned:], weight)[np.arange(len(rest)), rest]
    counts = np.bincount(rest, minlength=p.shape[1])
    if by_class and counts.min() >= FEWEST:
        limits = np.array([largest(true[rest == one]) for one in range(p.shape[1])])
    else:
        limits = np.full(p.shape[1], largest(true))
    return lambda q: scored(q, weight) <= limits


WAYS = {
    "LAC, one limit": lac,
    "LAC as built": lac_as_built,
    "RAPS": raps,
    "RAPS, randomised": lambda p, y, random: raps(p, y, random, randomised=True),
    "RAPS, by class": lambda p, y, random: raps(p, y, random, by_class=True),
}


def ranks(p: np.ndarray) -> np.ndarray:
    """Return the rank of each answer `[N, classes]`, from 1 for the most probable."""
    found: np.ndarray = np.argsort(np.argsort(-p, axis=1, kind="stable"), axis=1) + 1
    return found


def scores(p: np.ndarray, weight: float, rank: int, left_out: np.ndarray | float) -> np.ndarray:
    """Return RAPS's scores `[N, classes]`.

    Args:
        p: probabilities `[N, classes]`.
        weight: lambda.
        rank: k_reg.
        left_out: share of the answer's own probability that is left out, `[N, 1]` or one number.
    """
    place = ranks(p)
    sums = np.take_along_axis(np.cumsum(-np.sort(-p, axis=1), axis=1), place - 1, axis=1)
    found: np.ndarray = sums - left_out * p + weight * np.maximum(place - rank, 0)
    return found


def largest(values: np.ndarray) -> float:
    """Return the ceil((n + 1) 0.9)-th smallest of n values."""
    return float(np.sort(values)[len(values) - excluded(len(values))])


def measured(inside: np.ndarray, y: np.ndarray) -> list[float]:
    """Return the values of `COLUMNS` from the members of the sets, bool `[N, classes]`, and the labels."""
    covered, size = inside[np.arange(len(y)), y], inside.sum(axis=1)
    one, sizes = size == 1, (size <= 1, size == 2, size > 2)
    off = max(abs(covered[of].mean() - 0.9) for of in sizes if of.sum() >= 10)
    worst = min(covered[y == label].mean() for label in np.unique(y))
    shares = [float((size == 0).mean()), float(one.mean()), float(covered[one].mean()) if one.any() else np.nan]
    return [float(covered.mean()), float(size.mean()), *shares, float(inside.all(axis=1).mean()), off, worst]


if __name__ == "__main__":
    main()
