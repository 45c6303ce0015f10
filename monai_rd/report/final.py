"""The end of a training: the best student on the test set, beside the reprogrammed teacher it learnt from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.data import DataLoader
from rich.console import Console
from rich.table import Table
from torch import nn

from monai_rd.bundle import require_model
from monai_rd.data.errors import count_codes
from monai_rd.files import atomic_write
from monai_rd.losses import class_probabilities
from monai_rd.methods.rd import ReprogrammingDistillation
from monai_rd.report.metrics import classification_metrics, multi_label_metrics

if TYPE_CHECKING:
    from monai_rd.methods import Method
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["FinalReport"]

METRICS = {
    "accuracy": "accuracy",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
PHANTOM_NOTE = (
    "These are PHANTOMS drawn by the project itself, not patients: the numbers show that the machinery works and say "
    "nothing about medicine. Give --dataset_dir DIR --teacher NAME_OR_FILE to train on your own data."
)


class _ReprogrammedTeacher(nn.Module):
    """F_t, phi and g in a row: image to logits."""

    def __init__(self, teacher: FrozenFoundationModel, phi: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.teacher, self.phi, self.classifier = teacher, phi, classifier

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.phi(self.teacher(image)))


class FinalReport:
    """Loads the best student (and phi of the same epoch), scores the test set, prints a table, writes `metrics.json`.

    Args:
        model_path: `models/model.pt`.
        output_dir: where `best_method.pt` lies and `metrics.json` goes.
        network: the student, bare.
        loader: of the test set; items of a `TolerantDataset` with a `problem` are counted and not scored.
        class_names: by class index.
        device: where to run.
        method: the method; with RD and a teacher, the reprogrammed teacher gets a row of its own.
        teacher: the frozen foundation model.
        phantom: the data are the project's phantoms; then the report says so.
        settings: written into `metrics.json` beside the numbers.
        multi_label: an image may have any number of the classes.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        network: Student,
        loader: DataLoader,
        class_names: Sequence[str],
        device: torch.device,
        method: Method | None = None,
        teacher: FrozenFoundationModel | None = None,
        phantom: bool = False,
        settings: dict[str, Any] | None = None,
        multi_label: bool = False,
    ) -> None:
        self.model_path, self.output_dir = Path(model_path), Path(output_dir)
        self.network, self.loader, self.class_names, self.device = network, loader, list(class_names), device
        self.method, self.teacher, self.phantom, self.settings = method, teacher, phantom, settings or {}
        self.multi_label = multi_label
        self._unread: list[str] = []

    def run(self) -> dict[str, Any]:
        """Score, print, write; returns what was written.

        Raises:
            FileNotFoundError: no trained model.
            ValueError: no test study could be read.
        """
        require_model(self.model_path)
        self.network.load_state_dict(torch.load(self.model_path, map_location="cpu", weights_only=True))
        rows = {"student": self._score(self.network)}
        unread = count_codes(self._unread)
        if isinstance(self.method, ReprogrammingDistillation) and self.teacher is not None:
            best = torch.load(self.output_dir / "best_method.pt", map_location="cpu", weights_only=True)
            self.method.load_state_dict(best)
            rows["reprogrammed teacher"] = self._score(
                _ReprogrammedTeacher(self.teacher, self.method.phi, self.network.classifier)
            )
        result = {"class_names": self.class_names, "phantom": self.phantom, "settings": self.settings, "test": rows}
        result["unread"] = unread
        atomic_write(json.dumps(result, indent=2) + "\n", self.output_dir / "metrics.json")
        self._print(rows)
        if unread:
            print(f"test studies left out because they cannot be read: {unread}")
        return result

    def _score(self, network: nn.Module) -> dict[str, Any]:
        network.to(self.device).eval()
        probabilities, labels = [], []
        self._unread = []
        with torch.inference_mode():
            for batch in self.loader:
                logits = network(batch["image"].as_subclass(torch.Tensor).to(self.device))
                problems = batch.get("problem", [""] * len(logits))
                self._unread += [code for code in problems if code]
                read = torch.tensor([not code for code in problems])
                probabilities.append(class_probabilities(logits.float(), self.multi_label).cpu()[read])
                labels.append(torch.as_tensor(batch["label"]).cpu()[read])
        if not sum(map(len, labels)):
            raise ValueError(f"no test study could be read: {count_codes(self._unread)}")
        measure = multi_label_metrics if self.multi_label else classification_metrics
        return measure(torch.cat(probabilities).numpy(), torch.cat(labels).numpy())

    def _print(self, rows: dict[str, dict[str, Any]]) -> None:
        console = Console(width=100)
        n = rows["student"]["n"]
        table = Table(title=f"Test set, {n} studies, value and 95 % interval", title_justify="left", show_lines=True)
        table.add_column("")
        shown = {key: name for key, name in METRICS.items() if key in rows["student"]}
        for name in shown.values():
            table.add_column(name, justify="right")
        for row, metrics in rows.items():
            table.add_row(row, *(_cell(metrics[key]) for key in shown))
        console.print(table)
        if self.multi_label:
            console.print(self._classes(rows))
        elif len(self.class_names) == 2:
            console.print(f"positive class: {self.class_names[1]}")
        console.print(f"student saved: {self.model_path}", soft_wrap=True)
        if self.phantom:
            console.print(PHANTOM_NOTE, style="bold")

    def _classes(self, rows: dict[str, dict[str, Any]]) -> Table:
        """ROC AUC of each class; "-" where all images agree."""
        table = Table(title="ROC AUC by class", title_justify="left")
        for name in ("", "positive", *rows):
            table.add_column(name, justify="right" if name else "left")
        for index, name in enumerate(self.class_names):
            found = [metrics["classes"][index] for metrics in rows.values()]
            aucs = ["-" if one["roc_auc"] is None else f"{one['roc_auc']:.3f}" for one in found]
            table.add_row(name, str(found[0]["positives"]), *aucs)
        return table


def _cell(metric: dict[str, Any]) -> str:
    interval = metric.get("interval")
    return f"{metric['value']:.3f}" + (f"\n{interval[0]:.3f}-{interval[1]:.3f}" if interval else "")
