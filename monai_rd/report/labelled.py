"""The performance of a student on labelled studies outside its training: overall and by patient group."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys
from rich.table import Table

from monai_rd.console import terminal
from monai_rd.datasets.studies import GROUPS
from monai_rd.files import atomic_write
from monai_rd.inference import Decision
from monai_rd.report.curves import calibrated_events, reliability
from monai_rd.report.metrics import METRIC_NAMES, classification_metrics, multi_label_metrics, present_metrics
from monai_rd.report.sets import set_metrics, sets_in_words

__all__ = ["LabelledReport", "group_metrics"]

SMALLEST = 5  # studies; smaller groups are not reported


class LabelledReport:
    """Handler that writes and prints metrics with 95 % intervals, for all studies and for patient groups.

    Groups are sex, age, scanner and site, from the DICOM header or the sheet. Groups of fewer than 5 studies are not
    reported. Attach it to an evaluator whose outputs hold probabilities in `pred` and whose items come from a
    `TolerantDataset` and have labels.

    Args:
        path: the JSON file to write: `metrics` (see `classification_metrics`, `multi_label_metrics`) with
            `calibration_error`, what the conformal `sets` cover (`set_metrics`), and `groups`, the
            metrics of each group as far as its labels allow.
        class_names: class names by class index.
        multi_label: whether an image may have any number of classes.
        decision: of the student, whose operating points say the classes; None: it has none.

    Example:
        >>> import json
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai_rd.report import LabelledReport
        >>> answers = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
        >>> evaluator = Engine(lambda engine, studies: [{"pred": answers[one["label"]]} for one in studies])
        >>> LabelledReport("metrics.json", ["clear", "opacity"]).attach(evaluator)
        >>> state = evaluator.run([[{"label": n % 2, "problem": ""} for n in range(8)]])
        8 labelled studies, value and 95 % interval...
        >>> with open("metrics.json") as file:
        ...     json.load(file)["metrics"]["accuracy"]["value"]
        1.0
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        class_names: Sequence[str],
        multi_label: bool = False,
        decision: Decision | None = None,
    ) -> None:
        self.decision = decision or Decision()
        self.path, self.class_names, self.multi_label = Path(path), list(class_names), multi_label
        self._rows: list[tuple[np.ndarray, Any, dict[str, str]]] = []

    def attach(self, engine: Engine) -> None:
        """Attach the handler to an evaluator."""
        engine.add_event_handler(Events.STARTED, lambda _: self._rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for study, output in zip(engine.state.batch, engine.state.output, strict=True):
            if not study["problem"]:
                label = torch.as_tensor(study[CommonKeys.LABEL]).as_subclass(torch.Tensor).cpu().numpy()
                groups = {name: study.get(name, "") for name in GROUPS}
                probabilities = output[CommonKeys.PRED].as_subclass(torch.Tensor).float().cpu().numpy()
                self._rows.append((probabilities, label, groups))

    def _write(self, engine: Engine) -> None:
        if not self._rows:
            raise ValueError("none of the labelled studies could be read")
        p, y = np.stack([row[0] for row in self._rows]), np.stack([row[1] for row in self._rows])
        measure = multi_label_metrics if self.multi_label else classification_metrics
        said = self.decision.chosen(p, self.multi_label)
        found = measure(p, y, chosen=said)
        found["calibration_error"] = {"value": reliability(*calibrated_events(p, y, self.multi_label)).error}
        groups = group_metrics(p, y, [row[2] for row in self._rows], self.multi_label, said)
        sets = set_metrics(self.decision, p, y, [self.decision.group_of(row[2]) for row in self._rows])
        content = {"class_names": self.class_names, "metrics": found, "sets": sets, "groups": groups}
        atomic_write(json.dumps(content, indent=1) + "\n", self.path)
        terminal(width=120).print(_table(found, groups))
        if sets is not None:
            print(sets_in_words(sets))


def group_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[Mapping[str, str]],
    multi_label: bool = False,
    chosen: np.ndarray | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compute the metrics of every patient group of at least 5 studies.

    Args:
        probabilities: `[N, classes]`.
        labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.
        groups: the groups of each study, such as `{"sex": "F", "age": "40-59"}`; "" is unknown.
        multi_label: whether an image may have any number of classes.
        chosen: see `classification_metrics` and `multi_label_metrics`.

    Returns:
        The metrics by kind of group and group. Kinds with fewer than two groups are left out, as there is nothing to
        compare.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    said = Decision().chosen(probabilities, multi_label) if chosen is None else chosen
    for kind in sorted({name for one in groups for name in one}):
        values = np.array([one.get(kind, "") for one in groups])
        names = [name for name in sorted(set(values) - {""}) if (values == name).sum() >= SMALLEST]
        if len(names) > 1:
            found[kind] = {
                str(name): present_metrics(
                    probabilities[values == name], labels[values == name], multi_label, said[values == name]
                )
                for name in names
            }
    return found


def _table(found: Mapping[str, Any], groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    table = Table(title=f"{found['n']} labelled studies, value and 95 % interval", title_justify="left")
    shown = {key: name for key, name in METRIC_NAMES.items() if key in found}
    for name in ("", "studies", *shown.values()):
        table.add_column(name, justify="right" if name else "left")
    rows = {"all": found} | {f"{kind} {name}": one for kind, each in groups.items() for name, one in each.items()}
    for name, one in rows.items():
        table.add_row(name, str(one["n"]), *(_cell(one.get(key)) for key in shown))
    return table


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return "-"
    interval = metric.get("interval")
    return f"{metric['value']:.3f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")
