"""Tests of weeks against a reference, corrected for all that is looked at in a year."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import fisher_exact, ks_2samp, mannwhitneyu

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

    Numbers are tested by the test of Mann and Whitney, which finds more or less of a class soonest, and by the
    two-sample test of Kolmogorov and Smirnov, which finds any other change (bins make both a little more cautious);
    texts by Fisher's exact test of each value against all others. All allow for chance in the reference, too. The
    p-values are multiplied by the number of tests in a year of 52 weeks (Bonferroni), which makes no assumption about
    how they depend on each other: all share the reference, weeks overlap, and statistics go together. So a year of
    weeks that are exchangeable with the reference has an alarm with a chance of 5 % at most, and the result of a week
    does not change with later ones.

    Args:
        reference: of the same student as the weeks.
        weeks: in order, see `read_weeks`. Spans of fewer than 20 scored studies are not tested.

    Returns:
        The findings by week, the clearest first.

    Raises:
        ValueError: the reference has fewer than 20 studies.
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
            for name, p, values in _tested(reference, [*before, week]):
                if p * tests <= FALSE_ALARMS:
                    of_week.append(Finding(week.monday, span, name, _in_words(reference, name, values), p * tests))
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


def _tested(reference: Reference, weeks: Sequence[Week]) -> Iterator[tuple[str, float, list[Any]]]:
    """Yield name, p-value and values of each statistic of the reference of which there are enough studies."""
    told = [statistics_of(one) for week in weeks for one in week.scored]
    codes = [code for week in weeks for code in week.problems]
    for name, histogram in reference.numbers.items():
        numbers = [float(one[name]) for one in told if name in one]
        if len(numbers) >= FEWEST:
            yield name, _p_of_numbers(histogram, numbers), numbers
    for name, counts in reference.categories.items():
        texts = ["none"] * len(told) + codes if name == PROBLEM else [str(one.get(name, UNSTATED)) for one in told]
        if len(texts) >= FEWEST:
            by_value = _p_by_value(counts, texts)
            # The tests of two values are one.
            yield name, min(by_value.values()) * (len(by_value) if len(by_value) > 2 else 1), texts


def _p_of_numbers(histogram: Histogram, values: Sequence[float]) -> float:
    bins = np.repeat(np.arange(len(histogram.counts)), histogram.counts)
    here = np.searchsorted(histogram.edges, values)
    tests: list[Any] = [ks_2samp(bins, here), mannwhitneyu(bins, here, method="asymptotic")]
    return min(2 * float(one.pvalue) for one in tests)


def _p_by_value(counts: Mapping[str, int], values: Sequence[str]) -> dict[str, float]:
    """Return the p-value of each value that occurs here or in the reference; those that it lacks are "other"."""
    here = _folded(counts, values)
    n, of_reference = len(values), sum(counts.values())
    return {
        value: _fisher(here[value], n - here[value], count, of_reference - count)
        for value, count in counts.items()
        if here[value] or count
    }


def _folded(counts: Mapping[str, int], values: Sequence[str]) -> Counter[str]:
    return Counter(value if value in counts else OTHER for value in values)


@lru_cache(maxsize=1 << 14)
def _fisher(a: int, b: int, c: int, d: int) -> float:
    return float(fisher_exact([[a, b], [c, d]]).pvalue)


def _in_words(reference: Reference, name: str, values: list[Any]) -> str:
    n = len(values)
    if name in reference.numbers:
        low, middle, high = (f"{one:.3g}" for one in np.quantile(values, (0.1, 0.5, 0.9)))
        theirs = [f"{one:.3g}" for one in reference.numbers[name].quantiles]
        return (
            f"{name} differs: {middle} in the middle ({low} to {high} in 8 of 10) of {n} studies, {theirs[1]} "
            f"({theirs[0]} to {theirs[2]}) in the reference"
        )
    counts = reference.categories[name]
    here = _folded(counts, values)
    by_value = _p_by_value(counts, values)
    clearest = [one for one, p in by_value.items() if p <= min(by_value.values()) * (1 + 1e-6)]
    value = max(clearest, key=lambda one: here[one])
    if value != OTHER:
        before = _percent(counts[value], sum(counts.values()))
        return f"{name} differs: {value} in {_percent(here[value], n)} of {n} studies, {before} in the reference"
    new = {one: count for one, count in Counter(values).most_common() if one not in counts}
    told = [f"{one} in {_percent(count, n)}" for one, count in list(new.items())[:3] if count >= LEAST]
    listed = " and ".join(told) or f"rare values in {_percent(sum(new.values()), n)}"
    return f"{name} differs: {listed} of {n} studies, other than in the reference"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole * 100:.0f} %"
