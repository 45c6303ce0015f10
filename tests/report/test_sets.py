"""What is reported of conformal sets is what they hold, and the curve is that of the surest studies."""

from __future__ import annotations

import numpy as np
import pytest

from monai_rd.inference import ConformalSet, Decision
from monai_rd.proportions import wilson
from monai_rd.report.figures import answered_curve as drawn
from monai_rd.report.sets import answered_curve, set_metrics, sets_in_words


def test_classes() -> None:
    decision = Decision((ConformalSet("class-conditional", (20, 20, 20), (0.5, 0.3, 0.3)),))
    p = [[0.9, 0.05, 0.05], [0.1, 0.4, 0.5], [0.34, 0.33, 0.33], [0.45, 0.29, 0.26], [0.2, 0.7, 0.1]]
    found = set_metrics(decision, p, [0, 1, 2, 0, 0])  # {0}, {1, 2}, {1, 2}, none, {1}
    assert found["kinds"] == ["class-conditional"]
    assert found["coverage"] == {"value": 0.6, "interval": list(wilson(3, 5))}
    assert found["size"]["value"] == 6 / 5
    assert found["answered"]["value"] == 2 / 5
    assert found["accuracy_of_answered"] == {"value": 0.5, "interval": list(wilson(1, 2))}
    assert [one["coverage"]["value"] for one in found["classes"]] == [1 / 3, 1, 1]
    assert found["classes"][1]["accuracy_of_answered"] is None
    assert sets_in_words(found).startswith("90 % conformal sets, class-conditional: 0.600 (")
    absent = set_metrics(decision, p[:1], [0])
    assert absent["classes"][2] == dict.fromkeys(("coverage", "answered", "accuracy_of_answered"))


def test_several_labels() -> None:
    one = ConformalSet("marginal", (30, 10), (0.4, 0.4))
    decision = Decision((one, one))
    found = set_metrics(decision, [[0.9, 0.5], [0.2, 0.9], [0.5, 0.7]], [[1, 0], [1, 1], [0, 0]])
    # present, both; absent, present; both, present: 4 of 6 hold the truth, 2 of the 4 with one answer are right
    assert found["coverage"]["value"] == pytest.approx(4 / 6)
    assert found["answered"]["value"] == pytest.approx(4 / 6)
    assert found["accuracy_of_answered"]["value"] == pytest.approx(2 / 4)
    assert found["size"]["value"] == pytest.approx(8 / 6)
    assert [one["coverage"]["value"] for one in found["classes"]] == [pytest.approx(2 / 3)] * 2
    assert found["classes"][0]["accuracy_of_answered"]["value"] == 0.5


def test_intervals_of_several_labels_hold_the_truth() -> None:
    """Of a coverage, a share and a ratio over labels that depend on each other within a study."""
    random, hits = np.random.default_rng(0), np.zeros(3)
    one = ConformalSet("marginal", (30, 10), (0.3, 0.3))
    decision = Decision((one,) * 3)

    def draw(n: int) -> dict:
        y = (random.random((n, 1)) < 0.4) * np.ones((1, 3), int)
        p = 1 / (1 + np.exp(-(random.normal(size=(n, 1)) + random.normal(size=(n, 3)) + 2 * y - 1)))
        return set_metrics(decision, p, y)

    names = ("coverage", "answered", "accuracy_of_answered")
    truth = draw(200_000)
    for _ in range(300):
        found = draw(200)
        hits += [found[name]["interval"][0] <= truth[name]["value"] <= found[name]["interval"][1] for name in names]
    assert (np.abs(hits / 300 - 0.95) < 0.05).all()


def test_without_sets_there_is_nothing_to_measure() -> None:
    assert set_metrics(Decision(), [[0.5, 0.5]], [0]) is None


def test_curve_answers_the_surest_first_and_ties_together() -> None:
    p = [[0.6, 0.4], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]
    found = answered_curve(p, [0, 0, 0, 0])
    assert found.answered.tolist() == [0.25, 0.5, 1.0]
    assert found.accuracy.tolist() == [1.0, 0.5, 0.5]
    assert (found.low[1], found.high[1]) == wilson(1, 2)
    figure = drawn(found, 0.25, 1.0)
    curve, mark = figure.axes[0].lines
    assert curve.get_xydata().tolist() == [[0.25, 1], [0.5, 0.5], [1, 0.5]]
    assert mark.get_xydata().tolist() == [[0.25, 1]]
    assert len(drawn(found, 0.0, None).axes[0].lines) == 1
