"""The final report of a training: the best student on the test set, compared with the teacher it learnt from."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from rich.table import Table
from scipy.special import expit, logit, softmax
from torch.utils.data import ConcatDataset, Subset

from monai_rd.bundle import require_model
from monai_rd.console import terminal
from monai_rd.drift import reference_of_training
from monai_rd.errors import count_codes
from monai_rd.files import atomic_path, atomic_write, sha256
from monai_rd.handlers.checkpoint import save_atomically
from monai_rd.inference import Decision
from monai_rd.losses import class_probabilities
from monai_rd.losses.temperature import fit_temperature
from monai_rd.report.curves import calibrated_events, reliability
from monai_rd.report.metrics import METRIC_NAMES, OF_CLASSES, classification_metrics, multi_label_metrics
from monai_rd.report.scoring import TestScores, answers, score_test_set
from monai_rd.report.sets import set_metrics, sets_in_words

if TYPE_CHECKING:
    from monai_rd.methods import Method
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["FinalReport"]

logger = logging.getLogger(__name__)

PHANTOM_NOTE = (
    "These are PHANTOMS drawn by the project itself, not patients: the numbers show that the machinery works and say "
    "nothing about medicine. Give --dataset_dir DIR --teacher NAME_OR_FILE to train on your own data."
)


class FinalReport:
    """Evaluates the best student of a training on the test set, and prints and writes the results.

    It loads the best student (and phi of the same epoch), calibrates it on the validation set (`fit_temperature`) and
    stores the temperature in the student's file `model_path`, so that everything made from that file gives calibrated
    probabilities. It also chooses the limits of the conformal sets and the operating points on it (`Decision`)
    and stores them in `settings.json` beside that file, and summarises it and the test set in `reference.json` there
    (`Reference`).

    Files written into `output_dir`:

    - `metrics.json`: the metrics and settings, the `decision`, and what the conformal `sets` cover (`set_metrics`).
    - `predictions.npz`: `probabilities` `[N, classes]` float32, `labels`, and `places`, the position of each item in
      the test list (from 0; studies that cannot be read are missing); also `path_probabilities` of the teacher path
      where it has a row, and `validation_probabilities` and `validation_labels` of the validation set.
    - `report.html`: a single file with all figures, which are also in `figures/` as PNG and SVG. If the page fails, the
      error is logged and the other files are kept.

    Args:
        model_path: the student's weights, `models/model.pt`.
        output_dir: folder of `best_method.pt` and `history.json`, where the report is written.
        network: the student, without wrappers.
        loader: loader of the test set; items of a `TolerantDataset` with a `problem` are counted but not scored.
        class_names: class names by class index.
        device: where to run.
        method: the method; if it reprograms the teacher, the teacher path gets its own row.
        teacher: the frozen foundation model; one that was tuned on the task gets its own row.
        phantom: whether the data are the project's phantoms; the report then says so.
        settings: written into `metrics.json` together with the metrics.
        multi_label: whether an image may have any number of classes.
        page: whether to write the page and its figures.
        validation: the validation set; None leaves the student's temperature and sets unchanged.
        operating_point: the class is said from the probability on that reaches this on the validation set, such as
            "sensitivity 0.95"; None: at 0.5. Without a validation set the student's own is kept.
        conformal_groups: "scanner" or "site" for conformal limits of each, see `Decision.fit`; None: the same for all.

    Example:
        >>> import torch
        >>> from monai.data import DataLoader
        >>> from monai_rd.networks import Student
        >>> from monai_rd.report import FinalReport
        >>> student = Student("resnet18", num_classes=2)
        >>> torch.save(student.state_dict(), "model.pt")
        >>> test = DataLoader([{"image": torch.rand(3, 32, 32), "label": n % 2} for n in range(8)], batch_size=4)
        >>> report = FinalReport("model.pt", "eval", student, test, ["clear", "opacity"], "cpu", page=False)
        >>> result = report.run()
        Test set, 8 studies, value and 95 % interval...
        >>> result["test"]["student"]["n"]
        8
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        network: Student,
        loader: DataLoader,
        class_names: Sequence[str],
        device: torch.device | str,
        method: Method | None = None,
        teacher: FrozenFoundationModel | None = None,
        phantom: bool = False,
        settings: dict[str, Any] | None = None,
        multi_label: bool = False,
        page: bool = True,
        validation: Dataset | None = None,
        operating_point: str | None = None,
        conformal_groups: str | None = None,
    ) -> None:
        self.model_path, self.output_dir = Path(model_path), Path(output_dir)
        self.network, self.loader, self.class_names = network, loader, list(class_names)
        self.device = torch.device(device)
        self.method, self.teacher, self.phantom, self.settings = method, teacher, phantom, settings or {}
        self.multi_label, self.page, self.validation = multi_label, page, validation
        self.operating_point, self.conformal_groups = operating_point, conformal_groups

    def run(self) -> dict[str, Any]:
        """Evaluate the student, and print and write the results.

        Returns:
            The content of `metrics.json`.

        Raises:
            FileNotFoundError: no trained model.
            ValueError: no test study could be read.
        """
        require_model(self.model_path)
        self.network.load_state_dict(torch.load(self.model_path, map_location="cpu", weights_only=True))
        if self.method is not None and self.teacher is not None and self.method.teacher_path(self.network) is not None:
            best = torch.load(self.output_dir / "best_method.pt", map_location="cpu", weights_only=True)
            self.method.load_state_dict(best)
        answered: dict[str, Any] = {} if self.validation is None else self._calibrate(self.validation)
        scores = self._score()
        answered |= {
            "probabilities": scores.probabilities["student"],
            "labels": scores.labels,
            "places": scores.indices,
        }
        for row in scores.probabilities.keys() - {"student"}:  # one at most
            answered["path_probabilities"] = scores.probabilities[row]
        with atomic_path(self.output_dir / "predictions.npz") as beside, open(beside, "wb") as file:
            np.savez_compressed(file, **answered)
        measure = multi_label_metrics if self.multi_label else classification_metrics
        decision = self._stored()
        if self.validation is not None:
            self._summarise(self.validation, answered["validation_probabilities"], scores, decision)
        said = {"student": decision.chosen(scores.probabilities["student"], self.multi_label)}
        rows = {row: measure(found, scores.labels, chosen=said.get(row)) for row, found in scores.probabilities.items()}
        unread = count_codes(scores.unread)
        result = {"class_names": self.class_names, "phantom": self.phantom, "settings": self.settings, "test": rows}
        calibration = self._calibration(scores)
        sets = set_metrics(decision, scores.probabilities["student"], scores.labels, self._groups(decision, scores))
        result |= {"unread": unread, "calibration": calibration, "sets": sets, "decision": decision.stored()}
        atomic_write(json.dumps(result, indent=2) + "\n", self.output_dir / "metrics.json")
        self._print(rows, calibration, sets, decision)
        if unread:
            print(f"test studies left out because they cannot be read: {unread}")
        if self.page:
            self._write_page(scores, rows, unread, decision, sets)
        return result

    def _calibrate(self, validation: Dataset) -> dict[str, np.ndarray]:
        """Fit temperature and decision and store them; return the validation probabilities and labels."""
        loader = DataLoader(validation, batch_size=self.loader.batch_size, collate_fn=self.loader.collate_fn)
        self.network.temperature.fill_(1.0)  # so that a second report fits the same value
        logits, labels = answers(self.network, loader, self.device)
        temperature = fit_temperature(logits, labels, self.multi_label)
        self.network.temperature.fill_(temperature)
        state = torch.load(self.model_path, map_location="cpu", weights_only=True)
        save_atomically({**state, "temperature": self.network.temperature.cpu()}, self.model_path)
        probabilities = class_probabilities(torch.from_numpy(logits) / temperature, self.multi_label).numpy()
        kind = self.conformal_groups
        groups = () if kind is None else [item.get(kind, "") for item in validation]
        decision = Decision.fit(probabilities, labels, self.multi_label, self.operating_point, kind, groups)
        self._store(decision)
        return {"validation_probabilities": probabilities, "validation_labels": labels}

    def _summarise(
        self, validation: Dataset, probabilities: np.ndarray, scores: TestScores, decision: Decision
    ) -> None:
        """Write `reference.json` beside the model's file, of the validation set and what was read of the test set."""
        items: ConcatDataset[Any] = ConcatDataset([validation, Subset(self.loader.dataset, scores.indices.tolist())])
        answered = np.concatenate([probabilities, scores.probabilities["student"]])
        known = (self.class_names, self.multi_label, decision, sha256(self.model_path), self.settings.get("scope"))
        reference_of_training(items, answered, *known).write(self.model_path.with_name("reference.json"))

    def _store(self, decision: Decision) -> None:
        """Add the decision to the settings beside the model's file."""
        path = self.model_path.with_name("settings.json")
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else self.settings
        chosen = {"model_sha256": sha256(self.model_path), **decision.stored()}
        atomic_write(json.dumps({**known, "decision": chosen}, indent=2) + "\n", path)

    def _stored(self) -> Decision:
        """Return the decision of the settings beside the model's file; none if there are no settings."""
        path = self.model_path.with_name("settings.json")
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return Decision.of(known.get("decision"), sha256(self.model_path))

    def _groups(self, decision: Decision, scores: TestScores) -> list[str] | None:
        """Return the groups of the test studies; None if the sets are the same for all."""
        if decision.grouped_by is None:
            return None
        items = self.loader.dataset.data
        return [decision.group_of(items[place]) for place in scores.indices]

    def _calibration(self, scores: TestScores) -> dict[str, Any]:
        """Return the temperature, and the expected calibration error on the test set without and with it."""
        temperature = float(self.network.temperature)
        p = scores.probabilities["student"].astype(np.float64)
        raw = logit(p) if self.multi_label else np.log(np.maximum(p, np.finfo(np.float32).tiny))
        before = expit(raw * temperature) if self.multi_label else softmax(raw * temperature, axis=1)
        errors = [reliability(*calibrated_events(one, scores.labels, self.multi_label)).error for one in (before, p)]
        return {"temperature": temperature, "error_before": errors[0], "error": errors[1]}

    def _score(self) -> TestScores:
        given = (self.network, self.loader, self.device, self.multi_label, self.method, self.teacher)
        if self.page:
            try:
                return score_test_set(*given, layers=True)
            except Exception:  # what only the page needs must not cost the metrics
                logger.exception("scoring failed; once more without the layers' CKA")
        return score_test_set(*given, layers=False)

    def _write_page(
        self,
        scores: TestScores,
        rows: dict[str, dict[str, Any]],
        unread: str,
        decision: Decision,
        sets: dict[str, Any] | None,
    ) -> None:
        try:
            from monai_rd.report.run_page import FinishedRun, RunPage

            page = RunPage(
                FinishedRun(
                    output_dir=self.output_dir,
                    network=self.network,
                    loader=self.loader,
                    device=self.device,
                    class_names=self.class_names,
                    multi_label=self.multi_label,
                    phantom=self.phantom,
                    settings=self.settings,
                    scores=scores,
                    rows=rows,
                    unread=unread,
                    decision=decision,
                    sets=sets,
                )
            )
            path = page.write()
        except Exception:  # the metrics are written: a failing page must not fail the training
            logger.exception("the report's page could not be written")
        else:
            print(f"report: {path}")

    def _print(
        self,
        rows: dict[str, dict[str, Any]],
        calibration: dict[str, Any],
        sets: dict[str, Any] | None,
        decision: Decision,
    ) -> None:
        console = terminal(width=100)
        n = rows["student"]["n"]
        table = Table(title=f"Test set, {n} studies, value and 95 % interval", title_justify="left", show_lines=True)
        table.add_column("")
        shown = {key: name for key, name in METRIC_NAMES.items() if key in rows["student"]}
        if "sensitivity" in shown:  # of two classes the balanced accuracy is the mean of two of the other columns
            del shown["balanced_accuracy"]
        for name in shown.values():
            table.add_column(name, justify="right")
        for row, metrics in rows.items():
            table.add_row(row, *(_cell(metrics[key]) for key in shown))
        console.print(table)
        if self.multi_label or len(self.class_names) > 2:
            console.print(self._classes(rows["student"]["classes"]))
        else:
            console.print(f"positive class: {self.class_names[1]}")
        saved = self.validation is not None
        console.print(_told(calibration, fitted=saved), soft_wrap=True, highlight=False)
        if sets is not None:
            console.print(sets_in_words(sets), soft_wrap=True, highlight=False)
        elif saved:
            console.print("no conformal sets: fewer than 9 validation studies", highlight=False)
        if saved and self.conformal_groups is not None:
            console.print(decision.groups_in_words(self.conformal_groups), soft_wrap=True, highlight=False)
        for told in decision.points_in_words(self.class_names):
            console.print(f"the student says {told}", soft_wrap=True, highlight=False)
        console.print(f"student {'saved' if saved else 'measured'}: {self.model_path}", soft_wrap=True)
        if self.phantom:
            console.print(PHANTOM_NOTE, style="bold")

    def _classes(self, classes: list[dict[str, Any]]) -> Table:
        """Make a table of the student's metrics of each class; "-" where there is nothing to measure."""
        table = Table(title="The student by class", title_justify="left", show_lines=True)
        shown = {key: name for key, name in OF_CLASSES.items() if key in classes[0]}
        for name in ("", *shown.values()):
            table.add_column(name, justify="right" if name else "left")
        for name, found in zip(self.class_names, classes, strict=True):
            table.add_row(name, *(_cell(found[key]) for key in shown))
        return table


def _told(calibration: dict[str, Any], fitted: bool) -> str:
    origin = "fitted on the validation set" if fitted else "as the student's file has it"
    return (
        f"temperature {calibration['temperature']:.2f}, {origin}: expected calibration error "
        f"{calibration['error_before']:.3f} without it, {calibration['error']:.3f} with it"
    )


def _cell(metric: dict[str, Any] | float | None) -> str:
    if not isinstance(metric, dict):
        return "-" if metric is None else str(metric) if isinstance(metric, int) else f"{metric:.3f}"
    interval = metric.get("interval")
    return f"{metric['value']:.3f}" + (f"\n{interval[0]:.3f}-{interval[1]:.3f}" if interval else "")
