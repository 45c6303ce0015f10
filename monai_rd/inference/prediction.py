"""What a student says of studies, and its CSV and JSON, keyed by UIDs alone."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_rd.errors import StudyError, count_codes
from monai_rd.files import atomic_write
from monai_rd.text import csv_of
from monai_rd.versions import versions

__all__ = ["NOT_FINITE", "Prediction", "read_scores", "write_scores"]

NOT_FINITE = "NOT_FINITE"  # the code of a network that gave no number
_DECIMALS = 7


@dataclass(frozen=True)
class Prediction:
    """What a student says of one study, or why it says nothing.

    Attributes:
        id: SeriesInstanceUID of a volume, with its name where its series holds several, SOPInstanceUID of a picture,
            number and content hash of any other file.
        series: SeriesInstanceUID, "" where it is no DICOM.
        study: StudyInstanceUID, "" where it is no DICOM.
        classes: the most probable class; of multi-label data every class whose probability is at least 0.5.
        probabilities: of every class, calibrated, in [0, 1]; empty where there is a problem.
        slices: the same of every slice alone, by class index (the logits of a study are the mean of its slices');
            empty of volumes that are scored as a whole.
        flags: codes of what speaks against its being in scope, see `HeaderInScoped`.
        problem: code of why there is no answer, "" where there is one.
        message: the problem as a sentence.
        multi_label: the classes do not exclude each other.
        model: SHA-256 of the student's file, 64 hex digits.
        files: what was read, see `files_of_item`. Paths can carry names: they are in no row and no `repr`.
    """

    id: str
    series: str = ""
    study: str = ""
    classes: tuple[str, ...] = ()
    probabilities: Mapping[str, float] = field(default_factory=dict)
    slices: tuple[tuple[float, ...], ...] = ()
    flags: tuple[str, ...] = ()
    problem: str = ""
    message: str = ""
    multi_label: bool = False
    model: str = ""
    files: tuple[Path, ...] = field(default=(), repr=False)

    @classmethod
    def of_problem(cls, problem: StudyError, model: str = "") -> Prediction:
        """Return what stands for what is left out before it is loaded, as a DICOM series by its headers."""
        return cls(problem.study_id, problem.series_uid or "", problem=problem.code, message=str(problem), model=model)

    def answered(
        self,
        probabilities: Sequence[float],
        class_names: Sequence[str],
        multi_label: bool,
        flags: str,
        slices: Sequence[Sequence[float]],
    ) -> Prediction:
        """Return the same study with what the network gives.

        Args:
            probabilities: of the study `[classes]`, by class index.
            class_names: by class index.
            multi_label: an image may have any number of the classes.
            flags: of the item, codes joined by "|".
            slices: probabilities of every slice alone `[S, classes]`; empty of a volume.
        """
        if not all(math.isfinite(p) for p in probabilities):
            message = "the network gives no number for it; if it does so for every study, the training has diverged"
            return replace(self, problem=NOT_FINITE, message=message)
        by_name = {name: round(p, _DECIMALS) for name, p in zip(class_names, probabilities, strict=True)}
        if multi_label:
            found = tuple(name for name, p in by_name.items() if p >= 0.5)
        else:
            found = (class_names[max(range(len(probabilities)), key=probabilities.__getitem__)],)
        return replace(
            self,
            classes=found,
            probabilities=by_name,
            multi_label=multi_label,
            flags=_codes(flags),
            slices=tuple(tuple(round(p, _DECIMALS) for p in one) for one in slices),
        )

    def row(self) -> dict[str, Any]:
        """Return the study as it stands in the JSON."""
        named = {"id": self.id, "series": self.series, "study": self.study}
        if self.problem:
            return {**named, "problem": self.problem, "message": self.message}
        said = {
            "class": "|".join(self.classes),
            "probability": None if self.multi_label else self.probabilities[self.classes[0]],
            "probabilities": dict(self.probabilities),
        }
        return {**named, **said, "flags": "|".join(self.flags), "slices": [list(one) for one in self.slices]}


def write_scores(
    path: str | os.PathLike[str],
    predictions: Iterable[Prediction],
    class_names: Sequence[str],
    model: Mapping[str, Any],
    multi_label: bool = False,
) -> str:
    """Write a CSV and a JSON of the same name, the scored studies first.

    The CSV has a row for each study: id, UIDs of series and study (empty where it is no DICOM), class, its probability,
    the probability of every class, flags, problem, message. Of multi-label data "class" holds every class that was
    found, joined by "|", and "probability" is left empty. The JSON holds the same, and `slices`, the model, and
    versions.

    Args:
        path: of the CSV.
        predictions: of the studies.
        class_names: by class index.
        model: the hash of the student's file ("sha256") and the "temperature" of its probabilities.
        multi_label: an image may have any number of the classes.

    Returns:
        How many were scored, left out and flagged, as a sentence.
    """
    made = list(predictions)
    scored, unread = [one for one in made if not one.problem], [one for one in made if one.problem]
    rows = [one.row() for one in (*scored, *unread)]
    _write_csv(Path(path), rows, class_names)
    content = {
        "class_names": list(class_names),
        "multi_label": multi_label,
        "model": dict(model),
        "versions": versions(),
        "studies": rows,
    }
    atomic_write(json.dumps(content, indent=1) + "\n", Path(path).with_suffix(".json"))
    which = f" ({count_codes(one.problem for one in unread)})" if unread else ""
    flagged = count_codes(code for one in scored for code in one.flags)
    also = f"; flagged: {flagged}" if flagged else ""
    return f"{len(scored)} studies scored, {len(unread)} left out{which}{also}: {path}"


def read_scores(path: str | os.PathLike[str]) -> list[Prediction]:
    """Read back what `write_scores` wrote, from its JSON: all but the files.

    Args:
        path: of the CSV.

    Raises:
        OSError: there is no JSON beside it.
    """
    content = json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8"))
    return [_of_row(row, content) for row in content["studies"]]


def _of_row(row: Mapping[str, Any], content: Mapping[str, Any]) -> Prediction:
    named = Prediction(row["id"], row["series"], row["study"], model=content["model"]["sha256"])
    if "problem" in row:
        return replace(named, problem=row["problem"], message=row["message"])
    return replace(
        named,
        classes=_codes(row["class"]) if content["multi_label"] else (row["class"],),
        probabilities=row["probabilities"],
        slices=tuple(map(tuple, row["slices"])),
        flags=_codes(row["flags"]),
        multi_label=content["multi_label"],
    )


def _codes(joined: str) -> tuple[str, ...]:
    return tuple(one for one in joined.split("|") if one)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> None:
    scores = [f"p_{name}" for name in class_names]
    columns = ["id", "series", "study", "class", "probability", *scores, "flags", "problem", "message"]
    table = []
    for one in rows:
        row = {name: value for name, value in one.items() if name in columns and value is not None}
        row |= {f"p_{name}": f"{p:.7f}" for name, p in one.get("probabilities", {}).items()}
        table.append(row | ({"probability": f"{row['probability']:.7f}"} if "probability" in row else {}))
    atomic_write(csv_of(columns, table), path)
