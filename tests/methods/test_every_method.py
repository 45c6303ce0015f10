"""What holds of every method, those that the docs add among them."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from monai_rd.losses import ClassificationLoss
from monai_rd.methods import METHODS, Method, build_method, method_class
from monai_rd.networks import FrozenFoundationModel, Student
from monai_rd.no_label import NO_LABEL
from tests.methods.page import ADDED
from tests.methods.steps import small_student, step, tiny_teacher
from tests.processes import in_two_processes
from tests.small import SMALL

# The loss is a sum over samples or pairs of them: neither their order nor chance enters.
ORDERLESS = ("rd", "at", "hint", "kd", "rkd", "sp", "vid", *ADDED)
OPTIONS = {"semckd": {"batch_size": 8}, "drd": {"width": 16}}  # which are needed, or spare time
EVERY = [*METHODS, *ADDED]
SINGLE = [0, 1, 2, 0, 1, 2, 0, 1]
MULTI = [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]] * 2


def fitted(teacher: FrozenFoundationModel, classes: int = 3) -> FrozenFoundationModel:
    """The teacher with logits."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        object.__setattr__(teacher, "head", nn.Linear(teacher.channels, classes).requires_grad_(False))
    return teacher


class Case(NamedTuple):
    """A student, its teacher and a batch."""

    student: Student
    teacher: FrozenFoundationModel
    image: Tensor


@pytest.fixture(scope="module")
def images() -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Case(Student(SMALL, 3), fitted(tiny_teacher()), torch.rand(8, 3, 64, 64))


@pytest.fixture(scope="module")
def volumes() -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Case(small_student("small_3d", 3), fitted(tiny_teacher(3)), torch.rand(8, 1, 32, 32, 32))


def built(name: str, student: Student, teacher: FrozenFoundationModel, labels: list[Any]) -> tuple[Method, Student]:
    """The method, and a student prepared for it."""
    torch.manual_seed(1)
    student = deepcopy(student)
    method = build_method(name, student, teacher, labels, OPTIONS.get(name), unlabelled=1)
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
            assert parameter.grad.sum().isfinite(), f"{where} {key}"  # as any value would not be; several times faster


