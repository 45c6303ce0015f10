"""Every method with the teachers and students of the paper."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from monai_rd.methods import parameter_groups
from monai_rd.methods.base import Step
from monai_rd.networks import FrozenFoundationModel, Reads, Student, StudentFeatures, TeacherFeatures, load_teacher
from monai_rd.networks.levels import Level, LevelReader
from tests.methods.test_every_method import EVERY, SINGLE, assert_all_learn, built, fitted, loss_of
from tests.networks.teacher.zoo import published

STUDENTS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x1_0")
TEACHERS = ("pmc_clip", "radimagenet_densenet121", "lvm_med_vit_b")  # the paper's


class Seen(NamedTuple):
    """A teacher that has looked at the batch, and its place among the teachers."""

    number: int
    teacher: FrozenFoundationModel
    features: TeacherFeatures
    maps: dict[Level, Tensor]


@pytest.fixture(scope="module", params=TEACHERS)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    path, _ = published.write(tmp_path_factory.mktemp(request.param), request.param)
    teacher = fitted(load_teacher(request.param, path))
    path.unlink()
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 32, 32, generator=generator)
    read = teacher.read(image, Reads(tap=True, pooled=True, logits=True, levels=teacher.levels))

    def eight(two: Tensor) -> Tensor:
        """For a batch of eight images: noise tells apart what is that of two."""
        four = two.repeat(4, *[1] * (two.dim() - 1))
        return four * (1 + 0.1 * torch.randn(four.shape, generator=generator))

    features = TeacherFeatures.of(
        tap=eight(read.tap),
        pooled=eight(read.pooled),
        maps=[eight(one) for one in read.maps],
        logits=eight(read.logits),
    )
    return Seen(TEACHERS.index(request.param), teacher, features, dict(zip(teacher.levels, features.maps, strict=True)))


@pytest.fixture(scope="module")
def students() -> list[Student]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [Student(name, 3) for name in STUDENTS]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_an_epoch_with_the_papers_teachers_and_students(name: str, seen: Seen, students: list[Student]) -> None:
    """An epoch of one batch, with AMP or without; every method with both, each teacher and each student."""
    number = list(EVERY).index(name) + seen.number
    fresh, amp = students[number % len(students)], number % 2 == 1
    image = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    target, index = torch.tensor(SINGLE), torch.arange(8)
    method, student = built(name, fresh, seen.teacher, SINGLE)
    optimizer = torch.optim.SGD(parameter_groups(student, method), lr=1e-4)
    dtype = torch.bfloat16 if amp else torch.float32
    taught = TeacherFeatures.of(
        tap=seen.features.tap.to(dtype),
        pooled=seen.features.pooled.to(dtype),
        maps=[seen.maps[one].to(dtype) for one in method.reads.levels],
        logits=seen.features.logits.to(dtype),
    )
    with torch.autocast("cpu", torch.bfloat16) if amp else nullcontext():
        with LevelReader(student.backbone, method.student_levels) as reader:
            pooled = student.features(image)
            features = StudentFeatures(image, pooled, student.classifier(pooled), reader.take())
        terms = method(Step(features, taught if method.needs_teacher else None, student, target, index))
    loss = loss_of(method, terms, features.logits, target)
    assert_all_learn(student, method, loss, f"{student.name}, amp {amp}:")
    optimizer.step()
    moved = [p.sum().isfinite() for part in (student, method) for p in part.parameters() if p.requires_grad]
    assert all(moved)
