from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from monai_rd.methods import build_method
from monai_rd.methods.base import Step
from monai_rd.methods.kd import KnowledgeDistillation
from monai_rd.networks import Student, StudentFeatures, TeacherFeatures
from tests.methods.steps import SEVERAL, Head, ends, tiny_teacher


def _term(method: KnowledgeDistillation, student: torch.Tensor, teacher: torch.Tensor) -> float:
    empty = torch.zeros(len(student), 1)
    seen = StudentFeatures(empty, empty, student), TeacherFeatures.of(logits=teacher)
    return method(Step(*seen, Head(nn.Linear(1, 1)), torch.zeros(len(student))))["kd"].item()


def _kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_is_the_formula_of_hinton() -> None:
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(5, 4), 3 * torch.randn(5, 4)
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(z / 4) / sum(math.exp(other / 4) for other in row) for z in row] for row in (theirs, ours))
        total += 16 * _kl(p, q)
    assert _term(KnowledgeDistillation(*ends()), student, teacher) == pytest.approx(total / 5, rel=1e-5)


def test_multi_label_is_by_class() -> None:
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(5, 4), 3 * torch.randn(5, 4)
    total = 0.0
    for ours, theirs in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        p, q = (1 / (1 + math.exp(-z / 2)) for z in (theirs, ours))
        total += 4 * _kl([p, 1 - p], [q, 1 - q])
    assert _term(KnowledgeDistillation(*ends(labels=SEVERAL), temperature=2.0), student, teacher) == pytest.approx(
        total / 20, rel=1e-5
    )


def test_weights_are_constant_and_a_teacher_without_logits_is_refused() -> None:
    method = KnowledgeDistillation(*ends(), ce_weight=0.1, kd_weight=0.9)
    assert method.weights(0.0) == method.weights(1.0) == {"student_ce": 0.1, "kd": 0.9}
    with pytest.raises(ValueError, match="needs a teacher that gives logits, which 'tiny' does not"):
        build_method("kd", Student("shufflenet_v2_x1_0"), tiny_teacher(), [0, 1])
