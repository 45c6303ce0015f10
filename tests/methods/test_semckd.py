from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_rd.methods import build_method
from monai_rd.methods.base import Step
from monai_rd.methods.semckd import SemanticCalibration
from monai_rd.networks import FrozenFoundationModel, Level, Preprocessing, Student, TeacherFeatures
from tests.methods.steps import Head, assert_learns, assert_restores, ends, learnt, tiny_teacher

# Widths of the maps at strides 4, 8, 16, 32, and millions of parameters of the paper's projectors for each pair.
TEACHERS = {"resnet50": (256, 512, 1024, 2048), "densenet121": (256, 512, 1024, 1024), "vit_b": (768,) * 4}
STUDENTS = {"resnet18": (64, 128, 256, 512), "mobilenet_v2": (24, 32, 96, 320), "shufflenet_v2_x1_0": (116, 232, 464)}
MILLIONS = {"resnet50": (854, 850, 641), "densenet121": (374, 371, 281), "vit_b": (365, 362, 274)}


def levels(widths: Sequence[int]) -> list[Level]:
    return [Level(str(i), width, 4 * 2**i, (i + 1) / len(widths), signed=False) for i, width in enumerate(widths)]


def between(student: Sequence[int], teacher: Sequence[int]) -> tuple[Any, Any, Tensor]:
    """What SemCKD is built from: maps of these widths."""
    built = ends()
    built[0].levels, built[1].levels = levels(student), levels(teacher)
    return built


def literal(method: SemanticCalibration, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: int) -> float:
    """The formula, sample by sample, on float64 copies."""
    total = 0.0
    for i, mine in enumerate(student):
        for b in range(batch):
            scores, errors = [], []
            for j, theirs in enumerate(teacher):
                query, key = (
                    embed(torch.tensor([float((maps[b] * maps[other]).sum()) for other in range(batch)]))
                    for embed, maps in ((method.queries[i], mine), (method.keys[j], theirs))
                )
                scores.append((query / query.norm()) @ (key / key.norm()))
                side = min(mine.shape[-1], theirs.shape[-1])
                small, wanted = (
                    maps[b].unflatten(2, (side, -1)).unflatten(4, (side, -1)).mean(dim=(3, 5))
                    for maps in (mine, theirs)
                )
                errors.append(((method.projectors[i][j](small) - wanted) ** 2).mean())  # type: ignore[index, operator]
            total += float((torch.stack(scores).softmax(0) * torch.stack(errors)).sum())
    return total / batch / len(student)


@pytest.mark.parametrize("slices", [1, 2])
def test_the_term_is_that_of_the_formula(slices: int) -> None:
    torch.manual_seed(0)
    batch = 8
    method = SemanticCalibration(*between((3, 4), (5, 6, 7)), batch_size=batch).eval()
    student, teacher = (
        [torch.randn(batch, slices, width, side, side) for width, side in shapes]
        for shapes in (((3, 8), (4, 4)), ((5, 8), (6, 4), (7, 2)))
    )
    g = nn.Linear(2, 2)
    seen = learnt(torch.zeros(batch, 2), g, tuple(maps.flatten(0, 1) for maps in student))
    given = TeacherFeatures.of(maps=[maps.flatten(0, 1) for maps in teacher])
    with torch.no_grad():
        found = method(Step(seen, given, Head(g), torch.arange(batch) % 2))["semckd"]
        assert found.item() == pytest.approx(literal(method, student, teacher, batch), rel=1e-4)


def test_every_map_is_taught_by_all_of_the_teachers_to_a_sum_of_one() -> None:
    torch.manual_seed(0)
    method = SemanticCalibration(*between((3, 4), (5, 6, 7)), batch_size=16)
    student, teacher = ([torch.randn(16, width, 4, 4) for width in widths] for widths in ((3, 4), (5, 6, 7)))
    attention = method._attention(student, teacher)
    assert attention.shape == (16, 2, 3)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(16, 2))
    assert attention.std(dim=2).min() > 1e-4


@pytest.mark.parametrize("teacher", TEACHERS)
def test_parameters_of_each_pair(teacher: str) -> None:
    for (name, widths), millions in zip(STUDENTS.items(), MILLIONS[teacher], strict=True):
        with torch.device("meta"):
            paper = SemanticCalibration(*between(widths, TEACHERS[teacher]), batch_size=32, width_factor=2)
            ours = SemanticCalibration(*between(widths, TEACHERS[teacher]), batch_size=32)
        assert round(sum(p.numel() for p in paper.parameters()) / 1e6) == millions, name
        stated = {"resnet50": 19, "densenet121": 9, "vit_b": 8}[teacher]
        if name == "resnet18":
            assert round(sum(p.numel() for p in ours.parameters()) / 1e6) == stated


@pytest.mark.parametrize(("student", "amp"), [("small", True), ("small_3d", False), ("resnet18", False)])
def test_every_parameter_learns(student: str, amp: bool) -> None:
    assert_learns("semckd", student, {"batch_size": 8}, amp=amp)


def test_its_state_is_all_it_needs() -> None:
    assert_restores("semckd", {"batch_size": 8})


def test_what_cannot_work_is_refused() -> None:
    student, teacher = Student("shufflenet_v2_x1_0"), tiny_teacher()
    with pytest.raises(ValueError, match="'semckd' has layers as wide as a batch: give build_method the batch_size"):
        build_method("semckd", student, teacher, [0, 1])
    with pytest.raises(ValueError, match="at least 8, got batch_size 4"):
        build_method("semckd", student, teacher, [0, 1], {"batch_size": 4})
    with pytest.raises(ValueError, match="width_factor"):
        build_method("semckd", student, teacher, [0, 1], {"batch_size": 8, "width_factor": 0})
    plain = Preprocessing(None, (0.0,) * 3, (1.0,) * 3)
    closed = FrozenFoundationModel(nn.Flatten(), channels=4, kind="vector", preprocessing=plain, name="vendor")
    with pytest.raises(ValueError, match="the teacher 'vendor' has no feature maps"):
        build_method("semckd", student, closed, [0, 1], {"batch_size": 8})
    method = build_method("semckd", student, teacher, [0, 1], batch_size=8)
    g, stored = nn.Linear(2, 2), TeacherFeatures.of(tap=torch.zeros(8, 8, 2, 2))
    with pytest.raises(ValueError, match="built for batches of 8, got 6"):
        method(Step(learnt(torch.zeros(6, 2), g), stored, Head(g), torch.zeros(6)))
    student.stages = []
    with pytest.raises(ValueError, match="the student 'shufflenet_v2_x1_0' has no feature maps"):
        build_method("semckd", student, teacher, [0, 1], {"batch_size": 8})
