"""What is expected of a stream of studies: histograms and counts, without anything about a single study or patient."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_rd.conformal_groups import UNKNOWN_GROUP
from monai_rd.errors import OutOfScopeError
from monai_rd.files import atomic_write
from monai_rd.inference.decision import Decision
from monai_rd.inference.facts import study_facts
from monai_rd.inference.prediction import Prediction
from monai_rd.transforms.scope import HeaderInScoped, IntensitiesInScoped

if TYPE_CHECKING:
    from monai.data import Dataset

    from monai_rd.drift.weeks import Week

__all__ = [
    "LEAST",
    "OTHER",
    "PROBLEM",
    "UNSTATED",
    "Histogram",
    "Reference",
    "reference_of_training",
    "statistics_of",
]

LEAST = 5  # a bin or category of fewer studies could describe a patient
OTHER, UNSTATED = "other", "not stated"
PROBLEM = "not scored"  # the statistic of the codes of problems
_UNLIKE = {UNKNOWN_GROUP, *(kind.code for kind in OutOfScopeError.__subclasses__())}  # flags: unlike the training
_BINS = 20  # at most
_QUANTILES = (0.1, 0.5, 0.9)
_MOST = 1000  # studies: more of them find no smaller change in weeks of 50, and each is read from its file once more


@dataclass(frozen=True)
class Histogram:
    """The distribution of a number.

    Attributes:
        edges: between the bins, ascending; the outer bins are open. A value on an edge lies in the bin below it.
        counts: studies in each bin, one more than edges: at least `LEAST`, or all if they are fewer; or none in an
            outer bin, where at least `LEAST` studies share the lowest or highest value.
        quantiles: the 10, 50 and 90 % quantile.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    quantiles: tuple[float, float, float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Histogram:
        """Make it of the values, at least one; equal values lie in one bin."""
        ordered = np.sort(np.asarray(values, dtype=np.float64))
        size = max(LEAST, -(-len(ordered) // _BINS))
        edges, last = [], 0
        for place in range(size, len(ordered) - LEAST + 1):
            if place - last >= size and ordered[place - 1] < ordered[place]:
                edges.append(float(ordered[place - 1 : place + 1].mean()))
                last = place
        if ordered[0] == ordered[min(LEAST, len(ordered)) - 1]:
            edges.insert(0, float(np.nextafter(ordered[0], -np.inf)))
        if ordered[-1] == ordered[-min(LEAST, len(ordered))]:
            edges.append(float(ordered[-1]))
        counts = np.bincount(np.searchsorted(edges, ordered), minlength=len(edges) + 1)
        low, middle, high = (round(float(one), 4) for one in np.quantile(ordered, _QUANTILES))
        return cls(tuple(edges), tuple(counts.tolist()), (low, middle, high))


@dataclass(frozen=True)
class Reference:
    """Studies with which weeks are compared.

    Attributes:
        model: SHA-256 of the student's `model.pt`, 64 hex digits.
        class_names: by class index.
        source: whose studies these are, in words.
        studies: their number.
        numbers: by name of a statistic, see `statistics_of`, its histogram.
        categories: by name of a statistic, how many studies have each value; values of fewer than `LEAST` studies are
            counted as "other", which is always there. "not scored" has the codes of problems, if they are known.

    Example:
        >>> from monai_rd.drift import Reference
        >>> from monai_rd.inference import Decision, Prediction
        >>> made = [
        ...     Prediction("", facts={"scanner": "A" if n else "B"}).answered(
        ...         [1 - n / 10, n / 10], ["clear", "opacity"], False, "", [], Decision()
        ...     )
        ...     for n in range(10)
        ... ]
        >>> reference = Reference.of(made, "ab12", "validation set")
        >>> reference.categories["scanner"], reference.numbers["probability of opacity"].counts
        ({'A': 9, 'other': 1}, (5, 5))
    """

    model: str
    class_names: tuple[str, ...]
    source: str
    studies: int
    numbers: Mapping[str, Histogram]
    categories: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(
        cls, predictions: Sequence[Prediction], model: str, source: str, problems: Sequence[str] | None = None
    ) -> Reference:
        """Summarise studies.

        Args:
            predictions: with scores, at least one; one per patient, so that they are independent.
            model: SHA-256 of the student's `model.pt`.
            source: whose studies these are, in words.
            problems: codes of further studies, which could not be scored; None: not known.
        """
        told = [statistics_of(one) for one in predictions]
        every = {name: value for one in told for name, value in one.items()}
        numbers = {
            name: Histogram.of([float(one[name]) for one in told if name in one])
            for name, value in every.items()
            if not isinstance(value, str)
        }
        texts = {
            name: [str(one.get(name, UNSTATED)) for one in told]
            for name, value in every.items()
            if isinstance(value, str)
        }
        if problems is not None:
            texts[PROBLEM] = ["none"] * len(told) + list(problems)
        categories = {name: _counted(found) for name, found in texts.items()}
        return cls(model, tuple(predictions[0].probabilities), source, len(told), numbers, categories)

    def check(self, weeks: Iterable[Week]) -> None:
        """Refuse studies of another student.

        Raises:
            ValueError: a prediction has another model, or other classes.
        """
        for one in (one for week in weeks for one in week.scored):
            if one.model != self.model:
                raise ValueError(
                    f"the scores are of the model.pt with SHA-256 {one.model[:12]}..., the reference is of "
                    f"{self.model[:12]}...: give the reference.json that lies beside the model.pt that scored them"
                )
            if tuple(one.probabilities) != self.class_names:
                raise ValueError(
                    f"the scores have the classes {', '.join(one.probabilities)}, and the reference "
                    f"{', '.join(self.class_names)}"
                )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, atomically."""
        atomic_write(json.dumps({"fewest": LEAST, **asdict(self)}, indent=1) + "\n", Path(path))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Reference:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: another kind of file.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(
                f"no reference '{file}': a training writes reference.json beside its model.pt. Older versions did not: "
                "train again, or compare with the first weeks of the scores (--first-weeks)"
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return cls(
                content["model"],
                tuple(content["class_names"]),
                content["source"],
                content["studies"],
                {
                    name: Histogram(tuple(one["edges"]), tuple(one["counts"]), tuple(one["quantiles"]))
                    for name, one in content["numbers"].items()
                },
                content["categories"],
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{file} is damaged, or no reference.json of a training") from None


def _counted(values: Sequence[str]) -> dict[str, int]:
    kept = {value: count for value, count in Counter(values).most_common() if count >= LEAST and value != OTHER}
    return kept | {OTHER: len(values) - sum(kept.values())}


def statistics_of(one: Prediction) -> dict[str, str | float]:
    """Return what is compared of a scored study: numbers, and texts, which are categories.

    The probability of each class (of two exclusive classes that of the second alone), the class that is said (for
    multi-label data each class as yes or no), whether the conformal set has one class, the flags of what is unlike the
    training, and its `facts`. Other flags, such as that of thick slices, are left out: a training does not keep them.
    """
    names = list(one.probabilities)
    told: dict[str, str | float] = {
        f"probability of {name}": one.probabilities[name]
        for name in (names[1:] if len(names) == 2 and not one.multi_label else names)
    }
    if one.multi_label:
        told |= {f"says {name}": "yes" if name in one.classes else "no" for name in names}
    else:
        told["class"] = one.classes[0]
    if one.sets:
        told["conformal set"] = "one class" if all(len(found) == 1 for found in one.sets) else "abstains"
    return {**told, "flags": "|".join(flag for flag in one.flags if flag in _UNLIKE) or "none", **one.facts}


def reference_of_training(
    items: Dataset,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    multi_label: bool,
    decision: Decision,
    model: str,
    scope: Mapping[str, Any] | None,
) -> Reference:
    """Summarise the validation and test studies of a training, one of each patient, at most 1,000, drawn at random.

    Not the training studies: the student has fitted them, and is surer of them than of any new one. A test study that
    is out of scope is left out, as in use it would not be scored without a flag.

    Args:
        items: the validation and the test set, as the network sees them.
        probabilities: calibrated `[N, classes]`.
        class_names: by class index.
        multi_label: whether an image may have several classes or none.
        decision: of the student.
        model: SHA-256 of its `model.pt`.
        scope: of the training, see `scope_of`; None if it is not known.
    """
    checks = [HeaderInScoped("image", scope), IntensitiesInScoped("image", scope)]
    found: dict[str, Prediction] = {}
    for place in np.random.default_rng(0).permutation(len(probabilities)).tolist():
        if len(found) == _MOST:
            break
        item = items[place]  # read once, as it may be loaded from a file
        patient = item.get("patient") or str(place)
        if patient not in found:
            try:
                for check in checks:
                    check(item)
            except OutOfScopeError:
                continue
            bare = Prediction("", facts=study_facts(item))
            row, group = probabilities[place].tolist(), decision.group_of(item)
            found[patient] = bare.answered(row, class_names, multi_label, "", [], decision, group)
    return Reference.of(list(found.values()), model, "validation and test set")
