"""The figures of a report, each a `matplotlib.figure.Figure` made without pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from monai_rd.report.curves import calibrated_events, reliability, roc_band
from monai_rd.report.sets import AnsweredCurve
from monai_rd.report.style import BLUES, COLOURS, STYLE, THEME, cycle, finish, line_styles, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "answered_curve",
    "calibration_diagram",
    "cka_heat_map",
    "confusion_matrix",
    "learning_curves",
    "path_curves",
    "roc_curves",
    "slice_scores",
]

MOST_PANELS, MOST_NUMBERS, MOST_STUDIES = 12, 15, 40
TERMS: dict[str, str] = {
    "loss": "whole loss",
    "student_ce": "student, cross entropy",
    "teacher_ce": "reprogrammed teacher, cross entropy",
    "kl": "KL divergence of the logits",
    "cka": "CKA (−1: features agree)",
}
PATH: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "Reprogrammed teacher: accuracy",
        {"train_accuracy": "labelled training images", "validation_accuracy": "validation"},
    ),
    ("ROC AUC on validation", {"validation_auc": "reprogrammed teacher", "val_auc": "student"}),
    (
        "Reprogrammed teacher: confidence, CKA",
        {
            "train_confidence": "confidence, labelled images",
            "unlabelled_confidence": "confidence, unlabelled images",
            "cka": "CKA with the student (1: features agree)",
        },
    ),
    ("Temperature that calibrates it", {"temperature": "validation (above 1: too sure)"}),
)
METRICS: dict[str, str] = {
    "val_accuracy": "accuracy",
    "val_balanced_accuracy": "balanced accuracy",
    "val_auc": "ROC AUC",
    "val_ap": "average precision",
}


def learning_curves(history: Sequence[Mapping[str, Any]], chosen: int | None = None) -> Figure:
    """Draw the training loss terms, their weights, and the validation metrics by epoch.

    Args:
        history: rows of `HistoryHandler`, at least one.
        chosen: epoch of the selected student, which is marked; None for no mark.

    Raises:
        ValueError: an empty history.
    """
    if not history:
        raise ValueError("the history has no epoch: nothing to draw")
    epochs = [row["epoch"] for row in history]
    terms = [name for name in history[-1]["terms"] if name != "loss"]
    weights, metrics = list(history[-1]["weights"]), list(history[-1]["validation"])
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.4 if not weights else 5.2))
        grid = figure.add_gridspec(2 if weights else 1, 2, height_ratios=(3, 1.5) if weights else (1,))
        losses = figure.add_subplot(grid[0, 0])
        colours = dict(zip(terms, cycle(len(terms)), strict=True))
        for name, colour in colours.items():
            _line(losses, epochs, [row["terms"][name] for row in history], TERMS.get(name, str(name)), colour)
        low, high = losses.get_ylim()
        losses.set_ylim(low, high + 0.13 * len(terms) * (high - low))  # room for the legend
        finish(losses, "Training loss terms (unweighted)", "epoch", legend=False)
        losses.legend(loc="upper right")
        shares = figure.add_subplot(grid[0 if not weights else slice(0, 2), 1])
        for colour, name in zip(cycle(len(metrics)), metrics, strict=True):
            values = [row["validation"].get(name) for row in history]
            _line(shares, epochs, values, METRICS.get(name, str(name)), colour)
        if chosen is not None:
            late = chosen > (epochs[0] + epochs[-1]) / 2
            shares.axvline(chosen, color=THEME["muted"], linewidth=1, linestyle=(0, (2, 2)))
            shares.annotate(
                f"epoch {chosen}: chosen",
                (chosen, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-4 if late else 4, -2),
                textcoords="offset points",
                ha="right" if late else "left",
                va="top",
                color=THEME["muted"],
                fontsize=9,
            )
        shares.set_ylim(None, 1.02)
        finish(shares, "Validation", "epoch")
        if weights:
            below = figure.add_subplot(grid[1, 0], sharex=losses)
            for name, dashes in zip(weights, line_styles(len(weights)), strict=True):
                values = [row["weights"][name] for row in history]
                below.plot(epochs, values, color=colours[name], linestyle=dashes)
            below.set_ylim(-0.05, max(1.05, *below.get_ylim()))
            finish(below, "Weight of each term", "epoch", legend=False)
            losses.set_xlabel("")
    return figure


def path_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the measurements of `TeacherPathWatch` by epoch.

    Args:
        history: rows of `HistoryHandler`, at least one with a `teacher_path`.
    """
    epochs = [row["epoch"] for row in history]
    measured = [row.get("teacher_path", {}) for row in history]
    known = {name for one in measured for name in one}
    panels = [(title, lines) for title, lines in PATH if known & lines.keys()]
    both = [{**row.get("validation", {}), **one} for row, one in zip(history, measured, strict=True)]
    rows = -(-len(panels) // 2)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 2.8 * rows))
        for place, (title, lines) in enumerate(panels):
            axes = figure.add_subplot(rows, 2, place + 1)
            there = [name for name in lines if any(name in one for one in both)]
            for colour, name in zip(COLOURS, there, strict=False):
                _line(axes, epochs, [one.get(name) for one in both], lines[name], colour)
            if "temperature" not in lines:
                axes.set_ylim(None, 1.02)
            finish(axes, title, "epoch")
    return figure


def roc_curves(
    probabilities: ArrayLike, labels: ArrayLike, class_names: Sequence[str], multi_label: bool = False
) -> Figure:
    """Draw ROC curves with pointwise 95 % bands: of the second of two classes, else of each class against the rest.

    With more than 12 classes, the 12 with most positive images are drawn.

    Args:
        probabilities: `[N, classes]`.
        labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.
        class_names: class names by class index.
        multi_label: whether an image may have any number of classes.
    """
    p, y = np.asarray(probabilities), np.asarray(labels)
    member = y.astype(bool) if multi_label else y[:, None] == np.arange(p.shape[1])
    shown = list(range(p.shape[1])) if multi_label or p.shape[1] > 2 else [1]
    if len(shown) > MOST_PANELS:
        shown = sorted(sorted(shown, key=lambda index: -member[:, index].sum())[:MOST_PANELS])
    columns = 2 if len(shown) == 4 else min(len(shown), 3)
    rows = -(-len(shown) // columns)
    side = {1: 4.4, 2: 3.7}.get(len(shown), 2.9)
    with rc_context(STYLE):
        figure = Figure(figsize=(columns * side, rows * side + 0.2))
        for place, index in enumerate(shown):
            axes = figure.add_subplot(rows, columns, place + 1)
            _roc(axes, p[:, index], member[:, index], class_names[index], several=len(shown) > 1)
            if place < len(shown) - columns:
                axes.set_xlabel("")
            if place % columns:
                axes.set_ylabel("")
    return figure


def _roc(axes: Axes, score: np.ndarray, positive: np.ndarray, name: str, several: bool) -> None:
    band = roc_band(score, positive)
    axes.plot((0, 1), (0, 1), color=THEME["muted"], linewidth=1, linestyle=(0, (2, 2)))
    if band is None:
        axes.text(0.5, 0.55, "all images agree:\nno curve", ha="center", va="bottom", color=THEME["muted"])
    else:
        axes.fill_between(band.grid, band.low, band.high, color=COLOURS[0], alpha=0.18, linewidth=0, label="95 % band")
        axes.plot(band.false_positive_rate, band.true_positive_rate, color=COLOURS[0], label="test set")
        interval = f" ({band.interval[0]:.2f}–{band.interval[1]:.2f})" if several else ""
        told = f"AUC {band.auc:.3f}{interval}\n{band.positives} of {len(score)} positive"
        behind = {"facecolor": THEME["paper"], "edgecolor": "none", "alpha": 0.75, "pad": 2}
        axes.text(0.97, 0.04, told, ha="right", va="bottom", fontsize=9, bbox=behind)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    finish(axes, short(name, 30), "1 − specificity", "sensitivity", legend=False)


def calibration_diagram(
    probabilities: ArrayLike, labels: ArrayLike, class_names: Sequence[str], multi_label: bool = False
) -> Figure:
    """Draw a reliability diagram: predicted probability against observed frequency, with the number in each bin.

    With two classes it shows the probability of the second class, with more the probability of the most probable class,
    for multi-label data all probabilities.

    Args:
        probabilities: `[N, classes]`.
        labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.
        class_names: class names by class index.
        multi_label: whether an image may have any number of classes.
    """
    event = "any finding" if multi_label else "the class chosen" if len(class_names) > 2 else short(class_names[1], 30)
    found = reliability(*calibrated_events(probabilities, labels, multi_label))
    centres = (np.arange(len(found.counts)) + 0.5) / len(found.counts)
    filled = found.counts > 0
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 5.2))
        grid = figure.add_gridspec(2, 1, height_ratios=(4, 1))
        axes = figure.add_subplot(grid[0])
        axes.plot((0, 1), (0, 1), color=THEME["muted"], linewidth=1, linestyle=(0, (2, 2)))
        x, y = found.predicted[filled], found.observed[filled]
        below, above = y - found.low[filled], found.high[filled] - y
        error = np.maximum([below, above], 0)
        axes.errorbar(x, y, error, fmt="o", color=COLOURS[0], markersize=5, linewidth=1.2, capsize=2)
        low, high = found.interval
        title = f"Expected calibration error {found.error:.3f} ({low:.3f}–{high:.3f})"
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
        finish(axes, title, "", "observed share", legend=False)
        axes.tick_params(labelbottom=False)
        counts = figure.add_subplot(grid[1], sharex=axes)
        counts.bar(centres, found.counts, width=0.92 / len(centres), color=COLOURS[0], alpha=0.35)
        for centre, count in zip(centres, found.counts, strict=True):
            counts.annotate(
                str(count), (centre, count), (0, 1), textcoords="offset points", ha="center", va="bottom", fontsize=8
            )
        counts.set_ylim(0, found.counts.max() * 1.3)
        counts.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        finish(counts, "", f"predicted probability of {event}", "n", legend=False)
        counts.grid(axis="x", visible=False)
    return figure