def step_learns(name: str, case: Case, labels: list[Any]) -> None:
    method, student = built(name, case.student, case.teacher, labels)
    target = torch.tensor(labels)
    terms = step(method, student, case.teacher, case.image, target, torch.arange(8))
    assert_all_learn(student, method, loss_of(method, terms, student(case.image), target))
    assert not any(parameter.requires_grad for parameter in case.teacher.backbone.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_learns(name: str, images: Case) -> None:
    step_learns(name, images, SINGLE)
    step_learns(name, images._replace(image=torch.rand(8, 2, 3, 32, 32)), MULTI)  # bags, several findings each


@pytest.mark.parametrize("name", [name for name in EVERY if method_class(name).takes_unlabelled])
@pytest.mark.parametrize("labels", [SINGLE, MULTI], ids=["single", "multi"])
def test_unlabelled_items_take_part(name: str, labels: list[Any], images: Case) -> None:
    """The last half of the batch has no label: what it shows moves the terms, and whatever learns goes on learning."""
    method, student = built(name, images.student, images.teacher, labels)
    target = torch.tensor(labels)
    target[4:] = NO_LABEL
    other = torch.cat([images.image[:4], images.image[4:].flip(3)])
    found = []
    for image in (images.image, other):
        torch.manual_seed(2)
        one, own = deepcopy(method), deepcopy(student)
        terms = step(one, own, images.teacher, image, target, torch.arange(8))
        assert_all_learn(own, one, loss_of(one, terms, own(image), target))
        found.append(terms)
    assert any(not torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize(("name", "networks"), [("rd", 1), ("two_stages", 1), ("drd", 4), ("kd", 0), ("pseudo", 0)])
def test_labels_are_learnt_by_the_criterion_of_the_step(name: str, networks: int, images: Case) -> None:
    """The loss that the trainer has for the student; terms that compare with the teacher are none of it."""
    method, student = built(name, images.student, images.teacher, SINGLE)
    target, asked = torch.tensor(SINGLE), []

    def criterion(logits: Tensor, given: Tensor) -> Tensor:
        assert given is target
        asked.append(logits)
        return logits.sum() * 0 + 7

    terms = step(method, student, images.teacher, images.image, target, criterion=criterion)
    assert len(asked) == networks
    found = [value.item() for key, value in terms.items() if key.endswith("_ce") and key != "pseudo_ce"]
    assert found == ([7.0 * networks] if networks else [])


def test_what_needs_unlabelled_images_is_refused_without_and_what_cannot_use_them_says_so(
    images: Case, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="'pseudo' learns from unlabelled images: give --unlabelled"):
        build_method("pseudo", images.student, images.teacher, SINGLE)
    with caplog.at_level("INFO"):
        for name in ("ce", "crd"):
            build_method(name, images.student, images.teacher, SINGLE, unlabelled=7)
        build_method("rd", images.student, images.teacher, SINGLE, unlabelled=7)
    assert [text for text in caplog.messages if "7 unlabelled images are not used" in text] == [
        f"the method '{name}' needs every item's label: 7 unlabelled images are not used" for name in ("ce", "crd")
    ]


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_learns_from_volumes(name: str, volumes: Case) -> None:
    step_learns(name, volumes, SINGLE)


@pytest.mark.parametrize("name", EVERY)
def test_autocast_is_near_full_precision(name: str, images: Case) -> None:
    method, student = built(name, images.student, images.teacher, SINGLE)
    found = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms = step(
                deepcopy(method), deepcopy(student), images.teacher, images.image, torch.tensor(SINGLE), torch.arange(8)
            )
        assert all(term.dtype == torch.float32 for term in terms.values())
        found.append(terms)
    for key, term in found[0].items():
        torch.testing.assert_close(found[1][key], term, rtol=0.1, atol=0.02)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_learns_on_cuda_in_half_precision(name: str, images: Case) -> None:
    method, student = built(name, images.student, images.teacher, SINGLE)
    method, student, teacher = method.cuda(), student.cuda(), deepcopy(images.teacher).cuda()
    target, image = torch.tensor(SINGLE, device="cuda"), images.image.cuda()
    with torch.autocast("cuda", torch.float16):
        terms = step(method, student, teacher, image, target, torch.arange(8, device="cuda"))
        logits = student(image)
    loss = loss_of(method, terms, logits.float(), target)
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert_all_learn(student, method, loss)


@pytest.mark.parametrize("name", EVERY)
def test_state_goes_on_where_it_was(name: str, images: Case) -> None:
    method, student = built(name, images.student, images.teacher, SINGLE)
    target, index = torch.tensor(SINGLE), torch.arange(8)
    step(method, student, images.teacher, images.image, target, index)
    torch.manual_seed(3)
    again = build_method(name, images.student, images.teacher, SINGLE, OPTIONS.get(name), unlabelled=1)
    again.load_state_dict(method.state_dict())
    found = []
    for one in (method, again):
        torch.manual_seed(4)
        found.append(step(one, deepcopy(student), images.teacher, images.image, target, index))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ORDERLESS)
def test_the_order_of_the_batch_does_not_count(name: str, images: Case) -> None:
    method, student = built(name, images.student, images.teacher, SINGLE)
    order, target = torch.tensor([2, 0, 7, 3, 1, 6, 5, 4]), torch.tensor(SINGLE)
    plain = step(deepcopy(method), student, images.teacher, images.image, target)
    moved = step(deepcopy(method), student, images.teacher, images.image[order], target[order])
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=1e-5)


# --- two processes ---------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A student without BatchNorm, whose statistics would be each process's own."""

    name, spatial_dims, stages, prefix, fixed_size, patch = "plain", 2, ("0", "1", "2"), 0, (), 1
    feature_dim = 8
    levels, last_map, _noise = Student.levels, Student.last_map, Student._noise

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


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    image, target = (part[4 * rank : 4 * rank + 4] for part in _batch())
    for name in DISTRIBUTED:
        whole = Whole(name)
        wrapped = nn.parallel.DistributedDataParallel(whole)  # averages only as long as it lives
        wrapped(image, target).backward()
        torch.save([parameter.grad for parameter in whole.parameters()], folder / f"{name}{rank}.pt")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """The averaged gradients are those of one process with the whole batch, BatchNorm's statistics left aside."""
    in_two_processes(_rank, tmp_path)
    for name in DISTRIBUTED:
        whole = Whole(name)
        whole(*_batch()).backward()
        wanted = [parameter.grad for parameter in whole.parameters() if parameter.grad is not None]
        assert len(wanted) == len(list(whole.parameters()))
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True)
            for key, one, other in zip(dict(whole.named_parameters()), found, wanted, strict=True):
                assert (one - other).norm() <= 1e-3 * other.norm(), f"{name}: {key}"
