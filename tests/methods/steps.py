"""One step of a method as the co-training handler makes it, and the parts that such a step needs, small."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.losses import ClassificationLoss
from monai_rd.methods import Method, build_method
from monai_rd.methods.base import Step
from monai_rd.networks import (
    FrozenFoundationModel,
    Preprocessing,
    Student,
    StudentFeatures,
    TeacherFeatures,
    VolumePreprocessing,
)
from monai_rd.networks.features import pool_features
from monai_rd.networks.levels import Level, LevelReader

ONE, SEVERAL = torch.tensor([0, 1]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])  # labels: classes of an image


def ends(
    channels: int = 5,
    feature_dim: int = 7,
    *,
    pairs: Sequence[tuple[Level, Level]] = (),
    last_map: Level | None = None,
    classifier: nn.Linear | None = None,
    kind: str = "map",
    dims: int = 2,
    labels: Tensor = ONE,
    parts: Sequence[int] = (),
) -> tuple[Any, Any, Tensor]:
    """What a method is built from, as far as it asks: widths and maps of a student and a teacher; and labels."""
    ours, theirs = zip(*pairs, strict=True) if pairs else ((), ())
    student = SimpleNamespace(
        feature_dim=feature_dim, classifier=classifier, spatial_dims=dims, levels=ours, last_map=last_map
    )
    teacher = SimpleNamespace(
        channels=channels, parts=parts or (channels,), kind=kind, spatial_dims=dims, levels=theirs
    )
    return student, teacher, labels


class Head(nn.Module):
    """What a method may ask of the student in tests that hand it ready features: g alone."""

    spatial_dims = 2

    def __init__(self, classifier: nn.Linear) -> None:
        super().__init__()
        self.classifier = classifier


def taught(tap: Tensor, maps: tuple[Tensor, ...] = (), dims: int = 2) -> TeacherFeatures:
    """What the teacher gave, from its tap."""
    return TeacherFeatures.of(tap=tap, pooled=pool_features(tap, dims), maps=maps)


def learnt(pooled: Tensor, classifier: nn.Module, maps: tuple[Tensor, ...] = ()) -> StudentFeatures:
    """What the student gave, from its pooled features."""
    return StudentFeatures(torch.zeros(len(pooled), 3, 4, 4), pooled, classifier(pooled), maps)


def step(
    method: Method,
    student: Student,
    teacher: FrozenFoundationModel | None,
    image: Tensor,
    target: Tensor,
    index: Tensor | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The terms of one batch, `student_ce` left out, and their graph."""
    with LevelReader(student.backbone, method.student_levels) as reader:
        pooled = student.features(image)
        features = StudentFeatures(image, pooled, student.classifier(pooled), reader.take())
    seen = teacher.read(image, method.reads) if teacher is not None and method.needs_teacher else None
    loss = criterion or ClassificationLoss(method.multi_label)
    return method(Step(features, seen, student, target, index, loss))


class TinyBackbone(nn.Sequential):
    """A teacher that halves its maps: strides 2, 4 and 8, channels 4, 6 and 8, after a ReLU each."""

    stages = ("0", "1", "2")

    def __init__(self, spatial_dims: int = 2) -> None:
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if spatial_dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        widths = (3 if spatial_dims == 2 else 1, 4, 6, 8)
        super().__init__(
            *(nn.Sequential(conv(before, after, 3, 2, 1), norm(after), nn.ReLU()) for before, after in pairwise(widths))
        )


def tiny_teacher(spatial_dims: int = 2) -> FrozenFoundationModel:
    """A teacher of random weights for images (volumes) of 32 pixels a side."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        backbone = TinyBackbone(spatial_dims)
    plain: Any = Preprocessing(32, (0.5,) * 3, (0.25,) * 3) if spatial_dims == 2 else VolumePreprocessing(32)
    return FrozenFoundationModel(backbone, channels=8, kind="map", preprocessing=plain, name="tiny")


def small_student(name: str, num_classes: int = 2) -> Student:
    """A student by name; or "small" and "small_3d", with three maps of strides 2, 4, 8 and channels 4, 6, 8."""
    if not name.startswith("small"):
        return Student(name, num_classes)
    student = Student("resnet10_3d" if name == "small_3d" else "shufflenet_v2_x1_0", num_classes)
    pool = nn.AdaptiveAvgPool3d(1) if student.spatial_dims == 3 else nn.AdaptiveAvgPool2d(1)
    student.backbone = nn.Sequential(*TinyBackbone(student.spatial_dims), pool, nn.Flatten())
    student.feature_dim, student.stages, student.classifier = 8, list(TinyBackbone.stages), nn.Linear(8, num_classes)
    return student


def assert_learns(name: str, student: str, options: Mapping[str, Any] | None = None, amp: bool = False) -> None:
    """One step on 8 images or volumes of 32 pixels: finite terms, a finite gradient for every parameter."""
    torch.manual_seed(0)
    plain, target, index = small_student(student), torch.arange(8) % 2, torch.arange(8)
    image = torch.rand(8, 3, 32, 32) if plain.spatial_dims == 2 else torch.rand(8, 1, 32, 32, 32)
    teacher = tiny_teacher(plain.spatial_dims)
    method = build_method(name, plain, teacher, [0, 1] * 8, options)
    network = method.prepare(plain)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        terms = step(method, network, teacher, image, target, index)
        loss = F.cross_entropy(network(image), target)
    weights = method.weights(0.0)
    assert terms.keys() == weights.keys() - {"student_ce"}
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    (loss + sum(weights[key] * term for key, term in terms.items())).backward()
    for key, parameter in [*method.named_parameters(), *network.named_parameters()]:
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


def assert_restores(name: str, options: Mapping[str, Any] | None = None) -> None:
    """The state dicts of method and student are all that a step depends on."""
    teacher, image, target, index = tiny_teacher(), torch.rand(8, 3, 32, 32), torch.arange(8) % 2, torch.arange(8)
    states: list[Any] = []
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        plain = small_student("small")
        method = build_method(name, plain, teacher, [0, 1] * 8, options)
        network = method.prepare(plain)
        if not states:
            step(method, network, teacher, image, target, index)
            states = [copy.deepcopy(one.state_dict()) for one in (method, network)]
        else:
            method.load_state_dict(states[0])
            network.load_state_dict(states[1])
        torch.manual_seed(2)
        found.append(step(method, network, teacher, image, target, index))
    torch.testing.assert_close(found[1], found[0])
