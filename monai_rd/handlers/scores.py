"""Scores of studies to a CSV, keyed by series UID and never by a path or a patient."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_rd.data.errors import DicomSeriesError, count_codes
from monai_rd.files import atomic_write

__all__ = ["ScoreWriter"]


class ScoreWriter:
    """Writes one row a study: id, class, its probability, the probability of every class, a problem's code and message.

    Of multi-label data "class" holds every class whose probability is at least 0.5, joined by "|", and "probability" is
    left empty.

    Attach it to an evaluator whose postprocessing leaves probabilities in `pred` and whose batches come from a
    `TolerantDataset`: an item with a `problem` gets no score.

    Args:
        path: of the CSV; written as a whole at the end.
        class_names: by class index.
        problems: why DICOM series were left out, by their headers; each gets a row with its code and no score.
        multi_label: an image may have any number of the classes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        class_names: Sequence[str],
        problems: Sequence[DicomSeriesError] = (),
        multi_label: bool = False,
    ) -> None:
        self.path, self.class_names, self.problems = Path(path), list(class_names), list(problems)
        self.multi_label = multi_label
        self._rows: list[list[str]] = []
        self._unread: list[tuple[str, str, str]] = []  # id, code, message

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._rows = []
        self._unread = [(one.series_uid or "", one.code, str(one)) for one in self.problems]

    def _collect(self, engine: Engine) -> None:
        for study, output in zip(engine.state.batch, engine.state.output, strict=True):
            if study["problem"]:
                self._unread.append((study["id"], study["problem"], study["message"]))
                continue
            probabilities = output[CommonKeys.PRED].tolist()
            numbers = [f"{p:.7f}" for p in probabilities]
            if self.multi_label:
                named = "|".join(name for name, p in zip(self.class_names, probabilities, strict=True) if p >= 0.5)
                highest = ""
            else:
                best = max(range(len(probabilities)), key=probabilities.__getitem__)
                named, highest = self.class_names[best], numbers[best]
            self._rows.append([study["id"], named, highest, *numbers, "", ""])

    def _write(self, engine: Engine) -> None:
        header = ["id", "class", "probability", *(f"p_{name}" for name in self.class_names), "problem", "message"]
        blank = [""] * (len(self.class_names) + 2)
        table = io.StringIO(newline="")
        unread = [[study, *blank, code, message] for study, code, message in self._unread]
        csv.writer(table).writerows([header, *self._rows, *unread])
        atomic_write(table.getvalue(), self.path)
        which = f" ({count_codes(code for _, code, _ in self._unread)})" if self._unread else ""
        print(f"{len(self._rows)} studies scored, {len(self._unread)} not readable{which}: {self.path}")
