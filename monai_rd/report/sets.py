"""How often a student's conformal sets hold the truth, and how well it does on the studies that it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from monai_rd.inference.decision import Decision
from monai_rd.proportions import proportion, wilson
from monai_rd.report.metrics import normal

__all__ = ["AnsweredCurve", "answered_curve", "set_metrics", "sets_in_words"]


def set_metrics(
    decision: Decision, probabilities: ArrayLike, labels: ArrayLike, groups: Sequence[str] | None = None
) -> dict[str, Any] | None:
    """Measure conformal sets.

    Args:
        decision: of the student.
        probabilities: calibrated `[N, classes]`, N > 0.
        labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.
        groups: see `Decision.members`.

    Returns:
        None if the student gives no sets. Else with `value` and 95 % `interval` (Wilson's; for multi-label data, whose
        answers are those to each label of each study, normal, from the studies):

        - `coverage`: share of sets that hold the truth.
        - `size`: mean number of answers in a set (normal interval).
        - `answered`: share of sets with exactly one answer, and `accuracy_of_answered`: how many of these are true;
          None if there are none.
        - `kinds` and `classes`: the kind of each set, and for each class coverage, answered and accuracy: of the
          studies of this class, or for multi-label data of the label.
        - `groups`: the same of each scanner or site with sets of its own, with `n` studies, by its key, and as ""
          of all others; {} if all studies have the same sets.
    """
    if not decision.sets:
        return None
    inside, y = decision.members(probabilities, groups), np.asarray(labels, dtype=np.int64)
    truth = y.reshape(len(y), -1)  # [N, questions]
    covered = np.take_along_axis(inside, truth[..., None], axis=2)[..., 0]
    sizes = inside.sum(axis=2)
    one = sizes == 1
    if len(decision.sets) > 1:
        each = [_shares(covered[:, index, None], one[:, index, None]) for index in range(truth.shape[1])]
    else:
        each = [_shares(covered[y == index], one[y == index]) for index in range(inside.shape[2])]
    keys = np.array(groups if groups is not None else [""] * len(y))
    by_group = {
        key: {"n": int((keys == key).sum()), **_shares(covered[keys == key], one[keys == key])}
        for key in (*decision.of_groups, "")
        if decision.of_groups
    }
    return {
        "kinds": [found.kind for found in decision.sets],
        **_shares(covered, one),
        "size": _mean(sizes.mean(axis=1), inside.shape[2]),
        "classes": each,
        "groups": by_group,
    }


def sets_in_words(found: dict[str, Any]) -> str:
    """Return the result of `set_metrics` as a sentence."""

    def of(name: str) -> str:
        low, high = found[name]["interval"]
        return f"{found[name]['value']:.3f} ({low:.3f}-{high:.3f})"

    kinds = sorted(set(found["kinds"]))
    right = f", of which {of('accuracy_of_answered')} are right" if found["accuracy_of_answered"] else ""
    return (
        f"90 % conformal sets, {' and '.join(kinds)}: {of('coverage')} hold the truth, {of('answered')} are of one "
        f"answer{right}"
    )


class AnsweredCurve(NamedTuple):
    """Accuracy among the studies that are answered, if the surest are answered first.

    Attributes:
        answered: share of studies that are answered `[N]`, ascending to 1.
        accuracy: accuracy among them `[N]`.
        low: lower ends of Wilson's 95 % intervals `[N]`.
        high: upper ends.
    """

    answered: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def answered_curve(probabilities: ArrayLike, labels: ArrayLike) -> AnsweredCurve:
    """Compute how accurate the most probable class is among the surest studies.

    Args:
        probabilities: `[N, classes]`, N > 0.
        labels: class indices `[N]`.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    order = np.argsort(-p.max(axis=1), kind="stable")
    hits, n = np.cumsum((p.argmax(axis=1) == y)[order]), np.arange(1, len(y) + 1)
    sure = p.max(axis=1)[order]
    ends = np.flatnonzero(np.append(sure[1:] < sure[:-1], True))  # equally sure studies are answered together
    low, high = np.array([wilson(int(hits[end]), int(n[end])) for end in ends]).T
    return AnsweredCurve(n[ends] / len(y), hits[ends] / n[ends], low, high)


def _shares(covered: np.ndarray, one: np.ndarray) -> dict[str, Any]:
    """Return coverage, share answered and accuracy of the answered, from bool `[N, questions]`; None if N is 0."""
    if not len(covered):
        return dict.fromkeys(("coverage", "answered", "accuracy_of_answered"))
    if covered.shape[1] == 1:
        right = proportion(covered[one]) if one.any() else None
        return {"coverage": proportion(covered[:, 0]), "answered": proportion(one[:, 0]), "accuracy_of_answered": right}
    right = None
    if one.any():
        share = one.mean()
        value = float((covered & one).sum() / one.sum())
        right = _mean(value + ((covered & one).mean(axis=1) - value * one.mean(axis=1)) / share)  # linearised
    return {
        "coverage": _mean(covered.mean(axis=1)),
        "answered": _mean(one.mean(axis=1)),
        "accuracy_of_answered": right,
    }


def _mean(values: np.ndarray, most: float = 1.0) -> dict[str, Any]:
    """Return the mean of a value of each study, of 0 to `most`, with its normal interval."""
    return normal(float(values.mean()), values, most)
