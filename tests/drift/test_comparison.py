"""A stream that stays as it was is left in peace, and one that changes is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from monai_rd.drift import Reference, Week, compare
from monai_rd.drift import comparison as comparing
from monai_rd.drift.comparison import in_words
from monai_rd.drift.reference import Histogram
from tests.drift.streams import MODEL, MONDAY, studies, weeks


def reference(random: np.random.Generator, count: int = 120) -> Reference:
    return Reference.of(studies(random, count), MODEL, "validation set", problems=[])


def test_a_stream_that_stays_the_same_gives_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight quarters of a year, each with a reference of its own; without the correction there are many alarms."""
    random = np.random.default_rng(0)
    quarters = [(reference(random), weeks(random, *[{}] * 13)) for _ in range(8)]
    assert [compare(*one) for one in quarters] == [[]] * 8
    monkeypatch.setattr(comparing, "WEEKS", 1 / 12)  # as if there were one test
    assert sum(bool(compare(*one)) for one in quarters) >= 4


def test_p_values_are_not_too_small() -> None:
    """Also of a reference in bins, of a number with ties, and for both samples drawn anew."""
    random = np.random.default_rng(1)
    found: dict[str, list[float]] = {}
    for _ in range(150):
        for name, p, _ in comparing._tested(reference(random, 40), weeks(random, {}, count=30)):
            found.setdefault(name, []).append(p)
    assert set(found) == {
        "probability of opacity",
        "class",
        "conformal set",
        "flags",
        "not scored",
        "scanner",
        "median",
    }
    for p in found.values():
        assert np.mean(np.array(p) <= 0.05) <= 0.1  # 150 times 5 % is 7.5 +- 2.7
        assert np.mean(np.array(p) <= 0.2) <= 0.3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scanners": ["Maker A", "Maker C"]}, {"scanner": "Maker C in"}),
        ({"scanners": ["Maker A"]}, {"scanner": "Maker A in 100 % of"}),
        ({"median": 0.37}, {"median": "0.37"}),
        ({"ill": 0.95}, {"class": "opacity in", "probability of opacity": "in the middle"}),
    ],
)
def test_a_change_is_found_within_three_weeks_and_named(change: dict[str, Any], told: dict[str, str]) -> None:
    random = np.random.default_rng(2)
    known = reference(random)
    found = compare(known, weeks(random, {}, {}, *[change] * 3))
    assert found
    assert {one.monday for one in found} <= {one.monday for one in weeks(random, {}, {}, {}, {}, {})[2:]}
    assert {one.statistic for one in found} <= {*told, "conformal set"}
    for name, words in told.items():
        assert words in next(one.words for one in found if one.statistic == name)
    assert len(in_words(found)) == len({one.statistic for one in found})


def test_a_number_that_moves_and_one_that_spreads_are_both_found() -> None:
    """Without Mann and Whitney's test the first is not, without Kolmogorov and Smirnov's the second is not."""
    usual, many = (norm.ppf((np.arange(n) + 0.5) / n) for n in (120, 150))
    known = Histogram.of(usual.tolist())
    assert comparing._p_of_numbers(known, many.tolist()) > 0.9
    assert comparing._p_of_numbers(known, (many + 0.6).tolist()) < 1e-5
    assert comparing._p_of_numbers(known, (many * 6).tolist()) < 1e-5


def test_few_studies_are_tested_with_the_weeks_before_them() -> None:
    random = np.random.default_rng(3)
    known, new = reference(random), {"scanners": ["Maker C"]}
    few = weeks(random, new, new, new, count=9)
    (one,) = [one for one in compare(known, few) if one.statistic == "scanner"]
    assert (one.monday, one.weeks) == (few[2].monday, 3)
    assert str(one).startswith(f"3 weeks to that of {few[2].monday}: scanner differs: Maker C in 100 % of 27 studies")
    assert compare(known, few[:2]) == []
    assert compare(known, [few[0], Week(few[1].monday), Week(few[2].monday)]) == []
    with pytest.raises(ValueError, match="the reference is of 19 studies, and at least 20 are needed"):
        compare(reference(random, 19), few)


def test_studies_that_cannot_be_scored_are_counted() -> None:
    random = np.random.default_rng(4)
    known = Reference.of(studies(random, 200), MODEL, "first 4 weeks", problems=["LOCALIZER"] * 20)
    assert known.categories["not scored"] == {"none": 200, "LOCALIZER": 20, "other": 0}
    kept = Week(MONDAY, studies(random, 50), ["LOCALIZER"] * 5)
    broken = Week(MONDAY, studies(random, 50), ["LOCALIZER"] * 4 + ["UNREADABLE_PIXELS"] * 20)
    assert compare(known, [kept]) == []
    (one,) = compare(known, [broken])
    assert one.words == "not scored differs: UNREADABLE_PIXELS in 27 % of 74 studies, other than in the reference"


def test_rare_new_names_are_not_told() -> None:
    random = np.random.default_rng(5)
    names = [f"Room of Eva {n}" for n in range(60)]
    found = compare(reference(random), weeks(random, {"scanners": names}))
    (one,) = [one for one in found if one.statistic == "scanner"]
    assert one.words == "scanner differs: rare values in 100 % of 50 studies, other than in the reference"
