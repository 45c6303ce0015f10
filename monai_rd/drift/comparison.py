"""Tests of weeks against a reference, corrected for all that is looked at in a year."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from scipy.stats import fisher_exact, ks_2samp

from monai_rd.drift.reference import LEAST, OTHER, PROBLEM, UNSTATED, Histogram, Reference, statistics_of
from monai_rd.drift.weeks import Week

__all__ = ["FALSE_ALARMS", "FEWEST", "SPANS", "Finding", "compare", "in_words"]

FALSE_ALARMS = 0.05  # chance of any false alarm in a year
WEEKS = 52
SPANS = (1, 3)  # a week alone, and with the two before it
FEWEST = 20  # studies of a span, or of a reference, to be tested


@dataclass(frozen=True)
class Finding:
    """A statistic in which a week differs from the reference.

    Attributes:
        monday: first day of the week.
        weeks: how many weeks were tested together, this one the last.
        statistic: name of the statistic.
        words: what differs.
        chance: upper bound of the chance that a year of weeks like the reference shows any such finding or a clearer
            one.
    """

    monday: date
    weeks: int
    statistic: str
    words: str
    chance: float

    def __str__(self) -> str:
        span = f"week of {self.monday}" if self.weeks == 1 else f"{self.weeks} weeks to that of {self.monday}"
        return f"{span}: {self.words}"


def compare(reference: Reference, weeks: Sequence[Week]) -> list[Finding]:
    """Test each week, alone and with the two before it, in each statistic of the reference.

    Numbers are tested by the two-sample test of Kolmogorov and Smirnov (bins make it a little more cautious), texts by
    Fisher's exact test of each value against all others. Both allow for chance in the reference, too. The p-values are
    multiplied by the number of tests in a year of 52 weeks (Bonferroni), which makes no assumption about how they
    depend on each other: all share the reference, weeks overlap, and statistics go together. So a year of weeks that
    are exchangeable with the reference has an alarm with a chance of 5 % at most, and the result of a week does not
    change with later ones.

    Args:
        reference: of the same student as the weeks.
        weeks: in order, see `read_weeks`. Spans of fewer than 20 scored studies are not tested.

    Returns:
        The findings by week, the clearest first.

    Raises:
        ValueError: the reference has fewer than 20 studies.

    Example:
        >>> from datetime import date
        >>> from monai_rd.drift import Reference, Week, compare
        >>> from monai_rd.inference import Decision, Prediction
        >>> def studies(scanner, count):
        ...     bare = [Prediction(str(n), facts={"scanner": scanner}) for n in range(count)]
        ...     return [one.answered([0.9, 0.1], ["clear", "opacity"], False, "", [], Decision()) for one in bare]
        >>> reference = Reference.of(studies("Maker A", 40), "ab12", "validation set")
        >>> print(*compare(reference, [Week(date(2026, 3, 2), studies("Maker B", 30))]))
        week of 2026-03-02: scanner differs: Maker B in 100 % of 30 studies, other than in the reference
    """
    if reference.studies < FEWEST:
        raise ValueError(
            f"the reference is of {reference.studies} studies, and at least {FEWEST} are needed to tell anything"
        )
    tests = WEEKS * len(SPANS) * (len(reference.numbers) + len(reference.categories))
    found: list[Finding] = []
    for place, week in enumerate(weeks):
        of_week: list[Finding] = []
        for span in SPANS:
            before = weeks[max(0, place - span + 1) : place]
            if span > 1 and not any(one.scored or one.problems for one in before):
                continue
            for name, p, words in _tested(reference, [*before, week]):
                if p * tests <= FALSE_ALARMS:
                    of_week.append(Finding(week.monday, span, name, words, p * tests))
        found += _clearest(of_week)
    return found


def in_words(findings: Sequence[Finding]) -> list[str]:
    """Return a sentence for each statistic that differs: when and how it did first, and in how many later weeks."""
    first: dict[str, Finding] = {}
    for one in findings:
        first.setdefault(one.statistic, one)
    more = Counter(one.statistic for one in findings if one is not first[one.statistic])
    later = {name: f"; and in {count} later week{'s' * (count > 1)}" for name, count in more.items()}
    return [f"{one}{later.get(name, '')}" for name, one in first.items()]


def _clearest(findings: Sequence[Finding]) -> list[Finding]:
    """Return the clearest finding of each statistic."""
    best: dict[str, Finding] = {}
    for one in sorted(findings, key=lambda one: one.chance):
        best.setdefault(one.statistic, one)
    return list(best.values())


def _tested(reference: Reference, weeks: Sequence[Week]) -> list[tuple[str, float, str]]:
    """Return name, p-value and words for each statistic of the reference of which there are enough studies."""
    told = [statistics_of(one) for week in weeks for one in week.scored]
    codes = [code for week in weeks for code in week.problems]
    found = []
    for name, histogram in reference.numbers.items():
        values = [float(one[name]) for one in told if name in one]
        if len(values) >= FEWEST:
            found.append((name, _p_of_numbers(histogram, values), _numbers_in_words(name, histogram, values)))
    for name, counts in reference.categories.items():
        texts = ["none"] * len(told) + codes if name == PROBLEM else [str(one.get(name, UNSTATED)) for one in told]
        if len(texts) >= FEWEST:
            found.append((name, *_texts(name, counts, texts)))
    return found


def _p_of_numbers(histogram: Histogram, values: Sequence[float]) -> float:
    bins = np.repeat(np.arange(len(histogram.counts)), histogram.counts)
    result: Any = ks_2samp(bins, np.searchsorted(histogram.edges, values))
    return float(result.pvalue)


def _numbers_in_words(name: str, histogram: Histogram, values: Sequence[float]) -> str:
    here = np.quantile(values, (0.1, 0.5, 0.9))
    low, middle, high = (f"{one:.3g}" for one in here)
    theirs = [f"{one:.3g}" for one in histogram.quantiles]
    return (
        f"{name} differs: {middle} in the middle ({low} to {high} in 8 of 10) of {len(values)} studies, "
        f"{theirs[1]} ({theirs[0]} to {theirs[2]}) in the reference"
    )


def _texts(name: str, counts: Mapping[str, int], values: Sequence[str]) -> tuple[float, str]:
    """Return the p-value of the value that differs most, times the number of values tested, and words."""
    here = Counter(value if value in counts else OTHER for value in values)
    here[OTHER] += 0
    n, of_reference = len(values), sum(counts.values())
    p_values = {
        value: float(fisher_exact([[here[value], n - here[value]], [count, of_reference - count]]).pvalue)
        for value, count in counts.items()
        if here[value] or count
    }
    least = min(p_values.values())
    value = max((one for one, p in p_values.items() if p <= least * (1 + 1e-6)), key=lambda one: here[one])
    p = least if len(p_values) <= 2 else min(1.0, least * len(p_values))  # the two tests of two values are one
    share, before = here[value] / n, counts[value] / of_reference
    return p, f"{name} differs: {_share_in_words(value, share, before, n, values, counts)}"


def _share_in_words(
    value: str, share: float, before: float, n: int, values: Sequence[str], counts: Mapping[str, int]
) -> str:
    if value != OTHER:
        return f"{value} in {share:.0%} of {n} studies, {before:.0%} in the reference".replace("%", " %")
    new = [(one, count) for one, count in Counter(values).most_common(3) if one not in counts and count >= LEAST]
    listed = " and ".join(f"{one} in {count / n:.0%}" for one, count in new) or f"rare values in {share:.0%}"
    return f"{listed} of {n} studies, other than in the reference".replace("%", " %")
