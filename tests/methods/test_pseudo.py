"""Soft pseudo-labels on unlabelled images."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from monai_rd.methods.base import Step
from monai_rd.methods.pseudo import PseudoLabels
from monai_rd.networks import Student, StudentFeatures, TeacherFeatures
from monai_rd.no_label import NO_LABEL
from tests.methods.steps import SEVERAL, Head, ends


def one_step(method: PseudoLabels, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    seen = StudentFeatures(torch.zeros(len(student), 3, 4, 4), torch.zeros(len(student), 2), student)
    network = cast(Student, Head(nn.Linear(2, student.shape[1])))
    return method(Step(seen, TeacherFeatures({"logits": teacher}), network, target))["pseudo_ce"]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_cross_entropy_of_the_unlabelled_items_alone(temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    target = torch.tensor([0, 1, NO_LABEL, NO_LABEL, NO_LABEL])
    found = one_step(PseudoLabels(*ends(), temperature=temperature), student, teacher, target)
    p, log_q = (teacher[2:] / temperature).softmax(1), (student[2:] / temperature).log_softmax(1)
    torch.testing.assert_close(found, -(p * log_q).sum(1).mean())
    student[:2] += 5  # labelled ones
    torch.testing.assert_close(
        one_step(PseudoLabels(*ends(), temperature=temperature), student, teacher, target), found
    )


def test_several_classes_an_image() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 2), torch.randn(3, 2)
    target = torch.tensor([[0.0, 1.0], [NO_LABEL, NO_LABEL], [NO_LABEL, NO_LABEL]])
    p, q = teacher[1:].sigmoid(), student[1:].sigmoid()
    expected = -(p * q.log() + (1 - p) * (1 - q).log()).mean()
    torch.testing.assert_close(one_step(PseudoLabels(*ends(labels=SEVERAL)), student, teacher, target), expected)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        PseudoLabels(*ends(), temperature=0)
