"""The numbers of a finished grid: estimates, comparisons, and what they were made with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from monai_rd.protocol.cells import Result
from monai_rd.protocol.experiments import Column, Experiment, Row
from monai_rd.protocol.statistics import Difference, Estimate, compare, estimate, image_values

__all__ = ["MEASURES", "Comparison", "Summary", "summarise"]

MEASURES = ("accuracy", "roc_auc", "sensitivity", "specificity")
COMPARED = ("accuracy", "roc_auc")
_Values = dict[tuple[Row, Column], dict[int, dict[str, np.ndarray]]]
_Estimates = dict[tuple[Row, Column], dict[str, Estimate]]


@dataclass(frozen=True)
class Comparison:
    """One row against another in one column, on the seeds that both have.

    Args:
        column: where.
        row: whose measure the other's is taken from.
        other: the baseline.
        best: the other has the best mean of all but `row` (of the first measure), known after looking.
        differences: by measure.
    """

    column: Column
    row: Row
    other: Row
    best: bool
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Summary:
    """All numbers of a table.

    Args:
        experiment: the grid.
        estimates: by row and column, then by measure; what has no finished cell is left out.
        also: what else a run scored on the test set (RD's reprogrammed teacher): mean by name, then by measure.
        comparisons: of "rd", or of the best row where there is none.
        images: number of test images.
        made: the versions that cells were made with, each once.
        seconds: mean time of a cell, by row.
        missing: names of cells that are not finished.
    """

    experiment: Experiment
    estimates: _Estimates
    also: dict[tuple[Row, Column], dict[str, dict[str, float]]]
    comparisons: list[Comparison]
    images: int
    made: list[dict[str, str]]
    seconds: dict[str, float]
    missing: list[str]

    @property
    def measures(self) -> list[str]:
        """Those that the data have, in order."""
        found = {name for values in self.estimates.values() for name in values}
        return [name for name in MEASURES if name in found]


def summarise(experiment: Experiment, out: Path) -> Summary:
    """Read the finished cells and compute what the table shows.

    Raises:
        ValueError: no cell is finished, or cells of a column were tested on different images.
    """
    results = {place: cell.result(out) for place, cell in experiment.cells.items()}
    finished = {place: result for place, result in results.items() if result is not None}
    if not finished:
        raise ValueError("no cell is finished: there is no table to make")
    values: _Values = {}
    seconds: dict[str, list[float]] = {}
    labels = next(iter(finished.values())).labels
    for (row, column, seed), result in finished.items():
        if not np.array_equal(result.labels, labels):
            raise ValueError(f"{experiment.cells[row, column, seed].name} was tested on other images than the others")
        one = image_values(result.probabilities[None], labels)
        values.setdefault((row, column), {})[seed] = {name: each[0] for name, each in one.items()}
        seconds.setdefault(row.name, []).append(result.seconds)
    estimates = {
        place: {name: _bounded(estimate(_stacked(each, name, each))) for name in next(iter(each.values()))}
        for place, each in values.items()
    }
    return Summary(
        experiment,
        estimates,
        _also(experiment, finished),
        [one for column in experiment.columns for one in _compared(experiment, column, values, estimates)],
        len(labels),
        _distinct(result.made for result in finished.values()),
        {name: float(np.mean(times)) for name, times in seconds.items()},
        sorted({experiment.cells[place].name for place in results.keys() - finished.keys()}),
    )


def _bounded(one: Estimate) -> Estimate:
    """An AUC near 1 has values above 1 (see `image_values`), and so may a draw of them."""
    return replace(one, low=max(one.low, 0.0), high=min(one.high, 1.0))


def _stacked(by_seed: dict[int, dict[str, np.ndarray]], name: str, seeds: Iterable[int]) -> np.ndarray:
    return np.stack([by_seed[seed][name] for seed in sorted(seeds)])


def _compared(
    experiment: Experiment,
    column: Column,
    values: _Values,
    estimates: _Estimates,
) -> Iterator[Comparison]:
    rows = [row for row in experiment.rows if (row, column) in values]
    if len(rows) < 2:
        return
    first = next(iter(estimates[rows[0], column]))
    ranked = sorted(rows, key=lambda row: -estimates[row, column][first].mean)
    subject = next((row for row in rows if row.name == "rd"), ranked[0])
    best = next(row for row in ranked if row is not subject)
    for other in rows:
        both = values[subject, column].keys() & values[other, column].keys()
        if other is subject or not both:
            continue
        ours, theirs = values[subject, column], values[other, column]
        measures = [name for name in COMPARED if name in estimates[other, column]]
        differences = {name: compare(_stacked(ours, name, both), _stacked(theirs, name, both)) for name in measures}
        yield Comparison(column, subject, other, other is best, differences)


def _also(
    experiment: Experiment, finished: dict[tuple[Row, Column, int], Result]
) -> dict[tuple[Row, Column], dict[str, dict[str, float]]]:
    found: dict[tuple[Row, Column], dict[str, dict[str, list[float]]]] = {}
    for (row, column, _), result in finished.items():
        for name, metrics in result.metrics["test"].items():
            if name != "student":
                into = found.setdefault((row, column), {}).setdefault(name, {})
                for measure in MEASURES:
                    if measure in metrics:
                        into.setdefault(measure, []).append(metrics[measure]["value"])
    return {
        place: {name: {m: float(np.mean(v)) for m, v in by.items()} for name, by in names.items()}
        for place, names in found.items()
    }


def _distinct(found: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    kept: list[dict[str, str]] = []
    for one in found:
        if one not in kept:
            kept.append(one)
    return kept
