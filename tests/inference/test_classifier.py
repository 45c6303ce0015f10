"""Prepare, infer, answer: the same of a student in every form, alone and among others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose
from PIL import Image

from monai_rd.inference import Predictor, Preparation, StudyClassifier, TrainedBundle, infer
from monai_rd.losses import class_probabilities
from monai_rd.networks import Student
from tests.dicom_files import make_series
from tests.trained import CLASS_NAMES, trained_bundle


def student(name: str, classes: int = 3) -> Student:
    torch.manual_seed(0)
    made = Student(name, classes).eval()
    made.temperature.fill_(0.5)
    return made


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet18", (2, 4, 3, 32, 32)), ("resnet18", (2, 3, 32, 32)), ("resnet10_3d", (2, 1, 32, 32, 32))],
)
def test_a_student_says_the_same_in_every_form(name: str, shape: tuple[int, ...], multi_label: bool) -> None:
    network, image = student(name), torch.rand(shape, generator=torch.Generator().manual_seed(1))
    found = infer(network, image, multi_label)
    with torch.inference_mode():
        torch.testing.assert_close(found.study, class_probabilities(network(image), multi_label))
    forms = {
        "TorchScript": torch.jit.script(network),
        "a function to probabilities": lambda image: class_probabilities(network(image), multi_label),
    }
    for form in forms.values():
        other = infer(form, image, multi_label)
        torch.testing.assert_close(other.study, found.study, atol=1e-6, rtol=0)
        assert (other.slices is None) == (found.slices is None)
        if found.slices is not None:
            torch.testing.assert_close(other.slices, found.slices, atol=1e-6, rtol=0)
    if name == "resnet10_3d":
        assert found.slices is None
        return
    slices = 4 if len(shape) == 5 else 1
    assert found.slices is not None
    assert found.slices.shape == (2, slices, 3)
    logits = (found.slices.logit() if multi_label else found.slices.log()).mean(dim=1)
    torch.testing.assert_close(class_probabilities(logits, multi_label), found.study, atol=1e-5, rtol=0)


def classifier() -> StudyClassifier:
    prepare = Preparation(Compose([lambda item: item]), (1, 3, 32, 32), {"default": "skip"})
    return StudyClassifier(student("resnet18"), prepare, CLASS_NAMES, model_sha256="ab")


def prepared(name: str, slices: int, **more: Any) -> dict[str, Any]:
    image = torch.rand(slices, 3, 32, 32, generator=torch.Generator().manual_seed(slices))
    return {"id": name, "flags": "", "files": (Path("x"),), "problem": "", "message": "", "image": image, **more}


def test_a_picture_among_studies_is_answered_as_if_alone() -> None:
    known = classifier()
    items = [prepared("study", 4), prepared("picture", 1, flags="WRONG_BODY_PART")]
    answers = [known.answer(item, found) for item, found in zip(items, known.infer(items), strict=True)]
    assert [len(one.slices) for one in answers] == [4, 1]
    assert answers[1].flags == ("WRONG_BODY_PART",)
    for item, answer in zip(items, answers, strict=True):
        alone = known.answer(item, *known.infer([item]))
        assert list(alone.probabilities.values()) == pytest.approx(list(answer.probabilities.values()), abs=1e-6)
        assert (alone.id, alone.model, alone.files, alone.classes) == (item["id"], "ab", (Path("x"),), answer.classes)


def test_a_problem_is_an_answer_without_probabilities() -> None:
    answer = classifier().answer(prepared("1", 1, problem="UNREADABLE_IMAGE", message="it is torn"), None)
    assert (answer.problem, answer.message, dict(answer.probabilities)) == ("UNREADABLE_IMAGE", "it is torn", {})


def test_an_iteration_of_monais_evaluator_is_infer_and_answer() -> None:
    known, seen = classifier(), []
    items = [prepared("a", 2), prepared("b", 2, problem="UNREADABLE_IMAGE", message="it is torn")]
    evaluator = SupervisedEvaluator("cpu", [items], known.network, iteration_update=known.step)
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.extend(engine.state.output))
    evaluator.run()
    assert [one["prediction"].problem for one in seen] == ["", "UNREADABLE_IMAGE"]
    assert seen[0]["pred"].tolist() == pytest.approx(list(seen[0]["prediction"].probabilities.values()), abs=1e-6)


def test_folder_after_folder_is_answered_without_reading_the_config_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(TrainedBundle(trained_bundle(tmp_path), device="cpu"))
    asked = []
    parse = ConfigParser.parse
    monkeypatch.setattr(ConfigParser, "parse", lambda *given, **more: (asked.append(1), parse(*given, **more)))
    uid, _ = make_series(tmp_path / "one", shape=(40, 44))
    (tmp_path / "two").mkdir()
    Image.fromarray(np.full((40, 40), 90, np.uint8)).save(tmp_path / "two" / "picture.png")
    (first,), (second,) = predictor(tmp_path / "one"), predictor(tmp_path / "two")
    assert (first.series, second.series, first.problem, second.problem) == (uid, "", "", "")
    assert [len(first.slices), len(second.slices)] == [3, 1]
    assert asked == []


def test_another_network_answers_in_the_students_place(tmp_path: Path) -> None:
    """What is not of the network stays: preprocessing, classes, identity."""
    predictor = Predictor(TrainedBundle(trained_bundle(tmp_path), device="cpu"))
    make_series(tmp_path / "in", shape=(40, 44))
    (before,) = predictor(tmp_path / "in")
    predictor.classifier = replace(
        predictor.classifier, network=lambda image: image.new_tensor([[0.1, 0.2, 0.7]]).repeat(len(image), 1)
    )
    (answer,) = predictor(tmp_path / "in")
    assert dict(answer.probabilities) == pytest.approx(dict(zip(CLASS_NAMES, (0.1, 0.2, 0.7), strict=True)))
    assert (answer.id, answer.model, answer.files) == (before.id, before.model, before.files)
