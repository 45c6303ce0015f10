"""Operating points reach on the validation set what was asked, and decide what is said everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image
from scipy.stats import binomtest

from monai_rd.bundle import bundle_config
from monai_rd.errors import original_error
from monai_rd.files import sha256
from monai_rd.inference import Decision, Prediction, Predictor, TrainedBundle
from monai_rd.operating_point import OperatingPoint, check_operating_point
from monai_rd.report import LabelledReport, classification_metrics, multi_label_metrics
from tests.trained import trained_files


def drawn(seed: int, n: int, decimals: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = random.random(n) < 0.4
    return np.round(random.beta(np.where(y, 3, 1), np.where(y, 1.5, 3)), decimals), y


@pytest.mark.parametrize("decimals", [7, 1])  # 1: many ties
@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("measure", ["sensitivity", "specificity"])
def test_reaches_what_is_asked_and_no_better_threshold_does(measure: str, share: float, decimals: int) -> None:
    for seed in range(20):
        p, y = drawn(seed, 100, decimals)
        found = OperatingPoint.fit(f"{measure} {share}", p, y)
        said = p >= found.threshold
        reached = {"sensitivity": said[y], "specificity": ~said[~y]}
        for name, hits in reached.items():
            told = getattr(found, name)
            assert (told["value"], told["n"]) == (hits.mean(), len(hits))
            interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
            assert told["interval"] == [interval.low, interval.high]
        assert reached[measure].mean() >= share
        side, wrong = reached[measure], (~reached[measure]).sum()
        most = max(np.floor(round((len(side) + 1) * (1 - share), 9)) - 1, 0)
        assert wrong <= most
        better = p[p > found.threshold].min(initial=2) if measure == "sensitivity" else p[p < found.threshold].max()
        said = p >= better
        assert (~said[y] if measure == "sensitivity" else said[~y]).sum() > most


@pytest.mark.parametrize("n", [20, 45, 200])
@pytest.mark.parametrize("measure", ["sensitivity", "specificity"])
def test_new_studies_reach_it_in_the_mean(measure: str, n: int) -> None:
    random, share, reached = np.random.default_rng(n), 0.9, []
    for _ in range(1000):
        p = random.random(n + 50)  # of the side that is asked
        y = np.full(n, measure == "sensitivity")
        found = OperatingPoint.fit(f"{measure} {share}", p[:n], y)
        said = np.round(p[n:], 7) >= found.threshold
        reached.append((said if measure == "sensitivity" else ~said).mean())
    k = int((n + 1) * (1 - share) + 1e-9)
    assert 1 - k / (n + 1) >= share
    assert np.mean(reached) == pytest.approx(1 - k / (n + 1), abs=4 * np.std(reached) / np.sqrt(1000))


def test_no_study_of_the_side_that_is_asked() -> None:
    none = np.zeros(10, bool)
    assert OperatingPoint.fit("sensitivity 0.9", np.linspace(0, 1, 10), none) is None
    found = OperatingPoint.fit("specificity 0.9", np.linspace(0, 0.9, 10), none)
    assert (found.threshold, found.sensitivity) == (0.9000001, None)
    y = np.stack([none, np.arange(10) < 5], axis=1)
    decision = Decision.fit(np.full((10, 2), 0.6), y, multi_label=True, operating_point="sensitivity 0.9")
    assert [one and one.threshold for one in decision.points] == [None, 0.6]
    assert decision.chosen([[0.55, 0.55], [0.45, 0.6]], multi_label=True).tolist() == [[True, False], [False, True]]
    assert decision.points_in_words("ab") == ("b from a probability of 0.6 on (sensitivity 0.9 on the validation set)",)


@pytest.mark.parametrize("word", ["", "sensitivity", "Sensitivity 0.9", "sensitivity 0", "specificity 1.01", "auc 0.9"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"such as 'sensitivity 0.95', with a share above 0 and at most 1, got {word!r}")
    ):
        check_operating_point(word, 2, multi_label=False)


def test_of_more_than_two_classes_none_is_positive() -> None:
    check_operating_point(None, 4, multi_label=False)
    check_operating_point("specificity .9", 4, multi_label=True)
    with pytest.raises(ValueError, match="of 4 classes, of which each study has one, the most probable is said"):
        check_operating_point("specificity 0.9", 4, multi_label=False)


def test_metrics_follow_it() -> None:
    p, y = drawn(1, 300)
    both = np.stack([1 - p, p], axis=1)
    decision = Decision.fit(both, y.astype(int), operating_point="sensitivity 0.95")
    found = classification_metrics(both, y.astype(int), chosen=decision.chosen(both))
    assert found["sensitivity"]["value"] == decision.points[0].sensitivity["value"] >= 0.95
    assert found["specificity"]["value"] == decision.points[0].specificity["value"]
    assert found["roc_auc"] == classification_metrics(both, y.astype(int))["roc_auc"]
    labels = np.stack([y, ~y], axis=1).astype(int)
    decision = Decision.fit(both[:, ::-1], labels, multi_label=True, operating_point="specificity 0.9")
    several = multi_label_metrics(both[:, ::-1], labels, decision.chosen(both[:, ::-1], multi_label=True))
    for one, point in zip(several["classes"], decision.points, strict=True):
        assert one["specificity"]["value"] == point.specificity["value"] >= 0.9


def test_a_stored_one_is_the_same() -> None:
    p, y = drawn(2, 80)
    for multi_label, labels in ((False, y.astype(int)), (True, np.stack([y, np.zeros_like(y)], axis=1))):
        made = Decision.fit(np.stack([1 - p, p], axis=1), labels, multi_label, "sensitivity 0.9")
        stored = json.loads(json.dumps({"model_sha256": "ab", **made.stored()}))
        assert Decision.of(stored, "ab") == made


def test_bundles_and_their_reports_follow_it(tmp_path: Path) -> None:
    """A threshold above what the student says of any image: nothing is the second class."""
    root = trained_files(tmp_path)
    settings = json.loads((root / "models" / "settings.json").read_text())
    for name in ("clear", "opacity"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            noise = np.random.default_rng(number).integers(0, 255, (40, 40), np.uint8)
            Image.fromarray(noise).save(tmp_path / "data" / name / f"{number}{name}.png")
    before = Predictor(TrainedBundle("rd_ct", bundle_root=str(root), device="cpu"))(tmp_path / "data")
    highest, lowest = (edge(one.probabilities["opacity"] for one in before) for edge in (max, min))
    for threshold, expected in ((highest + 1e-6, "clear"), (lowest, "opacity")):
        point = OperatingPoint("sensitivity 0.95", threshold, None, None)
        stored = {"model_sha256": sha256(root / "models" / "model.pt"), **Decision(points=(point,)).stored()}
        (root / "models" / "settings.json").write_text(json.dumps({**settings, "decision": stored}))
        predictor = Predictor(TrainedBundle("rd_ct", bundle_root=str(root), device="cpu"))
        found: list[Prediction] = predictor(tmp_path / "data")
        assert {one.classes for one in found} == {(expected,)}
        assert [one.probabilities for one in found] == [one.probabilities for one in before]
        told = f"threshold=opacity from a probability of {threshold:.4g}"
        assert any(parameter.startswith(told) for parameter in predictor.algorithm.parameters)


def test_labelled_studies_are_measured_by_it(tmp_path: Path) -> None:
    p, y = drawn(3, 60)
    both = np.stack([1 - p, p], axis=1)
    decision = Decision.fit(both, y.astype(int), operating_point="sensitivity 1")
    evaluator = Engine(lambda engine, items: [{"pred": torch.tensor(both[one["place"]])} for one in items])
    LabelledReport(tmp_path / "metrics.json", ["clear", "opacity"], decision=decision).attach(evaluator)
    items = [
        {"place": place, "label": int(label), "problem": "", "sex": "FM"[place % 2]} for place, label in enumerate(y)
    ]
    evaluator.run([items])
    told = json.loads((tmp_path / "metrics.json").read_text())
    for one in (told["metrics"], *told["groups"]["sex"].values()):
        assert one["sensitivity"]["value"] == 1
    assert told["metrics"]["specificity"]["value"] == decision.points[0].specificity["value"]


def test_a_training_of_more_classes_refuses_it_at_the_start(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for number in range(10):
            noise = np.random.default_rng([number, ord(name)]).integers(0, 255, (40, 40), np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{number}.png")
    given = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "eval"), "operating_point": "sensitivity 0.9"}
    config = bundle_config("rd_ct", given)
    with pytest.raises(RuntimeError) as caught:
        config.get_parsed_content("initialize#7")
    assert "of 3 classes, of which each study has one" in str(original_error(caught.value))
