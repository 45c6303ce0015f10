"""Conformal sets by scanner or site cover each of them, and an unknown one gets the most cautious."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from scipy.special import softmax
from scipy.stats import betabinom

from monai_rd.conformal_groups import check_conformal_groups, group_key
from monai_rd.drift import reference_of_training
from monai_rd.inference import ConformalSet, Decision, Prediction
from monai_rd.inference.conformal import excluded
from monai_rd.report import LabelledReport
from monai_rd.report.sets import set_metrics

A, B = "Siemens A", "Philips B"
SIZES = {A: 38, B: 21}  # validation studies of two scanners
TESTS = 100  # studies of each
NAMES = ["clear", "opacity"]


def drawn(random: np.random.Generator, counts: dict[str, int]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Probabilities, labels and scanners: the student is often wrong on images of scanner B."""
    groups = [name for name, count in counts.items() for _ in range(count)]
    labels = random.integers(2, size=len(groups))
    logits = random.normal(size=(len(groups), 2))
    logits[np.arange(len(groups)), labels] += np.where(np.array(groups) == B, 0.0, 3.0)
    return softmax(logits, axis=1), labels, groups


def test_covers_each_scanner_where_one_limit_for_all_does_not() -> None:
    random, hits = np.random.default_rng(0), {"grouped": [], "not": []}
    for _ in range(1000):
        known, new = drawn(random, SIZES), drawn(random, dict.fromkeys(SIZES, TESTS))
        for name, kind in (("grouped", "scanner"), ("not", None)):
            decision = Decision.fit(*known[:2], grouped_by=kind, groups=known[2])
            keys = [decision.group_of({"scanner": one}) for one in new[2]]
            inside = decision.members(new[0], keys)[np.arange(2 * TESTS), 0, new[1]]
            hits[name].append(inside.reshape(2, TESTS).sum(axis=1))
    of_all = np.mean(hits["not"], axis=0) / TESTS
    assert of_all[0] > 0.95
    assert of_all[1] < 0.85
    kinds = {one[0].kind for one in decision_of(random).of_groups.values()}
    assert kinds == {"marginal"}
    for column, n in zip(np.array(hits["grouped"]).T, SIZES.values(), strict=True):
        k = excluded(n)
        expected = betabinom(TESTS, n + 1 - k, k)
        assert expected.mean() >= 0.9 * TESTS
        assert column.mean() == pytest.approx(expected.mean(), abs=4 * expected.std() / np.sqrt(1000))
        low, high = expected.ppf(0.025), expected.ppf(0.975)
        assert ((low <= column) & (column <= high)).mean() == pytest.approx(0.96, abs=0.02)


def decision_of(random: np.random.Generator, kind: str = "scanner", few: int = 19) -> Decision:
    """Two scanners or sites with limits of their own, and one with too few studies."""
    p, y, groups = drawn(random, {**SIZES, "Few": few, "": 5})
    return Decision.fit(p, y, grouped_by=kind, groups=groups)


def test_an_unknown_scanner_has_the_sets_of_all_others_in_its_own() -> None:
    random = np.random.default_rng(1)
    decision = decision_of(random)
    assert set(decision.of_groups) == {A, B}
    assert [one.kind for one in decision.sets] == ["by scanner"]
    assert sum(decision.sets[0].n) == 38 + 21 + 19 + 5
    p = drawn(random, {A: 200})[0]
    cautious = decision.members(p)
    for name in (A, B):
        own = decision.members(p, [name] * 200)
        assert not (own & ~cautious).any()
        assert (own != decision.members(p, [A if name == B else B] * 200)).any()
    assert [decision.group_of({"scanner": one}) for one in (A, "Few", "new", "")] == [A, "", "", ""]
    mixed = decision.members(p[:2], [A, B])
    assert (mixed == [decision.members(p[:1], [A])[0], decision.members(p[1:2], [B])[0]]).all()


def of_one_scanner() -> Decision:
    own, lowest = (ConformalSet(kind, (20, 20), (one, one)) for kind, one in (("marginal", 0.6), ("by scanner", 0.1)))
    return Decision((lowest,), (), "scanner", {A: (own,)})


def test_a_study_of_an_unknown_scanner_is_flagged() -> None:
    decision = of_one_scanner()
    for group, flags, sets in ((A, ("X",), ("opacity",)), ("", ("X", "UNKNOWN_GROUP"), ("clear", "opacity"))):
        one = Prediction("1").answered([0.3, 0.7], NAMES, False, "X", [], decision, group)
        assert one.flags == flags
        assert one.sets == (sets,)
    same = replace(decision, grouped_by=None, of_groups={})
    assert Prediction("1").answered([0.3, 0.7], NAMES, False, "X", [], same).flags == ("X",)