def answered_curve(found: AnsweredCurve, answered: float, accuracy: float | None) -> Figure:
    """Draw the accuracy of the answered against the share answered, with its 95 % band.

    Args:
        found: the curve.
        answered: share of studies whose conformal set has one class, marked on it.
        accuracy: how many of these sets are right; None if there are none.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2))
        axes = figure.add_subplot()
        axes.fill_between(found.answered, found.low, found.high, color=COLOURS[0], alpha=0.15, linewidth=0)
        axes.plot(found.answered, found.accuracy, color=COLOURS[0], linewidth=1.6, label="most probable class")
        if accuracy is not None:
            axes.plot(answered, accuracy, "o", color=COLOURS[1], markersize=7, label="sets of one class")
        axes.set(xlim=(0, 1.01), ylim=(min(0.5, float(found.low[len(found.low) // 2 :].min())), 1.01))
        finish(axes, "Accuracy of the answered", "share answered, the surest first", "accuracy")
    return figure


def confusion_matrix(chosen: ArrayLike, labels: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix: true class by row, class that was said by column; colours show the share of the row.

    Args:
        chosen: class indices `[N]`.
        labels: class indices `[N]`.
        class_names: class names by class index.
    """
    y = np.asarray(labels)
    k = len(class_names)
    counts = np.zeros((k, k), dtype=int)
    np.add.at(counts, (y, np.asarray(chosen)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = float(np.interp(k, (2, 12, 40), (1.35, 0.7, 0.24)))
    longest = max(min(len(name), 24) for name in class_names)
    with rc_context(STYLE):
        figure = Figure(figsize=(k * cell + 0.09 * longest + 1.2, k * cell + 0.06 * longest + 0.9))
        axes = figure.add_subplot()
        _heat_map(axes, shares, [short(name, 24) for name in class_names], [short(name, 24) for name in class_names])
        if k <= MOST_NUMBERS:
            for row, column in np.ndindex(k, k):
                text = f"{counts[row, column]}\n{shares[row, column]:.0%}"
                colour = "#fefefe" if shares[row, column] > 0.55 else "#1c2431"
                size = float(np.interp(k, (2, 15), (11, 6.5)))
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
        finish(axes, "Confusion matrix", "predicted", "true", legend=False)
        axes.grid(visible=False)
    return figure


def cka_heat_map(values: ArrayLike, student: Sequence[str], teacher: Sequence[str]) -> Figure:
    """Draw the CKA between layers: the student's by column, the teacher's by row from input (bottom) to output (top).

    Args:
        values: `[student layers, teacher layers]`; unbiased CKA may be slightly negative.
        student: names of the student's layers.
        teacher: names of the teacher's layers.
    """
    shown = np.round(np.asarray(values, dtype=float).T[::-1], 2)
    with rc_context(STYLE):
        figure = Figure(figsize=(1.9 + 0.75 * len(student), 1.5 + 0.5 * len(teacher)))
        axes = figure.add_subplot()
        _heat_map(axes, shown, [short(name, 22) for name in reversed(teacher)], [short(name, 22) for name in student])
        for row, column in np.ndindex(*shown.shape):
            value = shown[row, column]
            text, colour = ("–", "#1c2431") if np.isnan(value) else (f"{value:.2f}", "#1c2431")
            axes.text(
                column, row, text, ha="center", va="center", fontsize=9, color="#fefefe" if value > 0.55 else colour
            )
        finish(axes, "CKA of the layers", "student", "teacher", legend=False)
        axes.grid(visible=False)
    return figure


def slice_scores(
    scores: Sequence[np.ndarray], studies: Sequence[float], labels: Sequence[int], class_names: Sequence[str], of: str
) -> Figure:
    """Draw a strip plot of the probabilities of each study's slices and of the study; studies are ordered by theirs.

    With more than 40 studies, 40 are drawn, evenly spaced in that order.

    Args:
        scores: for each study, the probability of each slice `[S]`.
        studies: the probability of each study.
        labels: class index of each study; sets the colour.
        class_names: class names by class index.
        of: what the probability is of, for the axis label.
    """
    order = np.argsort(studies, kind="stable")
    if len(order) > MOST_STUDIES:
        order = order[np.linspace(0, len(order) - 1, MOST_STUDIES).round().astype(int)]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.2))
        axes = figure.add_subplot()
        marks = "osD^vP"
        seen: set[int] = set()
        for place, index in enumerate(order):
            values, label = np.asarray(scores[index]), int(labels[index])
            colour, mark = COLOURS[label % len(COLOURS)], marks[label % len(marks)]
            axes.plot((place, place), (values.min(), values.max()), color=THEME["grid"], linewidth=3, zorder=1)
            name = None if label in seen else short(class_names[label], 30)
            seen.add(label)
            at = np.full(len(values), place)
            axes.scatter(at, values, s=14, c=colour, marker=mark, alpha=0.75, linewidths=0, label=name, zorder=2)
            axes.plot((place - 0.35, place + 0.35), [studies[index]] * 2, color=THEME["ink"], linewidth=1.5, zorder=3)
        axes.set(ylim=(-0.03, 1.03), xticks=(), xlim=(-0.8, len(order) - 0.2))
        axes.set_title("Scores of single slices")
        axes.set(xlabel="studies, by their own score (line)", ylabel=of)
        axes.legend(title="true class", loc="upper left", ncols=1, title_fontsize=9)
        axes.grid(axis="x", visible=False)
    return figure


def _heat_map(axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw cells from 0 to 1 with white lines between them; as vector graphics unless there are very many cells."""
    many = values.size > 900
    edges_x, edges_y = np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
    edge, width = ("none", 0.0) if many else ("#fefefe", 1.5)
    axes.pcolormesh(
        edges_x, edges_y, values, cmap=BLUES, vmin=0, vmax=1, edgecolors=edge, linewidth=width, rasterized=many
    )
    axes.invert_yaxis()
    axes.set_aspect("equal" if len(rows) == len(columns) else "auto")
    slanted = len(columns) > 3 and max(map(len, columns)) > 6
    axes.set_xticks(range(len(columns)), columns, rotation=35 if slanted else 0, ha="right" if slanted else "center")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, colors=THEME["ink"])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _line(axes: Axes, epochs: Sequence[int], values: Sequence[float | None], label: str, colour: str) -> None:
    numbers = np.array([np.nan if value is None else value for value in values])
    there = np.isfinite(numbers)  # epochs without validation are bridged
    mark = "o" if there.sum() <= 15 else ""
    axes.plot(np.asarray(epochs)[there], numbers[there], mark + "-", color=colour, markersize=3.5, label=label)
