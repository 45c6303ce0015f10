"""Coverage of conformal sets and operating points, from the predictions that finished trainings left.

    python benchmarks/conformal.py benchmarks/results/unlabelled/*/runs

For each folder, over its runs with validation predictions: coverage as published (limits of the validation set,
measured on the test set), and over 1,000 resamplings in which the images of both sets are mixed and split anew. Mixed,
they are exchangeable, so that the number of test images covered, of each class where it has limits of its own, has a
beta-binomial distribution: the last two columns of the first table say how often it lies within its central 95 %, and
the mean of coverage minus its expectation. In brackets the central 95 %, or the range of fewer than 200 values.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from scipy.stats import betabinom

from monai_rd.inference import Decision
from monai_rd.inference.conformal import excluded
from monai_rd.proportions import wilson
from monai_rd.report.sets import set_metrics

RESAMPLINGS = 1000
Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # validation and test: probabilities, labels


def main() -> None:
    """Print two tables, for sets and for operating points, a row for each folder and student."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    arguments.add_argument("--resamplings", type=int, default=RESAMPLINGS)
    given = arguments.parse_args()
    read = {folder: splits(folder) for folder in given.runs}
    print("| runs | n | validation, test | coverage as published | one class | of these right | all right |", end="")
    print(" coverage resampled | within 95 % | minus expected |\n" + "|---" * 10 + "|")
    for folder, found in read.items():
        print(f"| {folder.parent.name} | {len(found)} | {len(found[0][1])}, {len(found[0][3])} |", end=" ")
        print(" | ".join(sets_of(found, given.resamplings)) + " |")
    print("\n| runs | asked | on test as published | its interval holds what was asked | resampled | the same |")
    print("|---" * 6 + "|")
    for folder, found in read.items():
        if found[0][0].shape[1] == 2:
            for asked in ("sensitivity 0.95", "specificity 0.9"):
                print(f"| {folder.parent.name} | {asked} | {' | '.join(points_of(asked, found, given.resamplings))} |")


def splits(folder: Path) -> list[Split]:
    """Return the predictions of each run of a folder that has them for both sets.

    Raises:
        ValueError: there are none.
    """
    files = [np.load(file) for file in sorted(folder.glob("*/predictions.npz"))]
    names = ("validation_probabilities", "validation_labels", "probabilities", "labels")
    found: list[Split] = [tuple(file[name] for name in names) for file in files if names[0] in file]
    if not found:
        raise ValueError(f"{folder}: no run with validation predictions in predictions.npz")
    return found


def mixed(split: Split, random: np.random.Generator) -> Split:
    """Return the images of both sets, split anew."""
    p, y = np.concatenate(split[::2]), np.concatenate(split[1::2])
    order, n = random.permutation(len(y)), len(split[1])
    return p[order[:n]], y[order[:n]], p[order[n:]], y[order[n:]]


def sets_of(found: Sequence[Split], resamplings: int) -> list[str]:
    """Return the cells of a row of the first table."""
    published = [set_metrics(Decision.fit(p, y), q, t) for p, y, q, t in found]
    cells = [
        spread([one[name]["value"] for one in published if one and one[name]])
        for name in ("coverage", "answered", "accuracy_of_answered")
    ]
    cells.append(spread([float((q.argmax(axis=1) == t).mean()) for _, _, q, t in found]))
    random = np.random.default_rng(0)
    shares, inside, off = [], [], []
    for split in found:
        for _ in range(resamplings):
            p, y, q, t = mixed(split, random)
            decision = Decision.fit(p, y)
            (one,) = decision.sets
            covered = one.members(q)[np.arange(len(t)), t]
            shares.append(covered.mean())
            groups = range(q.shape[1]) if one.kind == "class-conditional" else [slice(None)]
            for group in groups:
                hits, n = (covered, len(y)) if isinstance(group, slice) else (covered[t == group], one.n[group])
                low, mean, high = covered_by_chance(len(hits), n)
                inside.append(low <= hits.sum() <= high)
                off.append(hits.mean() - mean / len(hits))
    return [*cells, spread(shares), f"{np.mean(inside):.3f}", f"{np.mean(off):+.4f}"]


@cache
def covered_by_chance(tests: int, n: int) -> tuple[float, float, float]:
    """Return the 2.5 % quantile, mean and 97.5 % quantile of how many of `tests` images n validation images cover."""
    k = excluded(n)
    expected = betabinom(tests, n + 1 - k, k)
    return float(expected.ppf(0.025)), float(expected.mean()), float(expected.ppf(0.975))


def points_of(asked: str, found: Sequence[Split], resamplings: int) -> list[str]:
    """Return the cells of a row of the second table."""
    measure, share = asked.split()
    random, cells = np.random.default_rng(0), []
    for drawn in (found, [mixed(split, random) for split in found for _ in range(resamplings)]):
        reached, held = [], []
        for p, y, q, t in drawn:
            said = Decision.fit(p, y, operating_point=asked).chosen(q)
            right = (said == t)[t == (measure == "sensitivity")]
            low, high = wilson(int(right.sum()), len(right))
            reached.append(float(right.mean()))
            held.append(low <= float(share) <= high)
        cells += [spread(reached), f"{sum(held)} of {len(held)}"]
    return cells


def spread(values: Sequence[float]) -> str:
    """Return mean and central 95 % of values; their range if there are few."""
    low, high = np.quantile(values, (0.025, 0.975)) if len(values) >= 200 else (min(values), max(values))
    return f"{np.mean(values):.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    main()
