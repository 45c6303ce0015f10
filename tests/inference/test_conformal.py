"""Conformal sets hold the true answer as often as they promise, and say when they can promise nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import beta

from monai_rd.inference import ConformalSet, Decision, Prediction, read_scores, write_scores
from monai_rd.inference.conformal import LEVEL

RESAMPLINGS = 1000


def drawn(random: np.random.Generator, n: int, shares: tuple[float, ...] = (0.6, 0.3, 0.1)) -> tuple[np.ndarray, ...]:
    """Labels, and probabilities of a network that is too sure of itself and knows the rare class worst."""
    labels = random.choice(len(shares), p=shares, size=n)
    logits = random.normal(size=(n, len(shares)))
    logits[np.arange(n), labels] += np.array([2.0, 1.0, 0.5])[labels]
    return softmax(3 * logits, axis=1), labels


def expected_coverage(n: int) -> tuple[float, float]:
    """Mean and variance of the coverage, given n validation studies without ties: a beta distribution."""
    k = int(np.floor(round((n + 1) * (1 - LEVEL), 9)))
    return float(beta.mean(n + 1 - k, k)), float(beta.var(n + 1 - k, k))


def assert_covered(shares: np.ndarray, tests: int, n: int) -> None:
    """The mean over resamplings is what is promised: within 4 standard errors, of which none is by chance."""
    mean, variance = expected_coverage(n)
    error = np.sqrt((variance + mean * (1 - mean) / tests) / len(shares))
    assert mean >= LEVEL
    assert shares.mean() == pytest.approx(mean, abs=4 * error)


@pytest.mark.parametrize("n", [9, 30, 59, 250])
def test_covers_the_promised_share_over_resamplings(n: int) -> None:
    random, shares = np.random.default_rng(n), []
    for _ in range(RESAMPLINGS):
        p, y = drawn(random, n + 100, shares=(0.85, 0.1, 0.05))
        found = ConformalSet.fit(p[:n], y[:n])
        if found is not None and found.kind == "marginal":  # with 250 studies all but always: 12 of class 2
            shares.append(found.members(p[n:])[np.arange(100), y[n:]].mean())
    assert len(shares) > 0.9 * RESAMPLINGS
    assert_covered(np.array(shares), 100, n)


def test_covers_each_class_where_the_counts_allow() -> None:
    random, n = np.random.default_rng(0), (70, 40, 20)
    labels, tests = np.repeat(range(3), n), np.repeat(range(3), 100)
    shares = np.empty((RESAMPLINGS, 3))
    for row in range(RESAMPLINGS):
        logits = random.normal(size=(len(labels) + 300, 3))
        y = np.concatenate([labels, tests])
        logits[np.arange(len(y)), y] += np.array([2.0, 1.0, 0.5])[y]
        p = softmax(3 * logits, axis=1)
        found = ConformalSet.fit(p[: len(labels)], labels)
        assert (found.kind, found.n) == ("class-conditional", n)
        inside = found.members(p[len(labels) :])[np.arange(300), tests]
        shares[row] = inside.reshape(3, 100).mean(axis=1)
    for column, count in zip(shares.T, n, strict=True):
        assert_covered(column, 100, count)


def test_covers_each_label_of_several() -> None:
    random, shares, kinds = np.random.default_rng(1), [], set()
    for _ in range(RESAMPLINGS):
        y = random.random((150, 2)) < (0.4, 0.05)
        p = expit(2 * (random.normal(size=y.shape) + 1.5 * y - 1))
        decision = Decision.fit(p[:100], y[:100], multi_label=True)
        kinds.add(tuple(one.kind for one in decision.sets))
        inside = decision.members(p[100:])  # [50, 2, 2]
        shares.append(np.take_along_axis(inside, y[100:, :, None].astype(int), axis=2)[..., 0].mean(axis=0))
    assert kinds == {("class-conditional", "marginal")}
    first, second = np.array(shares).T
    assert_covered(second, 50, 100)
    assert LEVEL - 0.005 < first.mean() < LEVEL + 0.03  # its two limits come of about 40 and 60 studies


def test_ties_cover_more_not_less() -> None:
    p = np.tile([[0.7, 0.3]], (40, 1))
    found = ConformalSet.fit(p, [0] * 30 + [1] * 10)
    assert found.limits == (0.3, 0.3)
    assert found.members(p).all()
    saturated = ConformalSet.fit(np.tile([[1.0, 0.0]], (40, 1)), [0] * 20 + [1] * 20)
    assert saturated.members([[1.0, 0.0], [0.9, 0.1]]).tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize(("n", "kind"), [(8, None), (9, "marginal"), (39, "marginal"), (40, "class-conditional")])
def test_what_few_studies_allow(n: int, kind: str | None) -> None:
    p, y = np.linspace([0.9, 0.1], [0.1, 0.9], n), np.arange(n) % 2
    found = ConformalSet.fit(p, y)
    assert (found and found.kind) == kind
    decision = Decision.fit(p, y)
    assert len(decision.sets) == (kind is not None)
    if kind is None:
        assert decision.answers(p[0], ["a", "b"]) == ()
        assert Decision.fit(p, np.stack([y, y], axis=1), multi_label=True).sets == ()


def test_the_limit_is_that_of_the_definition() -> None:
    """The ceil((n + 1) 0.9)-th smallest of 1 - p, as in the paper."""
    for n in range(9, 60):
        true = np.random.default_rng(n).random(n)
        found = ConformalSet.fit(np.stack([true, 1 - true], axis=1), np.zeros(n, int))
        k = -(-9 * (n + 1) // 10)
        assert found.limits[0] == pytest.approx(1 - np.sort(1 - true)[k - 1], abs=1e-7)


def answered(p: list[float], names: list[str], limits: tuple[float, ...], multi_label: bool = False) -> Prediction:
    one = ConformalSet("marginal", (20,) * len(limits), limits)
    decision = Decision((one,) * (len(names) if multi_label else 1))
    return Prediction("1", model="ab").answered(p, names, multi_label, "", [], decision)


def test_sets_follow_the_order_of_the_classes_and_are_said_in_words(tmp_path: Path) -> None:
    names = ["z", "a", "m"]
    cases = {
        (0.30, 0.10, 0.60): ("z|m", ["z", "m"]),
        (0.90, 0.05, 0.05): ("z", ["z"]),
        (0.35, 0.35, 0.30): ("any class", names),
        (0.30, 0.32, 0.38): ("no class", []),
    }
    limits = [(0.2,) * 3, (0.2,) * 3, (0.25,) * 3, (0.5,) * 3]
    made = [answered(list(p), names, limit) for p, limit in zip(cases, limits, strict=True)]
    write_scores(tmp_path / "scores.csv", made, names, {"sha256": "ab"})
    with open(tmp_path / "scores.csv", newline="") as file:
        assert [row["set"] for row in csv.DictReader(file)] == [words for words, _ in cases.values()]
    told = json.loads((tmp_path / "scores.json").read_text())["studies"]
    assert [row["set"] for row in told] == [listed for _, listed in cases.values()]
    assert read_scores(tmp_path / "scores.csv") == made


def test_each_label_has_a_set(tmp_path: Path) -> None:
    names, p = ["b", "a", "c"], [0.9, 0.5, 0.2]
    for limits, words in (
        ((0.3, 0.3), ("present", "present or absent", "absent")),
        ((0.6, 0.6), ("present", "neither", "absent")),
    ):
        one = answered(p, names, limits, multi_label=True)
        assert one.sets_in_words == words
        write_scores(tmp_path / "scores.csv", [one], names, {"sha256": "ab"}, multi_label=True)
        with open(tmp_path / "scores.csv", newline="") as file:
            (row,) = csv.DictReader(file)
        assert tuple(row[f"set_{name}"] for name in names) == words
        assert read_scores(tmp_path / "scores.csv") == [one]
    assert one.row()["set"] == {"b": ["present"], "a": [], "c": ["absent"]}


def test_a_student_without_sets_says_none(tmp_path: Path) -> None:
    one = Prediction("1", model="ab").answered([0.1, 0.9], ["a", "b"], False, "", [], Decision.of(None, "ab"))
    write_scores(tmp_path / "scores.csv", [one], ["a", "b"], {"sha256": "ab"})
    with open(tmp_path / "scores.csv", newline="") as file:
        assert [row["set"] for row in csv.DictReader(file)] == [""]
    assert "set" not in one.row()
    assert read_scores(tmp_path / "scores.csv") == [one]


def test_a_decision_is_stored_for_one_model() -> None:
    p, y = drawn(np.random.default_rng(3), 300)
    made = Decision.fit(p, y)
    stored = json.loads(json.dumps({"model_sha256": "ab", **made.stored()}))
    assert (stored["level"], stored["operating_points"]) == (0.9, [])
    assert Decision.of(stored, "ab") == made
    with pytest.raises(ValueError, match=r"another model\.pt"):
        Decision.of(stored, "cd")
