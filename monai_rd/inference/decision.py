"""From probabilities to what is said of a study, as chosen on the validation set and stored with the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from monai_rd.inference.conformal import LEVEL, ConformalSet
from monai_rd.operating_point import DECIMALS, OperatingPoint, check_operating_point

__all__ = ["PRESENCE", "Decision"]

PRESENCE = ("absent", "present")  # the answers to the question that each label of a multi-label student asks


@dataclass(frozen=True)
class Decision:
    """What was chosen on the validation set for a student: the conformal sets, and the operating points.

    Args:
        sets: for mutually exclusive classes one, whose answers are the classes; for multi-label data one for each
            class, with the answers "absent" and "present". Empty: the student gives no sets, because it was trained
            by an older version, or with fewer than 9 validation studies.
        points: for two mutually exclusive classes one, of the second class; for multi-label data one for each class,
            None if no validation study could tell it. Empty: the most probable class is said; for multi-label data,
            and where it is None, those from 0.5 on.

    Example:
        >>> from monai_rd.inference import Decision
        >>> decision = Decision.fit([[0.9, 0.1]] * 5 + [[0.3, 0.7]] * 5, [0] * 5 + [1] * 5)
        >>> decision.answers([0.2, 0.8], ["clear", "opacity"])
        (('opacity',),)
    """

    sets: tuple[ConformalSet, ...] = ()
    points: tuple[OperatingPoint | None, ...] = ()

    @classmethod
    def fit(
        cls, probabilities: ArrayLike, labels: ArrayLike, multi_label: bool = False, operating_point: str | None = None
    ) -> Decision:
        """Choose it on a validation set.

        Args:
            probabilities: calibrated `[N, classes]`.
            labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.
            multi_label: whether an image may have several classes or none.
            operating_point: such as "sensitivity 0.95"; None: no operating points.

        Raises:
            ValueError: see `check_operating_point`.
        """
        asked, y = _questions(probabilities, multi_label), np.asarray(labels)
        columns = y.T if multi_label else y[None]
        fitted = [ConformalSet.fit(asked[:, index], column) for index, column in enumerate(columns)]
        sets = tuple(one for one in fitted if one is not None)  # all or none: they have the same studies
        if operating_point is None:
            return cls(sets)
        check_operating_point(operating_point, np.shape(probabilities)[1], multi_label)
        chosen = [
            OperatingPoint.fit(operating_point, asked[:, index, 1], column == 1) for index, column in enumerate(columns)
        ]
        return cls(sets, tuple(chosen))

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None, model_sha256: str) -> Decision:
        """Read it from the settings of a training.

        Args:
            stored: what `stored` returned, with "model_sha256"; None for a student of an older version.
            model_sha256: SHA-256 of the student's `model.pt`.

        Raises:
            ValueError: it was chosen for another `model.pt`.
        """
        if stored is None:
            return cls()
        if stored["model_sha256"] != model_sha256:
            raise ValueError(
                "'decision' in models/settings.json was chosen for another model.pt than the one beside it: bring back "
                "the file that it belongs to, or remove 'decision' to score without sets and operating points"
            )
        return cls(
            tuple(ConformalSet(one["kind"], tuple(one["n"]), tuple(one["limits"])) for one in stored["sets"]),
            tuple(None if one is None else OperatingPoint(**one) for one in stored["operating_points"]),
        )

    def stored(self) -> dict[str, Any]:
        """Return it as a JSON object, as in `scores.json`; `models/settings.json` names the `model_sha256`, too."""
        points = [None if one is None else asdict(one) for one in self.points]
        return {"level": LEVEL, "sets": [asdict(one) for one in self.sets], "operating_points": points}

    def chosen(self, probabilities: ArrayLike, multi_label: bool = False) -> np.ndarray:
        """Return the classes that are said.

        Args:
            probabilities: calibrated `[N, classes]`.
            multi_label: whether an image may have several classes or none.

        Returns:
            Class indices `[N]`; for multi-label data bool `[N, classes]`.
        """
        given = np.asarray(probabilities, dtype=np.float64)
        p = np.round(given, DECIMALS)
        thresholds = [0.5 if one is None else one.threshold for one in self.points]
        said: np.ndarray
        if multi_label:
            said = p >= (thresholds or 0.5)
        else:
            said = (p[:, 1:] >= thresholds)[:, 0].astype(int) if any(self.points) else given.argmax(axis=1)
        return said

    def points_in_words(self, class_names: Sequence[str]) -> tuple[str, ...]:
        """Return for each class with an operating point from which probability on it is said, and why."""
        names = class_names if len(self.points) > 1 else class_names[1:]
        return tuple(
            f"{name} from a probability of {one.threshold:.4g} on ({one.asked} on the validation set)"
            for name, one in zip(names, self.points, strict=False)
            if one is not None
        )

    def members(self, probabilities: ArrayLike) -> np.ndarray:
        """Return which answers are in the sets.

        Args:
            probabilities: calibrated `[N, classes]`.

        Returns:
            bool `[N, questions, answers]`: `[N, 1, classes]`, or for multi-label data `[N, classes, 2]`.
        """
        asked = _questions(probabilities, multi_label=len(self.sets) > 1)
        return np.stack([one.members(asked[:, index]) for index, one in enumerate(self.sets)], axis=1)

    def answers(self, probabilities: ArrayLike, class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Return the sets of one study by name, in the order of the classes; empty if the student gives none.

        Args:
            probabilities: calibrated `[classes]`.
            class_names: by class index.
        """
        if not self.sets:
            return ()
        names = class_names if len(self.sets) == 1 else PRESENCE
        (found,) = self.members(np.asarray(probabilities)[None])
        return tuple(tuple(name for name, inside in zip(names, one, strict=True) if inside) for one in found)


def _questions(probabilities: ArrayLike, multi_label: bool) -> np.ndarray:
    """Return the probabilities of the answers to each question `[N, questions, answers]`."""
    p = np.round(np.asarray(probabilities, dtype=np.float64), DECIMALS)
    return np.stack([1 - p, p], axis=2) if multi_label else p[:, None]
