"""What holds of every method in `METHODS`, and each of them with the paper's teachers and students."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch import distributed as dist

from monai_rd.losses import ClassificationLoss
from monai_rd.methods import METHODS, Method, build_method
from monai_rd.networks import (
    FrozenFoundationModel,
    Student,
    StudentFeatures,
    TeacherFeatures,
    VolumePreprocessing,
    load_teacher,
)
from monai_rd.networks.levels import Level, LevelReader
from tests.methods.steps import step, tiny_teacher
from tests.networks import published

STUDENTS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x1_0")
TEACHERS = ("pmc_clip", "radimagenet_densenet121", "lvm_med_vit_b")  # the paper's
# The loss is a sum over samples or pairs of them: neither their order nor chance enters.
ORDERLESS = ("rd", "at", "hint", "kd", "rkd", "sp", "vid")
SINGLE, MULTI = [0, 1, 2, 0], [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


class Volumes(nn.Sequential):
    """A teacher of volumes that halves its maps: strides 2, 4 and 8."""

    stages = ("0", "1", "2")

    def __init__(self) -> None:
        layers = (nn.Sequential(nn.Conv3d(a, b, 3, 2, 1), nn.BatchNorm3d(b)) for a, b in pairwise((1, 4, 6, 8)))
        super().__init__(*layers)


def fitted(teacher: FrozenFoundationModel, classes: int = 3) -> FrozenFoundationModel:
    """The teacher with logits."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        object.__setattr__(teacher, "head", nn.Linear(teacher.channels, classes).requires_grad_(False))
    return teacher


@pytest.fixture(scope="module", params=[2, 3], ids=["images", "volumes"])
def teacher(request: pytest.FixtureRequest) -> FrozenFoundationModel:
    if request.param == 2:
        return fitted(tiny_teacher())
    with torch.random.fork_rng():
        torch.manual_seed(5)
        backbone = Volumes()
    plain = VolumePreprocessing(32)
    return fitted(FrozenFoundationModel(backbone, channels=8, kind="map", preprocessing=plain, name="tiny"))


@pytest.fixture(scope="module")
def pair(teacher: FrozenFoundationModel) -> tuple[Student, FrozenFoundationModel, Tensor]:
    """A student, its teacher and a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if teacher.spatial_dims == 2:
            return Student("shufflenet_v2_x1_0", 3), teacher, torch.rand(4, 3, 64, 64)
        return Student("resnet10_3d", 3), teacher, torch.rand(4, 1, 32, 32, 32)


def built(name: str, student: Student, teacher: FrozenFoundationModel, labels: list[object]) -> tuple[Method, Student]:
    """The method, and a student prepared for it."""
    torch.manual_seed(1)
    student = deepcopy(student)
    method = build_method(name, student, teacher, labels)
    return method, method.prepare(student)


def loss_of(method: Method, terms: dict[str, Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """The whole loss of a step in the first epoch, as the handler adds it up."""
    weights = method.weights(0.0)
    assert terms.keys() == weights.keys() - {"student_ce"}
    cross_entropy = weights.get("student_ce", 1.0) * ClassificationLoss(target.dim() == 2)(logits, target)
    return cross_entropy + sum(weights[name] * term for name, term in terms.items())


def assert_all_learn(student: nn.Module, method: nn.Module, loss: Tensor, where: str = "") -> None:
    """Every trainable parameter gets a finite gradient."""
    student.zero_grad(), method.zero_grad()
    loss.backward()
    assert loss.isfinite(), where
    for key, parameter in [*student.named_parameters(), *method.named_parameters()]:
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{where} {key}"
            assert parameter.grad.isfinite().all(), f"{where} {key}"


@pytest.mark.parametrize("labels", [SINGLE, MULTI], ids=["single", "multi-label"])
@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_learns(
    name: str, labels: list[object], pair: tuple[Student, FrozenFoundationModel, Tensor]
) -> None:
    student, teacher, image = pair
    method, student = built(name, student, teacher, labels)
    target = torch.tensor(labels)
    terms = step(method, student, teacher, image, target, torch.arange(4))
    assert_all_learn(student, method, loss_of(method, terms, student(image), target))
    assert not any(parameter.requires_grad for parameter in teacher.backbone.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", METHODS)
def test_autocast_is_near_full_precision(name: str, pair: tuple[Student, FrozenFoundationModel, Tensor]) -> None:
    student, teacher, image = pair
    method, student = built(name, student, teacher, SINGLE)
    found = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms = step(deepcopy(method), deepcopy(student), teacher, image, torch.tensor(SINGLE), torch.arange(4))
        assert all(term.dtype == torch.float32 for term in terms.values())
        found.append(terms)
    for key, term in found[0].items():
        torch.testing.assert_close(found[1][key], term, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("name", METHODS)
def test_state_goes_on_where_it_was(name: str, pair: tuple[Student, FrozenFoundationModel, Tensor]) -> None:
    student, teacher, image = pair
    method, student = built(name, student, teacher, SINGLE)
    target, index = torch.tensor(SINGLE), torch.arange(4)
    step(method, student, teacher, image, target, index)
    torch.manual_seed(3)
    again = build_method(name, pair[0], teacher, SINGLE)
    again.load_state_dict(method.state_dict())
    found = []
    for one in (method, again):
        torch.manual_seed(4)
        found.append(step(one, deepcopy(student), teacher, image, target, index))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ORDERLESS)
def test_the_order_of_the_batch_does_not_count(name: str, pair: tuple[Student, FrozenFoundationModel, Tensor]) -> None:
    student, teacher, image = pair
    method, student = built(name, student, teacher, SINGLE)
    order = torch.tensor([2, 0, 3, 1])
    plain = step(deepcopy(method), student, teacher, image, torch.tensor(SINGLE))
    moved = step(deepcopy(method), student, teacher, image[order], torch.tensor(SINGLE)[order])
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_study_of_equal_slices_is_as_good_as_one(name: str) -> None:
    """Bags go through every method."""
    teacher = fitted(tiny_teacher())
    method, student = built(name, Student("shufflenet_v2_x1_0", 3), teacher, SINGLE)
    bags, target = torch.rand(4, 3, 3, 64, 64), torch.tensor(SINGLE)
    terms = step(method, student, teacher, bags, target, torch.arange(4))
    assert_all_learn(student, method, loss_of(method, terms, student(bags), target))


# --- two processes ---------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A student without BatchNorm, whose statistics would be each process's own."""

    name, spatial_dims, stages, prefix, fixed_size, patch = "plain", 2, ("0", "1", "2"), 0, (), 1
    feature_dim = 8

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.Tanh()) for a, b in pairwise((3, 5, 7, 8)))
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(8, 3)
        self.register_buffer("mean", torch.zeros(1))

    def features(self, image: Tensor) -> Tensor:
        return self.backbone(image)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image))


