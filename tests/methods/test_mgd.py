from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.methods import build_method
from monai_rd.methods.base import Step
from monai_rd.methods.mgd import MaskedGenerativeDistillation
from monai_rd.networks import FrozenFoundationModel, Level, Preprocessing, Student
from tests.methods.steps import Head, assert_learns, assert_restores, ends, learnt, taught, tiny_teacher

# Widths of the last maps of teachers and students, and MGD's parameters in millions for each pair.
TEACHERS = {"resnet50": 2048, "densenet121": 1024, "vit_b": 768}
STUDENTS = {"resnet18": 512, "mobilenet_v2": 1280, "shufflenet_v2_x1_0": 1024}
MILLIONS = {"resnet50": (76.6, 78.1, 77.6), "densenet121": (19.4, 20.2, 18.9), "vit_b": (11.0, 11.6, 11.4)}

G = nn.Linear(2, 2)


def last(channels: int, stride: int = 32) -> Level:
    return Level("last", channels, stride, 1.0, signed=False)


def term(method: MaskedGenerativeDistillation, student: Tensor, tap: Tensor) -> Tensor:
    return method(Step(learnt(torch.zeros(2, 2), G, (student,)), taught(tap), Head(G), torch.tensor([0, 1])))[
        "mgd"
    ].detach()


@pytest.mark.parametrize(("mask", "shape"), [("channels", (4, 5, 1, 1)), ("pixels", (4, 1, 3, 3))])
def test_the_term_is_the_sum_of_squares_of_what_is_generated_from_the_rest(mask: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    method = MaskedGenerativeDistillation(*ends(5, last_map=last(4)), mask=mask, mask_ratio=0.5)
    student, tap = torch.randn(4, 4, 3, 3), torch.randn(2, 2, 5, 6, 6)  # bags of two slices
    torch.manual_seed(7)
    found = term(method, student, tap)
    torch.manual_seed(7)
    masked = torch.rand(shape) < 0.5
    assert 0 < masked.sum() < masked.numel()
    hidden = torch.einsum("nchw,dc->ndhw", student, method.align.weight[:, :, 0, 0])
    hidden = (hidden + method.align.bias.view(1, -1, 1, 1)).masked_fill(masked, 0.0)
    first, second = method.generator[0], method.generator[2]
    made = F.conv2d(hidden, first.weight, first.bias, padding=1).relu()
    made = F.conv2d(made, second.weight, second.bias, padding=1).detach()
    total = 0.0
    for number in range(4):
        wanted = tap[number // 2, number % 2].unflatten(1, (3, 2)).unflatten(3, (3, 2)).mean(dim=(2, 4))
        total += float(((made[number] - wanted) ** 2).sum())
    assert found.item() == pytest.approx(total / 4, rel=1e-5)


def test_the_larger_student_is_pooled_too_and_equal_widths_need_no_alignment() -> None:
    torch.manual_seed(0)
    method = MaskedGenerativeDistillation(*ends(5, last_map=last(5)), mask_ratio=0.0)
    assert isinstance(method.align, nn.Identity)
    student, tap = torch.randn(2, 5, 8, 8), torch.randn(2, 5, 4, 4)
    pooled = student.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(term(method, student, tap), ((method.generator(pooled) - tap) ** 2).sum() / 2)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_parameters_of_each_pair(teacher: str) -> None:
    for (name, channels), millions in zip(STUDENTS.items(), MILLIONS[teacher], strict=True):
        with torch.device("meta"):
            method = MaskedGenerativeDistillation(*ends(TEACHERS[teacher], last_map=last(channels)))
        assert round(sum(p.numel() for p in method.parameters()) / 1e6, 1) == millions, name


@pytest.mark.parametrize(("student", "amp"), [("small", True), ("small_3d", False), ("mobilenet_v2", False)])
def test_every_parameter_learns(student: str, amp: bool) -> None:
    assert_learns("mgd", student, amp=amp)


def test_its_state_is_all_it_needs() -> None:
    assert_restores("mgd")


def test_what_has_no_map_is_refused() -> None:
    student = Student("shufflenet_v2_x1_0")
    plain = Preprocessing(None, (0.0,) * 3, (1.0,) * 3)
    vectors = FrozenFoundationModel(nn.Flatten(), channels=4, kind="vector", preprocessing=plain, name="vendor")
    with pytest.raises(ValueError, match="'mgd' needs the teacher's features as a map, and 'vendor' gives vectors"):
        build_method("mgd", student, vectors, [0, 1])
    student.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="'mgd' works on the map whose mean is the student's features"):
        build_method("mgd", student, tiny_teacher(), [0, 1])
    with pytest.raises(ValueError, match="mask is 'channels' or 'pixels'"):
        MaskedGenerativeDistillation(*ends(5, last_map=last(4)), mask="rows")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mask_ratio"):
        MaskedGenerativeDistillation(*ends(5, last_map=last(4)), mask_ratio=1.0)
