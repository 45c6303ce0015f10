"""The prediction for a study, and the CSV and JSON files of predictions, which identify studies by UIDs only."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from monai_rd.conformal_groups import UNKNOWN_GROUP
from monai_rd.errors import StudyError, count_codes
from monai_rd.files import atomic_write
from monai_rd.inference.conformal import set_in_words
from monai_rd.inference.decision import Decision
from monai_rd.operating_point import DECIMALS
from monai_rd.text import csv_of
from monai_rd.versions import versions

__all__ = [
    "NOT_FINITE",
    "Prediction",
    "joined_contents",
    "read_scores",
    "scores_content",
    "write_content",
    "write_scores",
]

NOT_FINITE = "NOT_FINITE"  # the problem's code if the network's output is infinite or not a number


@dataclass(frozen=True)
class Prediction:
    """A student's prediction for one study, or the reason why there is none.

    Attributes:
        id: for a DICOM volume its SeriesInstanceUID (with the volume's name if the series has several), for a DICOM
            picture its SOPInstanceUID, for a study of several roles its StudyInstanceUID, for any other file its number
            and the hash of its content.
        series: SeriesInstanceUID, those of several roles joined by "|"; "" if the study is not DICOM.
        study: StudyInstanceUID, "" if the study is not DICOM.
        classes: the most probable class, or that of the student's operating point; for multi-label data, all classes
            with a probability of at least 0.5, or of that of their operating point.
        probabilities: calibrated probability in [0, 1] of each class; empty if there is a problem.
        sets: the conformal sets (see `Decision`), empty if the student gives none: one with the names of the classes
            that cannot be ruled out; for multi-label data one for each class, of "absent" and "present".
        slices: probabilities of each slice alone, by class index (the logits of a study are the mean of the logits of
            its slices); empty for volumes, which are scored as a whole.
        flags: codes of the reasons why the study may be out of scope, see `HeaderInScoped`; UNKNOWN_GROUP.
        problem: code of the reason why there is no prediction, "" if there is one.
        message: the problem as a sentence.
        multi_label: whether an image may have several classes or none.
        model: SHA-256 of the student's file, 64 hex digits.
        roles: the roles that the study has, in the order of `slices`, each with the same number of slices; empty if the
            series rule has no roles.
        facts: what header and image tell about scanner and intensities, see `study_facts`; empty if there is a problem.
        scored: the day on which it was made, YYYY-MM-DD in local time, which has no part in comparisons; "" if it was
            read from a file of an older version.
        files: the files that were read, see `files_of_item`. Paths may contain names, so they are not in `row` and
            `repr`.

    Example:
        >>> from monai_rd.inference import Decision, Prediction
        >>> study = Prediction("1.2.3")
        >>> found = study.answered([0.1, 0.9], ["benign", "malignant"], False, "", slices=[], decision=Decision())
        >>> found.classes, found.row()["probability"]
        (('malignant',), 0.9)
    """

    id: str
    series: str = ""
    study: str = ""
    classes: tuple[str, ...] = ()
    probabilities: Mapping[str, float] = field(default_factory=dict)
    sets: tuple[tuple[str, ...], ...] = ()
    slices: tuple[tuple[float, ...], ...] = ()
    flags: tuple[str, ...] = ()
    problem: str = ""
    message: str = ""
    multi_label: bool = False
    model: str = ""
    roles: tuple[str, ...] = ()
    facts: Mapping[str, str | float] = field(default_factory=dict)
    scored: str = field(default_factory=lambda: date.today().isoformat(), compare=False)
    files: tuple[Path, ...] = field(default=(), repr=False)

    @classmethod
    def of_problem(cls, problem: StudyError, model: str = "") -> Prediction:
        """Make the prediction of a study that is left out before loading, such as a DICOM series by its headers."""
        return cls(problem.study_id, problem.series_uid or "", problem=problem.code, message=str(problem), model=model)

    def answered(
        self,
        probabilities: Sequence[float],
        class_names: Sequence[str],
        multi_label: bool,
        flags: str,
        slices: Sequence[Sequence[float]],
        decision: Decision,
        group: str = "",
    ) -> Prediction:
        """Return a copy with the network's probabilities.

        Args:
            probabilities: of the study `[classes]`, by class index. If one is not finite, the copy has the problem
                NOT_FINITE instead.
            class_names: by class index.
            multi_label: whether an image may have several classes or none.
            flags: codes joined by "|".
            slices: probabilities of each slice alone `[S, classes]`; empty for a volume.
            decision: of the student.
            group: the study's scanner or site, see `Decision.group_of`. Where the student asks for one and it has no
                sets of its own, the copy has the flag UNKNOWN_GROUP.
        """
        if not all(math.isfinite(p) for p in probabilities):
            message = "the network gives no number for it; if it does so for every study, the training has diverged"
            return replace(self, problem=NOT_FINITE, message=message)
        by_name = {name: round(p, DECIMALS) for name, p in zip(class_names, probabilities, strict=True)}
        (said,) = decision.chosen([probabilities], multi_label)
        found = (
            [name for name, yes in zip(class_names, said, strict=True) if yes] if multi_label else [class_names[said]]
        )
        return replace(
            self,
            classes=tuple(found),
            probabilities=by_name,
            sets=decision.answers(list(by_name.values()), class_names, group),
            multi_label=multi_label,
            flags=_codes(flags) + ((UNKNOWN_GROUP,) if decision.grouped_by and not group else ()),
            slices=tuple(tuple(round(p, DECIMALS) for p in one) for one in slices),
        )

    @property
    def sets_in_words(self) -> tuple[str, ...]:
        """The sets as in the CSV file: a full and an empty set in words, others by the names in them."""
        if self.multi_label:
            return tuple(set_in_words(one, 2, "present or absent", "neither") for one in self.sets)
        return tuple(set_in_words(one, len(self.probabilities)) for one in self.sets)

    def row(self) -> dict[str, Any]:
        """Return the prediction as in the JSON file."""
        named: dict[str, Any] = {"id": self.id, "series": self.series, "study": self.study, "scored": self.scored}
        named |= {"roles": list(self.roles)} if self.roles else {}
        if self.problem:
            return {**named, "problem": self.problem, "message": self.message}
        said: dict[str, Any] = {
            "class": "|".join(self.classes),
            "probability": None if self.multi_label else self.probabilities[self.classes[0]],
            "probabilities": dict(self.probabilities),
        }
        if self.sets:
            sets = [list(one) for one in self.sets]
            said["set"] = dict(zip(self.probabilities, sets, strict=True)) if self.multi_label else sets[0]
        said |= {"flags": "|".join(self.flags), "facts": dict(self.facts)}
        return {**named, **said, "slices": [list(one) for one in self.slices]}


def write_scores(
    path: str | os.PathLike[str],
    predictions: Iterable[Prediction],
    class_names: Sequence[str],
    model: Mapping[str, Any],
    multi_label: bool = False,
    decision: Decision | None = None,
) -> str:
    """Write predictions to a CSV file, and to a JSON file with the same name; studies with scores come first.

    The CSV has one row per study: id, UIDs of series and study (empty if it is not DICOM), the day on which it was
    scored, class, its probability, the probability of every class, the conformal set, flags, problem, message. For
    multi-label data, "class" has all predicted classes, joined by "|", "probability" is empty, and there is a set for
    every class. Sets are empty if the student gives none. The JSON has the same, and in addition `facts`, `slices`,
    `roles` where the series rule has some, the model, its decision, and versions.

    Args:
        path: of the CSV file.
        predictions: one per study.
        class_names: by class index.
        model: SHA-256 of the student's file ("sha256") and the "temperature" of its probabilities.
        multi_label: whether an image may have several classes or none.
        decision: of the student; None: not known.

    Returns:
        The numbers of studies that were scored, left out and flagged, as a sentence.
    """
    content = scores_content(predictions, class_names, model, multi_label, decision)
    write_content(content, path)
    rows = content["studies"]
    problems = [one["problem"] for one in rows if "problem" in one]
    which = f" ({count_codes(problems)})" if problems else ""
    flagged = count_codes(code for one in rows for code in _codes(one.get("flags", "")))
    also = f"; flagged: {flagged}" if flagged else ""
    return f"{len(rows) - len(problems)} studies scored, {len(problems)} left out{which}{also}: {path}"


def scores_content(
    predictions: Iterable[Prediction],
    class_names: Sequence[str],
    model: Mapping[str, Any],
    multi_label: bool = False,
    decision: Decision | None = None,
) -> dict[str, Any]:
    """Return the content of the JSON file of `write_scores`, which has the same arguments."""
    return {
        "class_names": list(class_names),
        "multi_label": multi_label,
        "model": dict(model),
        "decision": None if decision is None else decision.stored(),
        "versions": versions(),
        "studies": [one.row() for one in sorted(predictions, key=lambda one: bool(one.problem))],  # a stable order
    }


def joined_contents(contents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of a file with the studies of several by the same student, in the order of their ids."""
    rows = sorted((row for one in contents for row in one["studies"]), key=lambda row: ("problem" in row, row["id"]))
    return {**contents[0], "studies": rows}


def write_content(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a content of `scores_content` as a CSV file and, after it, as a JSON file with the same name."""
    said = [_of_row(row, content).sets_in_words for row in content["studies"]]
    _write_csv(Path(path), content["studies"], said, content["class_names"], content["multi_label"])
    atomic_write(json.dumps(content, indent=1) + "\n", Path(path).with_suffix(".json"))


def read_scores(path: str | os.PathLike[str]) -> list[Prediction]:
    """Read the predictions that `write_scores` wrote, from the JSON file; all attributes except `files`.

    Args:
        path: of the CSV file.

    Raises:
        OSError: there is no JSON file with the same name.
    """
    content = json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8"))
    return [_of_row(row, content) for row in content["studies"]]


def _of_row(row: Mapping[str, Any], content: Mapping[str, Any]) -> Prediction:
    model, roles = content["model"].get("sha256", ""), tuple(row.get("roles", ()))
    named = Prediction(row["id"], row["series"], row["study"], model=model, roles=roles, scored=row.get("scored", ""))
    if "problem" in row:
        return replace(named, problem=row["problem"], message=row["message"])
    return replace(
        named,
        classes=_codes(row["class"]) if content["multi_label"] else (row["class"],),
        probabilities=row["probabilities"],
        sets=_sets_of_row(row.get("set"), content["multi_label"]),
        slices=tuple(map(tuple, row["slices"])),
        flags=_codes(row["flags"]),
        multi_label=content["multi_label"],
        facts=row.get("facts", {}),
    )


def _sets_of_row(stored: Any, multi_label: bool) -> tuple[tuple[str, ...], ...]:
    if stored is None:
        return ()
    return tuple(map(tuple, stored.values() if multi_label else [stored]))


def _codes(joined: str) -> tuple[str, ...]:
    return tuple(one for one in joined.split("|") if one)


def _write_csv(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    said: Sequence[Sequence[str]],
    class_names: Sequence[str],
    multi_label: bool,
) -> None:
    scores = [f"p_{name}" for name in class_names]
    sets = [f"set_{name}" for name in class_names] if multi_label else ["set"]
    columns = ["id", "series", "study", "scored", "class", "probability", *scores, *sets, "flags", "problem", "message"]
    table = []
    for one, words in zip(rows, said, strict=True):
        row = {name: value for name, value in one.items() if name in columns and value is not None}
        row |= dict(zip(sets, words or [""] * len(sets), strict=True))
        row |= {f"p_{name}": f"{p:.7f}" for name, p in one.get("probabilities", {}).items()}
        table.append(row | ({"probability": f"{row['probability']:.7f}"} if "probability" in row else {}))
    atomic_write(csv_of(columns, table), path)
