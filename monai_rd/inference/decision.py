"""From probabilities to what is said of a study, as chosen on the validation set and stored with the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from monai_rd.conformal_groups import UNKNOWN_GROUP, group_key
from monai_rd.inference.conformal import FEWEST, LEVEL, ConformalSet
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
        grouped_by: "scanner" or "site" if each has sets of its own; None: all studies have the same.
        of_groups: the sets of each scanner or site with at least 20 validation studies, by its `group_key`. Studies of
            others have `sets`, which are then the lowest limits of these and of all studies.

    Example:
        >>> from monai_rd.inference import Decision
        >>> decision = Decision.fit([[0.9, 0.1]] * 5 + [[0.3, 0.7]] * 5, [0] * 5 + [1] * 5)
        >>> decision.answers([0.2, 0.8], ["clear", "opacity"])
        (('opacity',),)
    """

    sets: tuple[ConformalSet, ...] = ()
    points: tuple[OperatingPoint | None, ...] = ()
    grouped_by: str | None = None
    of_groups: Mapping[str, tuple[ConformalSet, ...]] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        probabilities: ArrayLike,
        labels: ArrayLike,
        multi_label: bool = False,
        operating_point: str | None = None,
        grouped_by: str | None = None,
        groups: Sequence[str] = (),
    ) -> Decision:
        """Choose it on a validation set.

        Args:
            probabilities: calibrated `[N, classes]`.
            labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.
            multi_label: whether an image may have several classes or none.
            operating_point: such as "sensitivity 0.95"; None: no operating points.
            grouped_by: "scanner" or "site" for sets of each that has at least 20 studies; without one it stays None.
            groups: the name of each study's scanner or site `[N]`, "" if it is not known.

        Raises:
            ValueError: see `check_operating_point`.
        """
        asked, y = _questions(probabilities, multi_label), np.asarray(labels)
        columns = y.T if multi_label else y[None]
        sets, of_groups = _sets(asked, columns), {}
        if grouped_by is not None:
            keys = np.array([group_key(grouped_by, name) for name in groups])
            for key, count in zip(*np.unique(keys[keys != ""], return_counts=True), strict=True):
                if count >= FEWEST:
                    of_groups[str(key)] = _sets(asked[keys == key], columns[:, keys == key])
        if of_groups:
            every = zip(sets, *of_groups.values(), strict=True)
            sets = tuple(ConformalSet.lowest(f"by {grouped_by}", known) for known in every)
        else:
            grouped_by = None
        if operating_point is None:
            return cls(sets, (), grouped_by, of_groups)
        check_operating_point(operating_point, np.shape(probabilities)[1], multi_label)
        chosen = [
            OperatingPoint.fit(operating_point, asked[:, index, 1], column == 1) for index, column in enumerate(columns)
        ]
        return cls(sets, tuple(chosen), grouped_by, of_groups)

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
            _read(stored["sets"]),
            tuple(None if one is None else OperatingPoint(**one) for one in stored["operating_points"]),
            stored.get("grouped_by"),
            {key: _read(sets) for key, sets in stored.get("of_groups", {}).items()},
        )

    def stored(self) -> dict[str, Any]:
        """Return it as a JSON object, as in `scores.json`; `models/settings.json` names the `model_sha256`, too."""
        points = [None if one is None else asdict(one) for one in self.points]
        told = {"level": LEVEL, "sets": [asdict(one) for one in self.sets], "operating_points": points}
        if self.grouped_by is None:
            return told
        of_groups = {key: [asdict(one) for one in sets] for key, sets in self.of_groups.items()}
        return {**told, "grouped_by": self.grouped_by, "of_groups": of_groups}

    def group_of(self, item: Mapping[str, Any]) -> str:
        """Return the key in `of_groups` of the study of a data list's item; "" if its group has no sets of its own."""
        key = "" if self.grouped_by is None else group_key(self.grouped_by, item.get(self.grouped_by, ""))
        return key if key in self.of_groups else ""

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

    def groups_in_words(self, asked: str) -> str:
        """Return which scanners or sites have sets of their own, as `asked` of the training, in a sentence."""
        if self.grouped_by is None:
            return f"conformal_groups: no {asked} has {FEWEST} validation studies, so the limits are the same for all"
        known = ", ".join(f"{key} (n = {sum(sets[0].n)})" for key, sets in self.of_groups.items())
        others = f"any other {asked} has the lowest of all and the flag {UNKNOWN_GROUP}"
        return f"conformal limits by {asked}: {known}; {others}"

    def members(self, probabilities: ArrayLike, groups: Sequence[str] | None = None) -> np.ndarray:
        """Return which answers are in the sets.

        Args:
            probabilities: calibrated `[N, classes]`.
            groups: what `group_of` says of each study `[N]`; None: of none the group is known.

        Returns:
            bool `[N, questions, answers]`: `[N, 1, classes]`, or for multi-label data `[N, classes, 2]`.
        """
        asked = _questions(probabilities, multi_label=len(self.sets) > 1)
        own = {"": self.sets, **self.of_groups}
        keys = np.array([""] * len(asked) if groups is None else groups, dtype=object)
        found = np.zeros((len(asked), len(self.sets), asked.shape[2]), dtype=bool)
        for key in set(keys):
            for index, one in enumerate(own[key]):
                found[keys == key, index] = one.members(asked[keys == key, index])
        return found

    def answers(
        self, probabilities: ArrayLike, class_names: Sequence[str], group: str = ""
    ) -> tuple[tuple[str, ...], ...]:
        """Return the sets of one study by name, in the order of the classes; empty if the student gives none.

        Args:
            probabilities: calibrated `[classes]`.
            class_names: by class index.
            group: what `group_of` says of it.
        """
        if not self.sets:
            return ()
        names = class_names if len(self.sets) == 1 else PRESENCE
        (found,) = self.members(np.asarray(probabilities)[None], [group])
        return tuple(tuple(name for name, inside in zip(names, one, strict=True) if inside) for one in found)


def _questions(probabilities: ArrayLike, multi_label: bool) -> np.ndarray:
    """Return the probabilities of the answers to each question `[N, questions, answers]`."""
    p = np.round(np.asarray(probabilities, dtype=np.float64), DECIMALS)
    return np.stack([1 - p, p], axis=2) if multi_label else p[:, None]


def _sets(asked: np.ndarray, columns: np.ndarray) -> tuple[ConformalSet, ...]:
    """Fit a set for each question, from the answers `[N, questions, answers]` and which are true `[questions, N]`."""
    fitted = [ConformalSet.fit(asked[:, index], column) for index, column in enumerate(columns)]
    return tuple(one for one in fitted if one is not None)  # all or none: they have the same studies


def _read(stored: Sequence[Mapping[str, Any]]) -> tuple[ConformalSet, ...]:
    return tuple(ConformalSet(one["kind"], tuple(one["n"]), tuple(one["limits"])) for one in stored)
