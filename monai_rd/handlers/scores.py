"""Scores of studies to a CSV and a JSON, keyed by UIDs and never by a path or a patient."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_rd.data.errors import DicomSeriesError, count_codes
from monai_rd.files import atomic_write, sha256
from monai_rd.losses import class_probabilities
from monai_rd.versions import versions

if TYPE_CHECKING:
    from monai_rd.networks import Student

__all__ = ["ScoreWriter"]

_NAMES = ("id", "series", "study")


class ScoreWriter:
    """Writes what the student says of each study.

    Attach it to an evaluator whose postprocessing leaves probabilities in `pred` and whose batches come from a
    `TolerantDataset`: an item with a `problem` gets no score, but a row with the problem's code and message.

    The CSV has a row for each study: id, UIDs of series and study (empty where it is no DICOM), class, its probability,
    the probability of every class, flags (codes of what speaks against its being in scope, see `HeaderInScoped`),
    problem, message. Of multi-label data "class" holds every class whose probability is at least 0.5, joined by "|",
    and "probability" is left empty. The JSON of the same name holds the same, and `slices`, what each slice would be
    taken for alone (the logits of a study are the mean of its slices'), the hash of the model's file, the temperature
    of its probabilities, and versions.

    Args:
        path: of the CSV; written as a whole at the end.
        class_names: by class index.
        network: the student.
        model_path: the file that its weights came from.
        problems: why DICOM series were left out, by their headers; each gets a row with its code and no score.
        multi_label: an image may have any number of the classes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        class_names: Sequence[str],
        network: Student,
        model_path: str | os.PathLike[str],
        problems: Sequence[DicomSeriesError] = (),
        multi_label: bool = False,
    ) -> None:
        self.path, self.class_names, self.problems = Path(path), list(class_names), list(problems)
        self.network, self.model_path, self.multi_label = network, Path(model_path), multi_label
        self._studies: list[dict[str, Any]] = []
        self._features: Tensor | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        self.network.backbone.register_forward_hook(self._keep)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _keep(self, module: Any, arguments: Any, features: Tensor) -> None:
        self._features = features

    def _start(self, engine: Engine) -> None:
        self._studies = []

    def _collect(self, engine: Engine) -> None:
        bags = self._slices(len(engine.state.batch))
        for study, output, bag in zip(engine.state.batch, engine.state.output, bags, strict=True):
            named = {name: study.get(name, "") for name in _NAMES}
            if study["problem"]:
                self._studies.append({**named, "problem": study["problem"], "message": study["message"]})
            else:
                said = self._said(output[CommonKeys.PRED].tolist())
                self._studies.append({**named, **said, "flags": study["flags"], "slices": bag[: int(study["slices"])]})

    def _slices(self, studies: int) -> list[list[list[float]]]:
        """What each slice of the last batch would be taken for alone; nothing of volumes."""
        if self._features is None or self.network.spatial_dims != 2:
            return [[] for _ in range(studies)]
        logits = self.network.logits(self._features.to(self.network.temperature.dtype))
        of_slices = class_probabilities(logits, self.multi_label).view(studies, -1, logits.shape[1]).tolist()
        return [[[round(p, 7) for p in one] for one in bag] for bag in of_slices]

    def _said(self, probabilities: Sequence[float]) -> dict[str, Any]:
        named = {name: round(p, 7) for name, p in zip(self.class_names, probabilities, strict=True)}
        if self.multi_label:
            found, highest = "|".join(name for name, p in named.items() if p >= 0.5), None
        else:
            found = self.class_names[max(range(len(probabilities)), key=probabilities.__getitem__)]
            highest = named[found]
        return {"class": found, "probability": highest, "probabilities": named}

    def _write(self, engine: Engine) -> None:
        refused = [
            {"id": one.series_uid or "", "series": one.series_uid or "", "problem": one.code, "message": str(one)}
            for one in self.problems
        ]
        studies = [one for one in self._studies if "class" in one]
        unread = refused + [one for one in self._studies if "problem" in one]
        self._write_csv([*studies, *unread])
        content = {
            "class_names": self.class_names,
            "multi_label": self.multi_label,
            "model": {"sha256": sha256(self.model_path), "temperature": float(self.network.temperature)},
            "versions": versions(),
            "studies": [*studies, *unread],
        }
        atomic_write(json.dumps(content, indent=1) + "\n", self.path.with_suffix(".json"))
        which = f" ({count_codes(one['problem'] for one in unread)})" if unread else ""
        flagged = count_codes(code for one in studies for code in one["flags"].split("|") if code)
        also = f"; flagged: {flagged}" if flagged else ""
        print(f"{len(studies)} studies scored, {len(unread)} left out{which}{also}: {self.path}")

    def _write_csv(self, studies: Sequence[Mapping[str, Any]]) -> None:
        scores = [f"p_{name}" for name in self.class_names]
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, [*_NAMES, "class", "probability", *scores, "flags", "problem", "message"], "")
        writer.writeheader()
        for one in studies:
            row = {name: value for name, value in one.items() if name in writer.fieldnames and value is not None}
            row |= {f"p_{name}": f"{p:.7f}" for name, p in one.get("probabilities", {}).items()}
            writer.writerow(row | ({"probability": f"{row['probability']:.7f}"} if "probability" in row else {}))
        atomic_write(table.getvalue(), self.path)
