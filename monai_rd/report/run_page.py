"""`report.html`: what a run made, for someone who has to decide whether to believe it."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import binomtest

from monai_rd.handlers.history import read_history
from monai_rd.report import figures, page
from monai_rd.report.curves import reliability
from monai_rd.report.gallery import gallery
from monai_rd.report.metrics import METRIC_NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from monai_rd.report.final import FinalReport
    from monai_rd.report.scoring import TestScores

__all__ = ["RunPage"]

logger = logging.getLogger(__name__)

PHANTOMS = (
    "PHANTOMS: these images were drawn by the project itself, not taken of patients. The numbers show that the "
    "machinery works and say nothing about medicine."
)
PURPOSE = "For research. Not a medical device, and not to be used for diagnosis."


class RunPage:
    """Writes `report.html` and `figures/` into a report's `output_dir`.

    A part that fails is written into the log with its traceback and named in red on the page; the others stand.

    Args:
        report: the report, with its network loaded.
        scores: what the test set brought.
        rows: metrics by row of the table.
        unread: test studies left out, by code.
    """

    def __init__(self, report: FinalReport, scores: TestScores, rows: dict[str, dict[str, Any]], unread: str) -> None:
        self.report, self.scores, self.rows, self.unread = report, scores, rows, unread
        self.names, self.multi_label = report.class_names, report.multi_label
        self.probabilities = scores.probabilities["student"]
        self.folder = report.output_dir / "figures"

    def write(self) -> Path:
        """Write the page; returns its path."""
        settings = self.report.settings
        student, teacher = settings.get("student", "student"), settings.get("teacher")
        made = [
            self._section("Result on the test set", self._result),
            self._section("ROC curve" if len(self.names) == 2 and not self.multi_label else "ROC curves", self._roc),
            self._section("Calibration and errors", self._calibration),
            self._section("Training", self._training),
            self._section("Layers of student and teacher", self._layers),
            self._section("Where the student looked", self._gallery),
            self._section("Slices", self._slices),
            self._section("What was trained", self._settings),
        ]
        path = self.report.output_dir / "report.html"
        taught = f", taught by {teacher}" if teacher else ""
        page.write_page(
            path,
            f"{student}{taught}",
            [section for section in made if section.body],
            f"Report of a run: {len(self.probabilities)} test items, classes {', '.join(self.names)}",
            [PHANTOMS] if self.report.phantom else [],
            f"Written by monai_rd {version('monai_rd')}. {PURPOSE} Intervals are 95 % and tell of chance among the test "
            "items alone, not of another hospital, scanner or population.",
        )
        return path

    def _section(self, title: str, make: Callable[[], list[str]]) -> page.Section:
        try:
            return page.Section(title, make())
        except Exception as error:
            logger.exception("the report's part '%s' could not be made", title)
            return page.Section(
                title, [page.alert(f"This part could not be made ({type(error).__name__}); see the log.")]
            )

    def _figure(self, figure: Figure, name: str, told: str, wide: bool = False) -> str:
        """Save a figure and give its markup."""
        figures.save_figure(figure, self.folder / name)
        return page.figure_block(figure, name, told, wide)

    def _result(self) -> list[str]:
        shown = [key for key in METRIC_NAMES if key in self.rows["student"]]
        values = [(METRIC_NAMES[key], self.rows["student"][key]) for key in shown]
        numbers = [(f"{one['value']:.3f}", name, _interval(one)) for name, one in values]
        table = [
            [row, *(f"{metrics[key]['value']:.3f} {_interval(metrics[key])}".strip() for key in shown)]
            for row, metrics in self.rows.items()
        ]
        body = [page.cards(numbers), page.table(table, ["", *(METRIC_NAMES[key] for key in shown)])]
        if len(self.names) > 2 or self.multi_label:
            body.append(page.table(*self._classes()))
        if self.unread:
            body.append(page.alert(f"Left out because they cannot be read: {self.unread}."))
        if self.multi_label:
            body.append(
                page.note("Means over the classes that have both positive and negative images; 0.5 is a guess.")
            )
        elif len(self.names) == 2:
            body.append(
                page.note(
                    f"Positive is “{self.names[1]}”: sensitivity is the share of its cases that were found, specificity "
                    f"the share of “{self.names[0]}” that was left in peace, both at a probability of 0.5.",
                    "ROC AUC is the chance that a positive case scores higher than a negative one; 0.5 is a guess.",
                )
            )
        body.append(
            page.note(
                "The truth lies in the interval in brackets in 95 of 100 such studies; a wide one means few cases."
            )
        )
        return body

    def _classes(self) -> tuple[list[list[str]], list[str]]:
        """A table of classes: rows and header."""
        if self.multi_label:
            found = self.rows["student"]["classes"]
            cells = [
                [name, str(one["positives"]), _number(one["roc_auc"]), _number(one["average_precision"])]
                for name, one in zip(self.names, found, strict=True)
            ]
            return cells, ["class", "positive", "ROC AUC", "average precision"]
        chosen, labels = self.probabilities.argmax(axis=1), self.scores.labels
        cells = []
        for index, name in enumerate(self.names):
            hits = int(((chosen == index) & (labels == index)).sum())
            pairs = (hits, int((labels == index).sum())), (hits, int((chosen == index).sum()))
            cells.append([name, str(pairs[0][1]), *(_share(*pair) for pair in pairs)])
        return cells, ["class", "items", "found (sensitivity)", "right when named (precision)"]

    def _roc(self) -> list[str]:
        figure = figures.roc_curves(self.probabilities, self.scores.labels, self.names, self.multi_label)
        several = len(figure.axes) > 1
        told = "ROC curve of the student on the test set with its 95 % band, point by point."
        if several:
            told = "ROC curve of each class against the rest with its 95 % band, point by point."
        note = page.note(
            "Each point is a threshold: further up finds more cases, further left alarms less; a curve on the dashed line guesses."
        )
        return [self._figure(figure, "roc", told, wide=several), note]

    def _calibration(self) -> list[str]:
        figure = figures.calibration_diagram(self.probabilities, self.scores.labels, self.names, self.multi_label)
        blocks = [
            self._figure(
                figure,
                "calibration",
                "How often what was predicted came true, and how many predictions lie in each tenth.",
            )
        ]
        if not self.multi_label:
            figure = figures.confusion_matrix(self.probabilities, self.scores.labels, self.names)
            told = "Confusion matrix: number of items, and share of their true class."
            blocks.append(self._figure(figure, "confusion_matrix", told, wide=len(self.names) > 4))
        found = reliability(*figures.calibrated_events(self.probabilities, self.scores.labels, self.multi_label))
        return [
            page.row(*blocks) if len(self.names) <= 4 else "".join(blocks),
            page.note(
                "On the dashed line a probability can be taken at its word: of the cases given 0.8, 8 of 10 are so.",
                f"Expected calibration error: on average a probability is {100 * found.error:.1f} percentage points "
                "away from what came true.",
            ),
        ]

    def _training(self) -> list[str]:
        history = read_history(self.report.output_dir / "history.json")
        if not history:
            return [page.note("No history.json lies beside this report, so there are no curves of the training.")]
        figure = figures.learning_curves(history)
        told = "Mean of each loss term over each epoch, the terms' weights, and the validation metrics."
        total = sum(row["seconds"] for row in history)
        return [
            self._figure(figure, "learning_curves", told, wide=True),
            page.note(
                "The student was chosen on the validation set, never on the test set; curves that still rise at the end ask for more epochs.",
                f"{len(history)} epochs, {_duration(total)}.",
            ),
        ]

    def _layers(self) -> list[str]:
        found = self.scores.cka
        if found is None:
            return []
        figure = figures.cka_heat_map(found.values.numpy(), found.first, found.second)
        told = f"Linear CKA (unbiased, arXiv 2010.15327) between layers, from {found.n} test items."
        return [
            self._figure(figure, "cka", told, wide=len(found.first) > 5),
            page.note(
                "1: both layers tell the test items apart in the same way; 0: in unrelated ways. The student's last layers should resemble the teacher's.",
                "Maps are averaged to at most 4 positions a side and over the slices of a study before they are compared.",
            ),
        ]

    def _gallery(self) -> list[str]:
        report = self.report
        given = (
            report.network,
            report.loader,
            report.device,
            self.probabilities,
            self.scores.labels,
            self.scores.places,
        )
        markup, grid = gallery(*given, self.names, self.multi_label)
        notes = ["Items are numbered by their place in the test list; left the image as the student saw it."]
        if grid:
            size = " × ".join(map(str, grid))
            notes.append(
                f"Right, in warm colours, what spoke for the class named (Grad-CAM, arXiv 1610.02391), from a map of {size} positions: a hint of the region, no outline."
            )
        if self.scores.slices:
            notes.append(
                "Bars: how probable each slice alone makes that class; the study's answer comes from their mean features."
            )
        return [markup, page.note(*notes)]

    def _slices(self) -> list[str]:
        slices = self.scores.slices
        if not slices or self.multi_label or len(slices[0]) < 2:
            return []
        labels = self.scores.labels[: len(slices)]
        if len(self.names) == 2:
            scores, of = [one[:, 1] for one in slices], f"probability of {self.names[1]}"
        else:
            scores, of = [one[:, label] for one, label in zip(slices, labels, strict=True)], "probability of the truth"
        figure = figures.slice_scores(scores, labels.tolist(), self.names, of)
        told = "Each point is a slice, each column a study, the line the mean of its slices."
        return [
            self._figure(figure, "slice_scores", told, wide=True),
            page.note(
                "A study whose slices disagree has its finding on few slices, or is one the student does not understand."
            ),
        ]

    def _settings(self) -> list[str]:
        rows = [[name.replace("_", " "), _plain(value)] for name, value in self.report.settings.items()]
        device = self.report.device
        rows.append(["device", torch.cuda.get_device_name(device) if device.type == "cuda" else device.type])
        rows.append(["student's parameters", f"{sum(p.numel() for p in self.report.network.parameters()):,}"])
        packages = ("monai_rd", "monai", "torch", "timm", "pytorch-ignite")
        rows.append(
            [
                "versions",
                ", ".join([*(f"{name} {version(name)}" for name in packages), f"Python {platform.python_version()}"]),
            ]
        )
        return [page.table(rows, kind="settings")]


def _interval(metric: dict[str, Any]) -> str:
    interval = metric.get("interval")
    return f"({interval[0]:.3f}–{interval[1]:.3f})" if interval else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(hits: int, n: int) -> str:
    """A proportion with Wilson's interval."""
    if n == 0:
        return "–"
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return f"{hits / n:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return (
        {None: "none", True: "yes", False: "no"}.get(value, str(value))
        if not isinstance(value, float)
        else f"{value:g}"
    )
