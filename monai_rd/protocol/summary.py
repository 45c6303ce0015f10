"""The numbers of a finished grid: estimates, comparisons, and what they were made with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from monai_rd.protocol.experiments import Column, Experiment, Row
from monai_rd.protocol.runs import Result
from monai_rd.protocol.statistics import Difference, Estimate, compare, estimate, handed_over, holm, image_values

__all__ = ["MEASURES", "Comparison", "Summary", "summarise"]

ALL_STUDENTS = "mean of the students"
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
        corrected: their `p` by measure, corrected by Holm for the number of rows that `row` is compared with.
    """

    column: Column
    row: Row
    other: Row
    best: bool
    differences: dict[str, Difference]
    corrected: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """All numbers of a table.

    Args:
        experiment: the grid.
        columns: of the grid, and for each teacher and share of several students one more, in which a measure is the
            mean over the students; its seeds are those that every student has.
        estimates: by row and column, then by measure; what has no finished run is left out.
        also: what else a run scored on the test set (RD's reprogrammed teacher): mean by name, then by measure.
        comparisons: of "rd", or of the best row where there is none.
        handed_over: by row and column, of rows with a teacher path where there is "ce", see `handed_over`: of the lead
            in ROC AUC.
        images: number of images that were looked at.
        on: which they are, "test" or "validation".
        made: the versions that runs were made with, each once.
        seconds: mean time of a run, by row.
        missing: names of runs that are not finished.
    """

    experiment: Experiment
    columns: tuple[Column, ...]
    estimates: _Estimates
    also: dict[tuple[Row, Column], dict[str, dict[str, float]]]
    comparisons: list[Comparison]
    handed_over: dict[tuple[Row, Column], Estimate | None]
    images: int
    on: str
    made: list[dict[str, str]]
    seconds: dict[str, float]
    missing: list[str]

    @property
    def measures(self) -> list[str]:
        """Those that the data have, in order."""
        found = {name for values in self.estimates.values() for name in values}
        return [name for name in MEASURES if name in found]


def summarise(experiment: Experiment, out: Path, on: str = "test") -> Summary:
    """Read the finished runs and compute what the table shows, on the images "test" or "validation".

    Raises:
        ValueError: no run is finished, or runs of a column were tested on different images.
    """
    results = {place: run.result(out, on) for place, run in experiment.runs.items()}
    finished = {place: result for place, result in results.items() if result is not None}
    if not finished:
        raise ValueError("no run is finished: there is no table to make")
    values: _Values = {}
    paths: _Values = {}
    seconds: dict[str, list[float]] = {}
    labels = next(iter(finished.values())).labels
    for (row, column, seed), result in finished.items():
        if not np.array_equal(result.labels, labels):
            raise ValueError(f"{experiment.runs[row, column, seed].name} was measured on other images than the others")
        _add(values, result.probabilities, labels, (row, column), seed)
        if result.path is not None:
            _add(paths, result.path, labels, (row, column), seed)
        seconds.setdefault(row.name, []).append(result.seconds)
    pooled = _pooled(experiment.columns)
    for column, students in pooled.items():
        for row in experiment.rows:
            _add_mean(values, row, students, column)
            _add_mean(paths, row, students, column)
    estimates = {
        place: {name: _bounded(estimate(_stacked(each, name, each))) for name in next(iter(each.values()))}
        for place, each in values.items()
    }
    columns = (*experiment.columns, *pooled)
    return Summary(
        experiment,
        columns,
        estimates,
        _also(finished, pooled),
        [one for column in columns for one in _compared(experiment, column, values, estimates)],
        dict(_handed_over(experiment, values, paths)),
        len(labels),
        on,
        _distinct(result.made for result in finished.values()),
        {name: float(np.mean(times)) for name, times in seconds.items()},
        sorted({experiment.runs[place].name for place in results.keys() - finished.keys()}),
    )


def _add(values: _Values, probabilities: np.ndarray, labels: np.ndarray, place: tuple[Row, Column], seed: int) -> None:
    found = image_values(probabilities[None], labels)
    values.setdefault(place, {})[seed] = {name: each[0] for name, each in found.items()}


def _pooled(columns: Iterable[Column]) -> dict[Column, list[Column]]:
    """The columns over students: of each teacher and share that several students have."""
    found: dict[Column, list[Column]] = {}
    for column in columns:
        found.setdefault(replace(column, student=ALL_STUDENTS), []).append(column)
    return {column: students for column, students in found.items() if len(students) > 1}


def _add_mean(values: _Values, row: Row, students: Iterable[Column], into: Column) -> None:
    """Put the means over students of what each image contributes into another column, of the seeds that all have."""
    by_student = [values.get((row, student), {}) for student in students]
    if seeds := set.intersection(*(set(one) for one in by_student)):
        values[row, into] = {
            seed: {name: np.mean([one[seed][name] for one in by_student], axis=0) for name in by_student[0][seed]}
            for seed in seeds
        }


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
    ours, compared = values[subject, column], []
    measures = [name for name in COMPARED if name in estimates[subject, column]]
    for other in (row for row in rows if row is not subject):
        theirs = values[other, column]
        if both := ours.keys() & theirs.keys():
            found = {name: compare(_stacked(ours, name, both), _stacked(theirs, name, both)) for name in measures}
            compared.append((other, found))
    corrected = {name: holm([found[name].p for _, found in compared]) for name in measures}
    for index, (other, found) in enumerate(compared):
        yield Comparison(column, subject, other, other is best, found, {name: corrected[name][index] for name in found})


def _handed_over(
    experiment: Experiment, values: _Values, paths: _Values
) -> Iterator[tuple[tuple[Row, Column], Estimate | None]]:
    alone = next((row for row in experiment.rows if row.name == "ce"), None)
    for (row, column), path in paths.items():
        ours, theirs = values[row, column], values.get((alone, column), {}) if alone else {}
        if seeds := path.keys() & ours.keys() & theirs.keys():
            student, other, taught = (_stacked(one, "roc_auc", seeds) for one in (ours, theirs, path))
            yield (row, column), handed_over(student, other, taught)


def _also(
    finished: dict[tuple[Row, Column, int], Result], pooled: dict[Column, list[Column]]
) -> dict[tuple[Row, Column], dict[str, dict[str, float]]]:
    found: dict[tuple[Row, Column], dict[str, dict[str, list[float]]]] = {}
    for (row, column, seed), result in finished.items():
        over = [
            mean
            for mean, students in pooled.items()
            if column in students and all((row, student, seed) in finished for student in students)
        ]
        for name, metrics in result.metrics["test"].items():
            if name != "student":
                for measure, place in product((one for one in MEASURES if one in metrics), (column, *over)):
                    by = found.setdefault((row, place), {}).setdefault(name, {})
                    by.setdefault(measure, []).append(metrics[measure]["value"])
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
