"""Split-conformal sets: the answers that a student cannot rule out, at a stated share of studies.

Sadinle et al. 2019 (least ambiguous sets, LAC, arXiv 1609.00451): an answer is in the set if its probability reaches a
limit, which is chosen on validation studies so that the true answer is in the set of 90 % of studies. This holds for
studies that are exchangeable with those of the validation set: mixed with them, they could not be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from monai_rd.operating_point import DECIMALS

__all__ = ["FEWEST", "LEVEL", "ConformalSet", "excluded", "set_in_words"]

LEVEL = 0.9  # share of studies whose set holds the true answer
FEWEST = 20  # validation studies from which on an answer, or a scanner or site, has limits of its own


@dataclass(frozen=True)
class ConformalSet:
    """The limits for one question that has exactly one true answer, such as "which class?" or "is the class present?".

    Args:
        kind: "class-conditional": 90 % of the studies of every answer are covered; "marginal": 90 % of all studies;
            "by scanner" or "by site": for a study of another group, see `lowest`.
        n: validation studies of each answer.
        limits: for each answer the probability in [0, 1] from which on it is in the set.

    Example:
        Ten studies are enough for limits, but not for one of each answer.

        >>> from monai_rd.inference import ConformalSet
        >>> sure = [[0.9, 0.1]] * 5 + [[0.3, 0.7]] * 5
        >>> found = ConformalSet.fit(sure, [0] * 5 + [1] * 5)
        >>> found.kind, found.limits
        ('marginal', (0.7, 0.7))
        >>> found.members([[0.8, 0.2], [0.5, 0.5]]).tolist()
        [[True, False], [False, False]]
    """

    kind: str
    n: tuple[int, ...]
    limits: tuple[float, ...]

    @classmethod
    def fit(cls, probabilities: ArrayLike, labels: ArrayLike) -> ConformalSet | None:
        """Choose the limits on validation studies.

        Each answer has a limit of its own if there are at least 20 studies of every answer.

        Args:
            probabilities: of each answer `[N, answers]`, in [0, 1].
            labels: index of the true answer `[N]`.

        Returns:
            The limits; None with fewer than 9 studies, of which no limit could promise 90 %.
        """
        p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
        true, answers = np.round(p[np.arange(len(y)), y], DECIMALS), range(p.shape[1])
        n = tuple(int((y == answer).sum()) for answer in answers)
        if min(n) >= FEWEST:
            return cls("class-conditional", n, tuple(_limit(true[y == answer]) for answer in answers))
        if excluded(len(y)) == 0:
            return None
        return cls("marginal", n, (_limit(true),) * len(n))

    @classmethod
    def lowest(cls, kind: str, known: Sequence[ConformalSet]) -> ConformalSet:
        """Return the lowest limits of several, with the `n` of the first: its sets hold the sets of each of them."""
        return cls(kind, known[0].n, tuple(map(min, zip(*(one.limits for one in known), strict=True))))

    def members(self, probabilities: ArrayLike) -> np.ndarray:
        """Return which answers are in the set, bool `[..., answers]`, from their probabilities, same shape."""
        found: np.ndarray = np.round(np.asarray(probabilities, dtype=np.float64), DECIMALS) >= self.limits
        return found


def set_in_words(members: Sequence[str], answers: int, every: str = "any class", none: str = "no class") -> str:
    """Return the names in a set joined by "|", or words if it holds each of the `answers`, or none."""
    return none if not members else every if len(members) == answers else "|".join(members)


def excluded(n: int) -> int:
    """Return how many of n + 1 exchangeable studies may be outside their set: floor((n + 1) (1 - LEVEL))."""
    return math.floor(round((n + 1) * (1 - LEVEL), 9))


def _limit(true: np.ndarray) -> float:
    """Return the k-th smallest probability of the true answer, k = `excluded`: LAC's quantile of 1 - p."""
    return float(np.sort(true)[excluded(len(true)) - 1])