def test_each_label_of_several_is_grouped() -> None:
    random = np.random.default_rng(2)
    y = random.integers(2, size=(60, 3))
    p = np.clip(0.2 + 0.6 * y + random.normal(scale=0.2, size=y.shape), 0, 1)
    groups = [A, B] * 30
    decision = Decision.fit(p, y, multi_label=True, grouped_by="site", groups=groups)
    keys = [decision.group_of({"site": one}) for one in groups]
    alone = Decision.fit(p[::2], y[::2], multi_label=True)
    assert (decision.members(p, keys)[::2] == alone.members(p[::2])).all()
    assert decision.of_groups[group_key("site", A)] == alone.sets
    found = set_metrics(decision, p, y, keys)
    assert [one["n"] for one in found["groups"].values()] == [30, 30, 0]
    assert found["kinds"] == ["by site"] * 3


def test_no_name_of_a_site_and_of_no_small_group_is_stored() -> None:
    decision = decision_of(np.random.default_rng(3), "site")
    stored = json.loads(json.dumps({"model_sha256": "ab", **decision.stored()}))
    assert sorted(stored["of_groups"]) == sorted(group_key("site", one) for one in (A, B))
    assert Decision.of(stored, "ab") == decision
    text = json.dumps(decision_of(np.random.default_rng(3)).stored())
    assert A in text
    assert "Few" not in text
    assert A not in json.dumps(stored)
    assert group_key("scanner", "Doe^Jane") == group_key("site", "Doe^Jane") != group_key("site", "Doe^John")
    assert group_key("site", "") == ""


def test_without_a_scanner_of_enough_studies_all_have_the_same_limits() -> None:
    p, y, _ = drawn(np.random.default_rng(4), {A: 57})
    decision = Decision.fit(p, y, grouped_by="scanner", groups=[A, B, "C"] * 19)
    assert decision == Decision.fit(p, y)
    assert decision.groups_in_words("scanner").startswith("conformal_groups: no scanner has 20 validation studies")
    two = decision_of(np.random.default_rng(4), few=20).groups_in_words("scanner")
    assert f"{A} (n = 38)" in two
    assert f"{group_key('scanner', 'Few')} (n = 20)" in two
    assert "any other scanner has the lowest of all and the flag UNKNOWN_GROUP" in two


def test_metrics_tell_the_coverage_of_each_scanner() -> None:
    decision = of_one_scanner()
    p, y = np.tile([0.7, 0.3], (8, 1)), np.array([0, 0, 1, 1, 0, 1, 1, 1])
    found = set_metrics(decision, p, y, [A] * 4 + [""] * 4)
    assert {key: (told["n"], told["coverage"]["value"]) for key, told in found["groups"].items()} == {
        A: (4, 0.5),
        "": (4, 1.0),
    }
    assert found["coverage"]["value"] == 0.75
    assert set_metrics(Decision(decision.sets), p, y)["groups"] == {}


def test_the_reference_of_drift_knows_scanners() -> None:
    items = [{"image": torch.rand(1, 3, 4, 4), "scanner": name} for name in [A, "new"] * 10]
    made = reference_of_training(items, np.tile([0.3, 0.7], (20, 1)), NAMES, False, of_one_scanner(), "ab", None)
    assert made.categories["flags"] == {"none": 10, "UNKNOWN_GROUP": 10, "other": 0}
    assert made.categories["conformal set"] == {"one class": 10, "abstains": 10, "other": 0}


def test_other_groups_and_lists_without_them_are_refused() -> None:
    check_conformal_groups(None, [])
    check_conformal_groups("site", [{"site": ""}, {"site": "North"}])
    with pytest.raises(ValueError, match=r"'scanner' or 'site' is needed, got 'sex'"):
        check_conformal_groups("sex")
    with pytest.raises(ValueError, match=r"no validation study tells its site: add a column 'site'.*InstitutionName"):
        check_conformal_groups("site", [{"site": "", "scanner": "A"}])


def test_own_labelled_studies_are_measured_by_their_scanners(tmp_path: Path) -> None:
    evaluator = Engine(lambda engine, studies: [{"pred": torch.tensor([0.7, 0.3])} for _ in studies])
    LabelledReport(tmp_path / "metrics.json", NAMES, decision=of_one_scanner()).attach(evaluator)
    evaluator.run([[{"label": n % 2, "problem": "", "scanner": A if n < 4 else "new"} for n in range(10)]])
    told = json.loads((tmp_path / "metrics.json").read_text())["sets"]["groups"]
    assert {key: (one["n"], one["coverage"]["value"]) for key, one in told.items()} == {A: (4, 0.5), "": (6, 1.0)}
