"""Operating points: the probability from which on a class is said, for a stated sensitivity or specificity."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from monai_rd.proportions import proportion

__all__ = ["DECIMALS", "OperatingPoint", "check_operating_point"]

DECIMALS = 7  # of probabilities in scores
_WORDS = re.compile(r"(sensitivity|specificity) +(\d*\.?\d+)")


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold for the calibrated probability of one class, chosen on the validation set.

    Args:
        asked: what was asked for, such as "sensitivity 0.95".
        threshold: the class is said if its probability, rounded to 7 decimals, is at least this number.
        sensitivity: `value`, 95 % `interval` (Wilson's) and `n` of what it reached on the validation set; None if
            there is no study of the class.
        specificity: the same of studies without the class.

    Example:
        >>> from monai_rd.operating_point import OperatingPoint
        >>> point = OperatingPoint.fit("sensitivity 0.6", [0.1, 0.3, 0.2, 0.4, 0.6, 0.8], [0, 0, 1, 1, 1, 1])
        >>> point.threshold, point.sensitivity["value"], point.specificity["value"]
        (0.4, 0.75, 1.0)
    """

    asked: str
    threshold: float
    sensitivity: Mapping[str, Any] | None
    specificity: Mapping[str, Any] | None

    @classmethod
    def fit(cls, asked: str, probabilities: ArrayLike, present: ArrayLike) -> OperatingPoint | None:
        """Choose the threshold that is best for the other measure among those that reach what is asked.

        Of n validation studies of the side that is asked, floor((n + 1) (1 - share)) - 1 lie on the wrong side, or none
        where this is negative. So new studies, exchangeable with these, reach the share in the mean over validation
        sets, if n is at least 1 / (1 - share) - 1; with n (1 - share) on the wrong side they would not.

        Args:
            asked: see `check_operating_point`.
            probabilities: of the class `[N]`, in [0, 1].
            present: whether each study has the class `[N]`.

        Returns:
            The operating point; None if no study could tell it: for a sensitivity none has the class, for a specificity
            all have it.
        """
        measure, share = _parsed(asked)
        p, y = np.round(np.asarray(probabilities, dtype=np.float64), DECIMALS), np.asarray(present, dtype=bool)
        side = np.sort(p[y] if measure == "sensitivity" else p[~y])
        if not len(side):
            return None
        wrong = max(math.floor(round((len(side) + 1) * (1 - share), 9)) - 1, 0)
        if measure == "sensitivity":
            threshold = float(side[wrong])
        else:
            threshold = round(float(side[len(side) - 1 - wrong]) + 10**-DECIMALS, DECIMALS)
        said = p >= threshold
        return cls(asked, threshold, _share(said[y]), _share(~said[~y]))


def check_operating_point(asked: str | None, classes: int, multi_label: bool) -> None:
    """Check an operating point: "sensitivity SHARE" or "specificity SHARE", with a share above 0 and at most 1.

    Args:
        asked: the words; None for no operating point.
        classes: number of classes.
        multi_label: whether an image may have several classes or none; then each class gets a threshold of its own.

    Raises:
        ValueError: other words; or more than two classes, of which each study has exactly one.
    """
    if asked is None:
        return
    _parsed(asked)
    if classes > 2 and not multi_label:
        raise ValueError(
            f"operating_point: {asked!r} is for two classes or several labels an image; of {classes} classes, of which "
            "each study has one, the most probable is said"
        )


def _parsed(asked: str) -> tuple[str, float]:
    found = _WORDS.fullmatch(asked.strip())
    if found is None or not 0 < float(found[2]) <= 1:
        raise ValueError(
            "operating_point: 'sensitivity SHARE' or 'specificity SHARE' is needed, such as 'sensitivity 0.95', with "
            f"a share above 0 and at most 1, got {asked!r}"
        )
    return found[1], float(found[2])


def _share(hits: np.ndarray) -> dict[str, Any] | None:
    return {**proportion(hits), "n": len(hits)} if len(hits) else None
