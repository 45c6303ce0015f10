"""The page `report.html` of a training run, for readers who must decide whether to trust the result."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from markupsafe import Markup
from monai.data import DataLoader

from monai_rd.handlers.history import read_history
from monai_rd.report import figures, page
from monai_rd.report.curves import calibrated_events, reliability
from monai_rd.report.explaining import METHODS
from monai_rd.report.gallery import gallery
from monai_rd.report.metrics import METRIC_NAMES, OF_CLASSES
from monai_rd.report.sets import answered_curve
from monai_rd.report.style import save_figure
from monai_rd.report.transfer import behind, memorised

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from monai_rd.inference import Decision
    from monai_rd.networks import Student
    from monai_rd.report.scoring import TestScores

__all__ = ["FinishedRun", "RunPage"]

logger = logging.getLogger(__name__)

PHANTOMS = (
    "PHANTOMS: these images were drawn by the project itself, not taken of patients. The numbers show that the "
    "machinery works and say nothing about medicine."
)
PURPOSE = "For research. Not a medical device, and not to be used for diagnosis."


@dataclass(frozen=True)
class FinishedRun:
    """A finished training run: the tested student and its results.

    Args:
        output_dir: folder of `history.json`, where the page is written.
        network: the student with its trained weights.
        loader: loader of the test set.
        device: where to run.
        class_names: class names by class index.
        multi_label: whether an image may have any number of classes.
        phantom: whether the data are the project's phantoms.
        settings: settings of the training, by name.
        scores: predictions on the test set.
        rows: metrics by row of the table.
        unread: test studies that could not be read, counted by error code.
        decision: of the student.
        sets: what its conformal sets cover, see `set_metrics`.
    """

    output_dir: Path
    network: Student
    loader: DataLoader
    device: torch.device
    class_names: Sequence[str]
    multi_label: bool
    phantom: bool
    settings: Mapping[str, Any]
    scores: TestScores
    rows: Mapping[str, dict[str, Any]]
    unread: str
    decision: Decision
    sets: dict[str, Any] | None


class RunPage:
    """Writes `report.html` and `figures/` into a run's `output_dir`.

    A section that fails is logged with its traceback and named in red on the page; the others are kept.

    Args:
        run: the finished run.
    """

    def __init__(self, run: FinishedRun) -> None:
        self.run, self.scores, self.rows = run, run.scores, run.rows
        self.names, self.multi_label = run.class_names, run.multi_label
        self.probabilities = run.scores.probabilities["student"]
        self.folder = run.output_dir / "figures"

    def write(self) -> Path:
        """Write the page and return its path."""
        parts = {
            "Result on the test set": self._result,
            "How well it tells the classes apart": self._discrimination,
            "How far its probabilities can be trusted": self._calibration,
            "When it holds back": self._sets,
            "Where the student looked": self._gallery,
            "What single slices say": self._slices,
            "Training": self._training,
            "Layers of student and teacher": self._layers,
            "What was trained": self._settings,
        }
        made = [self._section(title, make) for title, make in parts.items()]
        path = self.run.output_dir / "report.html"
        student, teacher = (self.run.settings.get(key) for key in ("student", "teacher"))
        page.write_page(
            path,
            (student or "student") + (f", taught by {teacher}" if teacher else ""),
            [section for section in made if section.body],
            f"Report of a run: {len(self.probabilities)} test items, classes {', '.join(self.names)}",
            [PHANTOMS] if self.run.phantom else [],
            f"Written by monai_rd {version('monai_rd')}. {PURPOSE} Intervals are of 95 % and tell of chance among the "
            "test items alone, not of another hospital, scanner or population.",
        )
        return path

    def _section(self, title: str, make: Callable[[], list[Markup]]) -> page.Section:
        try:
            return page.Section(title, make())
        except Exception as error:
            logger.exception("the report's part '%s' could not be made", title)
            told = f"This part could not be made ({type(error).__name__}); the log says why."
            return page.Section(title, [page.alert(told)])

    def _figure(self, figure: Figure, name: str, told: str, wide: bool = False) -> Markup:
        """Save a figure and return its markup."""
        _, svg = save_figure(figure, self.folder / name)
        return page.figure_block(svg.read_text(encoding="utf-8"), name, told, wide)

    def _result(self) -> list[Markup]:
        shown = {key: name for key, name in METRIC_NAMES.items() if key in self.rows["student"]}
        student = {name: self.rows["student"][key] for key, name in shown.items()}
        body = [page.cards([(f"{one['value']:.3f}", name, _interval(one)) for name, one in student.items()])]
        table = [[row, *(_cell(metrics[key]) for key in shown)] for row, metrics in self.rows.items()]
        if len(table) > 1:
            body.append(page.table(table, ["", *shown.values()]))
        if len(self.names) > 2 or self.multi_label:
            body.append(page.table(*self._classes()))
        if self.run.unread:
            body.append(page.alert(f"Left out because they cannot be read: {self.run.unread}."))
        if self.multi_label:
            notes = [
                "Means over the classes that have both positive and negative images; an AUC of 0.5 is a guess.",
                "Balanced accuracy: mean of sensitivity and specificity.",
            ]
        else:
            notes = ["ROC AUC: how often a case scores higher than one of the other side; 0.5 is a guess."]
            if len(self.names) > 2:
                notes.append("The ROC AUC of all is the mean over classes, each against the rest (macro AUC).")
            notes.append("Balanced accuracy: mean over classes, so that a rare class counts like a frequent one.")
        if len(self.names) == 2 and not self.multi_label:
            notes.append(
                f"Sensitivity: share of the “{self.names[1]}” cases that were found. Specificity: share of the "
                f"“{self.names[0]}” cases that were let pass."
            )
        if len(self.names) == 2 or self.multi_label:
            points = self.run.decision.points_in_words(self.names)
            notes.append(
                f"What is said: {'; '.join(points)}." if points else "What is said: from a probability of 0.5 on."
            )
        notes.append("In brackets 95 % intervals: about 95 of 100 such intervals hold the truth; wide means few cases.")
        return [*body, page.note(*notes)]

    def _classes(self) -> tuple[list[list[str]], list[str]]:
        """Return the rows and header of the table of classes."""
        classes = self.rows["student"]["classes"]
        shown = {key: name for key, name in OF_CLASSES.items() if key in classes[0]}
        cells = [[name, *(_cell(found[key]) for key in shown)] for name, found in zip(self.names, classes, strict=True)]
        return cells, ["class", *shown.values()]

    def _discrimination(self) -> list[Markup]:
        labels = self.scores.labels
        figure = figures.roc_curves(self.probabilities, labels, self.names, self.multi_label)
        several = len(figure.axes) > 1
        told = f"ROC curve of {'each class against the rest' if several else 'the student'} with its 95 % band."
        blocks = [self._figure(figure, "roc", told, wide=several)]
        if not self.multi_label:
            figure = figures.confusion_matrix(self.run.decision.chosen(self.probabilities), labels, self.names)
            told = "Confusion matrix: number of items, and share of their true class."
            blocks.append(self._figure(figure, "confusion_matrix", told, wide=len(self.names) > 5))
        return [
            Markup("").join(blocks) if several else page.row(*blocks),
            page.note(
                "Each point of a ROC curve is a threshold: further up more cases are found, further left there are "
                "fewer false alarms; a curve on the dashed line guesses."
            ),
        ]

    def _calibration(self) -> list[Markup]:
        figure = figures.calibration_diagram(self.probabilities, self.scores.labels, self.names, self.multi_label)
        found = reliability(*calibrated_events(self.probabilities, self.scores.labels, self.multi_label))
        told = "How often what was predicted came true, and how many predictions lie in each tenth."
        notes = page.note(
            "On the dashed line a probability can be taken at its word: of ten cases given 0.8, eight are so.",
            "Below the line probabilities are too high, above it too low.",
            f"Expected calibration error: a probability is on average {100 * found.error:.1f} percentage points away "
            "from what came true; an interval that reaches 0 leaves room for chance alone.",
            "Bars are 95 % intervals; a long one stands for few predictions.",
        )
        return [page.row(self._figure(figure, "calibration", told), notes)]

    def _sets(self) -> list[Markup]:
        found = self.run.sets
        if found is None:
            return [page.note("No conformal sets: the student was trained without, or had too few validation studies.")]
        numbers = {
            "coverage": "of the sets hold the truth",
            "size": "answers in a set (mean)",
            "answered": "of the sets have one answer",
            "accuracy_of_answered": "of these are right",
        }
        measured = [(found[key], told) for key, told in numbers.items() if found[key]]
        body = [page.cards([(f"{one['value']:.3f}", told, _interval(one)) for one, told in measured])]
        if not self.multi_label:
            curve = answered_curve(self.probabilities, self.scores.labels)
            right = found["accuracy_of_answered"]
            figure = figures.answered_curve(curve, found["answered"]["value"], right["value"] if right else None)
            body.append(self._figure(figure, "answered", "How accurate the student is if it answers only when sure."))
        columns = {"coverage": "covered", "answered": "one answer", "accuracy_of_answered": "of these right"}
        cells = [
            [name, *(_cell(one[key]) for key in columns)]
            for name, one in zip(self.names, found["classes"], strict=True)
        ]
        body.append(page.table(cells, ["true class" if not self.multi_label else "label", *columns.values()]))
        if found["groups"]:
            cells = [
                [key or "any other", str(one["n"]), *(_cell(one[name]) for name in columns)]
                for key, one in found["groups"].items()
            ]
            body.append(page.table(cells, [str(self.run.decision.grouped_by), "studies", *columns.values()]))
        kinds = sorted(set(found["kinds"]))
        return [
            *body,
            page.note(
                f"A set holds what cannot be ruled out ({' and '.join(kinds)}): 90 % of sets hold the truth, if the "
                "studies are exchangeable with those of the validation set, that is if nobody could tell them apart. "
                "Of other patients, scanners or hospitals nothing is promised; a coverage clearly below 0.9 tells so.",
                "A set of one class is an answer; with several classes the student holds back; an empty set says that "
                "no class is as probable as it usually is where it is true.",
            ),
        ]

    def _training(self) -> list[Markup]:
        history = read_history(self.run.output_dir / "history.json")
        if not history:
            return [page.note("No history.json lies beside this report, so there are no curves of the training.")]
        told = "Mean of each loss term over each epoch, the terms' weights, and the validation metrics."
        last = self.run.settings.get("model_selection") == "last"
        chosen = [row["epoch"] for row in history if last or row["best"]]
        figure = figures.learning_curves(history, chosen[-1] if chosen else None)
        return [
            self._figure(figure, "learning_curves", told, wide=True),
            page.note(
                "The student was chosen without the test set.",
                "Validation curves that still rise at the end ask for more epochs.",
                f"{len(history)} epochs in {_duration(sum(row['seconds'] for row in history))}.",
            ),
            *self._teacher_path(history),
        ]

    def _teacher_path(self, history: list[dict[str, Any]]) -> list[Markup]:
        if not any(row.get("teacher_path") for row in history):
            return []
        told = "What the reprogrammed teacher says of training and validation images, and how like it the student is."
        temperatures = [t for row in history if (t := row.get("teacher_path", {}).get("temperature")) is not None]
        fitted = "Temperature that calibrates it on validation, at the end: {:.2f} (above 1: too sure)."
        return [
            self._figure(figures.path_curves(history), "teacher_path", told, wide=True),
            *(page.alert(found) for found in (memorised(history), behind(history)) if found),
            page.note(
                f"Accuracy: mean over classes{' of sensitivity and specificity' if self.multi_label else ''}, so that "
                "a rare class counts like a frequent one. On training images it is that of the epoch's own batches, on "
                "validation that of its end.",
                "Far more accurate on training images than on validation, and sure of itself: it knows those images by "
                "heart, and of them the student learns nothing from it that the labels do not say already.",
                *(fitted.format(last) for last in temperatures[-1:]),
            ),
        ]

    def _layers(self) -> list[Markup]:
        found = self.scores.cka
        if found is None:
            return []
        teacher = [name.removeprefix("network.") for name in found.second]
        figure = figures.cka_heat_map(found.values.numpy(), found.first, teacher)
        told = f"Linear CKA (unbiased, arXiv 2010.15327) between layers, from {found.n} test items."
        notes = page.note(
            "1: both layers tell the test items apart in the same way; 0: in unrelated ways.",
            "Student layers stand side by side from input to output, teacher layers from bottom to top.",
            "Before that, maps are averaged to at most 4 positions a side, and over the slices of a study.",
        )
        return [page.row(self._figure(figure, "cka", told, wide=len(found.first) > 5), notes)]

    def _gallery(self) -> list[Markup]:
        run, scores = self.run, self.scores
        given = (run.network, run.loader, run.device, self.probabilities, scores.labels, scores.indices)
        markup, explained = gallery(*given, self.names, self.multi_label)
        notes = ["Items are numbered by their place in the test list. Left: the image as the student saw it."]
        if self.run.decision.points and not self.multi_label:
            notes.append("“Right” and “wrong” are those of the most probable class here, not of the operating point.")
        if explained:
            notes.append(
                f"Right: in warm colours what spoke for the class named ({METHODS[explained.method]}), a map of "
                f"{' × '.join(map(str, explained.grid))} positions made smooth: a hint of the region, no outline."
            )
        if scores.slices and len(scores.slices[0]) > 1:
            notes.append(
                "Bars: how probable each slice alone makes that class; the study's answer comes from the mean of their "
                "features."
            )
        return [markup, page.note(*notes)]

    def _slices(self) -> list[Markup]:
        slices = self.scores.slices
        if not slices or self.multi_label or len(slices[0]) < 2:
            return []
        labels = self.scores.labels[: len(slices)]
        if len(self.names) == 2:
            classes, of = [1] * len(slices), f"probability of {self.names[1]}"
        else:
            classes, of = labels.tolist(), "probability of the true class"
        scores = [one[:, index] for one, index in zip(slices, classes, strict=True)]
        studies = [float(self.probabilities[row, index]) for row, index in enumerate(classes)]
        figure = figures.slice_scores(scores, studies, labels.tolist(), self.names, of)
        told = "Each column is a study, each point one of its slices taken alone, the line the study as a whole."
        if len(slices) > figures.MOST_STUDIES:
            told += f" {figures.MOST_STUDIES} of {len(slices)} studies, evenly through their order."
        return [
            self._figure(figure, "slice_scores", told, wide=True),
            page.note(
                "Where the slices of a study disagree, its finding lies on few of them, or the student is unsure."
            ),
        ]

    def _settings(self) -> list[Markup]:
        rows = [[name.replace("_", " "), _plain(value)] for name, value in self.run.settings.items()]
        device = self.run.device
        rows.append(["device", torch.cuda.get_device_name(device) if device.type == "cuda" else device.type])
        rows.append(["parameters of the student", f"{sum(p.numel() for p in self.run.network.parameters()):,}"])
        packages = ("monai_rd", "monai", "torch", "timm", "pytorch-ignite")
        versions = [f"{name} {version(name)}" for name in packages] + [f"Python {platform.python_version()}"]
        return [page.table([*rows, ["versions", ", ".join(versions)]], kind="settings")]


def _interval(metric: dict[str, Any]) -> str:
    interval = metric.get("interval")
    return f"({interval[0]:.3f}–{interval[1]:.3f})" if interval else ""


def _cell(metric: dict[str, Any] | float | None) -> str:
    if not isinstance(metric, dict):
        return "–" if metric is None else str(metric) if isinstance(metric, int) else f"{metric:.3f}"
    return f"{metric['value']:.3f} {_interval(metric)}".strip()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
