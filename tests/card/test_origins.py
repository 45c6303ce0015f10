"""What a student is made of, and what is said of the licences before a training begins."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monai_rd.card import find_origins, licence_chain
from monai_rd.licences import Origin
from monai_rd.networks import load_teacher

FREE = Origin("teacher weights", "a", "MIT", "there", "the zoo")
BOUND = Origin("teacher weights", "b", "CC BY-NC-SA 4.0", "there", "the zoo")
NOBODYS = Origin("teacher weights", "c.onnx")


def found(*teachers: Origin, phantom: bool = False, weights: str | None = None, student: str = "resnet18", **told: Any):
    teacher: Any = SimpleNamespace(origins=teachers) if teachers else None
    return find_origins(teacher, student, weights, phantom, told)


def test_a_training_warns_of_what_is_forbidden_unknown_or_special(caplog: pytest.LogCaptureFixture) -> None:
    assert [one.licence for one in found(FREE)] == ["MIT", ""]
    assert caplog.records == []  # of the data the user knows more than the program
    for teachers, said in (
        ((FREE, BOUND), "commercial use is forbidden by the licence of teacher weights b (CC BY-NC-SA 4.0)"),
        ((FREE, NOBODYS), "no licence is known of teacher weights c.onnx: ask their owner before any use"),
        ((Origin("teacher weights", "d", "Own Terms"),), "read the terms of teacher weights d (Own Terms) before"),
    ):
        caplog.clear()
        found(*teachers)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert said in record.getMessage()
        assert record.getMessage().endswith("; --licences tells one") is (NOBODYS in teachers)
    assert "the model card, exports and reports will say so" in caplog.text


def test_what_the_user_tells_replaces_what_is_known_and_keeps_it(caplog: pytest.LogCaptureFixture) -> None:
    own, data = found(NOBODYS, teacher=" MIT \n", data="contract 17")
    assert (own.licence, own.stated_by, own.commercial_use) == ("MIT", "the user", "allowed")
    assert (data.licence, data.stated_by) == ("contract 17", "the user")
    assert caplog.records == []
    bound, free, _ = found(BOUND, FREE, teacher=["bought: MIT", None])
    assert (bound.commercial_use, bound.terms) == ("unverified", "the zoo states CC BY-NC-SA 4.0")
    assert free == FREE
    chain = licence_chain([bound, free], "resnet18")["chain"]
    assert "The zoo states CC BY-NC-SA 4.0." in chain[0]["follows"]


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"techer": "MIT"}, "licences: 'techer' is none of teacher, student_weights, data .did you mean 'teacher'"),
        ({"teacher": 4}, "the licence of teacher weights must be a text, such as 'MIT', not 4"),
        ({"teacher": "  "}, "must be a text"),
        ({"teacher": ["MIT", "MIT"]}, "teacher has 2 for 1 teachers: give a list in their order"),
        ({"student_weights": "MIT"}, "there are no student_weights"),
    ],
)
def test_wrong_licences_are_refused_before_the_training(told: dict, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        found(FREE, **told)


def test_initial_weights_of_the_student(tmp_path: Path) -> None:
    file = tmp_path / "MUELLER.pt"
    torch.save({}, file)
    own, _ = found(weights=str(file))
    assert (own.what, own.commercial_use) == ("initial weights of the student", "unknown")
    assert "MUELLER" not in str(own.told)
    assert len(own.sha256) == 64
    assert found(weights=str(file), student_weights="MIT")[0].commercial_use == "allowed"
    published = found(weights="imagenet", student="timm:mobilenetv3_small_100")[0]
    assert (published.licence, published.hub) == ("apache-2.0", "timm/mobilenetv3_small_100.lamb_in1k")
    assert found(weights="imagenet")[0].commercial_use == "unknown"  # torchvision states none for weights


def test_a_teacher_that_says_nothing_of_itself_is_unknown() -> None:
    own, _ = find_origins(SimpleNamespace(origins=(), name="own"), "resnet18", None, phantom=False)
    assert (own.name, own.commercial_use) == ("own", "unknown")


def test_a_loaded_teacher_says_where_it_is_from() -> None:
    (one,) = load_teacher("phantom_ct").origins
    assert (one.name, one.licence, one.commercial_use) == ("phantom_ct", "Apache-2.0", "allowed")
    two = load_teacher("phantom_ct,phantom_mr").origins
    assert [origin.name for origin in two] == ["phantom_ct", "phantom_mr"]
    assert two[0] == one
    assert len({origin.sha256 for origin in two}) == 2