class Whole(nn.Module):
    """Student and method under one DistributedDataParallel, with the whole loss of a step."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.teacher = fitted(tiny_teacher())
        self.student: Student = Plain()  # type: ignore[assignment]
        self.method = build_method(name, self.student, self.teacher, SINGLE)
        for module in self.method.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        terms = step(self.method, self.student, self.teacher, image, target)
        return loss_of(self.method, terms, self.student(image), target)


DISTRIBUTED = ("at", "hint", "kd", "rkd", "sp", "vid")


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    return torch.rand(8, 3, 32, 32, generator=generator), torch.arange(8) % 3


def _rank(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    image, target = (part[4 * rank : 4 * rank + 4] for part in _batch())
    for name in DISTRIBUTED:
        whole = Whole(name)
        nn.parallel.DistributedDataParallel(whole)(image, target).backward()
        torch.save([parameter.grad for parameter in whole.parameters()], Path(folder) / f"{name}{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """The averaged gradients are those of one process with the whole batch, BatchNorm's statistics left aside."""
    mp.spawn(_rank, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)  # type: ignore[attr-defined]
    for name in DISTRIBUTED:
        whole = Whole(name)
        whole(*_batch()).backward()
        wanted = [parameter.grad for parameter in whole.parameters()]
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True)
            torch.testing.assert_close(
                found, wanted, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name} {text}"
            )


# --- the paper's teachers and students -------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A teacher that has looked at the batch."""

    teacher: FrozenFoundationModel
    features: TeacherFeatures
    maps: dict[Level, Tensor]


@pytest.fixture(scope="module", params=TEACHERS)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    path, _ = published.write(tmp_path_factory.mktemp(request.param), request.param)
    teacher = fitted(load_teacher(request.param, path))
    path.unlink()
    image = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = teacher.read(image, teacher.levels)
    return Seen(teacher, features, dict(zip(teacher.levels, features.maps, strict=True)))


@pytest.mark.parametrize("name", METHODS)
def test_a_step_with_the_papers_teachers_and_students(name: str, seen: Seen) -> None:
    """One training step, without and with AMP; the teacher has looked at the batch once for all of them."""
    image = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    target, index = torch.tensor(SINGLE), torch.arange(4)
    for student_name in STUDENTS:
        torch.manual_seed(0)
        student = Student(student_name, 3)
        method = build_method(name, student, seen.teacher, SINGLE)
        student = method.prepare(student)
        for amp in (False, True):
            dtype = torch.bfloat16 if amp else torch.float32
            tap, pooled, _, logits = (None if x is None or isinstance(x, tuple) else x.to(dtype) for x in seen.features)
            taught = TeacherFeatures(
                tap, pooled, tuple(seen.maps[one].to(dtype) for one in method.teacher_levels), logits
            )
            with torch.autocast("cpu", torch.bfloat16) if amp else nullcontext():
                with LevelReader(student.backbone, method.student_levels) as reader:
                    pooled = student.features(image)
                    features = StudentFeatures(image, pooled, student.classifier(pooled), reader.take())
                terms = method(features, taught if method.needs_teacher else None, student, target, index)
            loss = loss_of(method, terms, features.logits, target)
            assert_all_learn(student, method, loss, f"{student_name}, amp {amp}:")
