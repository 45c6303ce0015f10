"""The numbers of a finished grid: estimates, comparisons, and software versions."""

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
MEASURES = ("accuracy", "balanced_accuracy", "roc_auc", "sensitivity", "specificity")
COMPARED = ("accuracy", "balanced_accuracy", "roc_auc")
_Values = dict[tuple[Row, Column], dict[int, dict[str, np.ndarray]]]
_Estimates = dict[tuple[Row, Column], dict[str, Estimate]]


@dataclass(frozen=True)
class Comparison:
    """A comparison of two rows in one column, on the seeds that both have.

    Args:
        column: the column.
        row: the row that is compared; differences are `row` minus `other`.
        other: the baseline.
        best: whether the baseline has the best mean of all rows except `row` (by the first measure), which is known
            only after looking at the results.
        differences: differences by measure.
        corrected: their `p` by measure, Holm-corrected for the number of rows that `row` is compared with.
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
        columns: the columns of the grid. With several students, each teacher and share has one more column with the
            mean over the students, on the seeds that every student has.
        estimates: estimates by row and column, then by measure; cells without a finished run are missing.
        also: further networks that a run scored on the test set (RD's reprogrammed teacher): means by row and column,
            then by name and measure.
        comparisons: comparisons of "rd", or of the best row if there is no "rd".
        handed_over: by row and column, the share of the teacher path's lead in ROC AUC over "ce" that its student
            gains, see `statistics.handed_over`.
        images: number of evaluated images.
        on: which images, "test" or "validation".
        made: the distinct software versions of the runs.
        seconds: mean duration of a run, by row.
        missing: names of unfinished runs.
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
        """The measures that the data allow, in order."""
        found = {name for values in self.estimates.values() for name in values}
        return [name for name in MEASURES if name in found]


def summarise(experiment: Experiment, out: Path, on: str = "test") -> Summary:
    """Read the finished runs and compute the numbers of the table.

    Args:
        experiment: the grid.
        out: the benchmark's folder.
        on: the images to evaluate, "test" or "validation".

    Raises:
        ValueError: no run is finished, or the runs of a column were tested on different images.
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
    """Return the columns with means over students, for each teacher and share with several students."""
    found: dict[Column, list[Column]] = {}
    for column in columns:
        found.setdefault(replace(column, student=ALL_STUDENTS), []).append(column)
    return {column: students for column, students in found.items() if len(students) > 1}


def _add_mean(values: _Values, row: Row, students: Iterable[Column], into: Column) -> None:
    """Average the contributions of each image over students into another column, for the seeds that all have."""
    by_student = [values.get((row, student), {}) for student in students]
    if seeds := set.intersection(*(set(one) for one in by_student)):
        values[row, into] = {
            seed: {name: np.mean([one[seed][name] for one in by_student], axis=0) for name in by_student[0][seed]}
            for seed in seeds
        }


def _bounded(one: Estimate) -> Estimate:
    """Clip an estimate to [0, 1]: contributions to an AUC near 1 exceed 1 (see `image_values`), and so may a draw."""
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
