"""One step of a method as the co-training handler makes it, and the parts that such a step needs, small."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from monai_rd.methods import Method
from monai_rd.networks import (
    FrozenFoundationModel,
    Preprocessing,
    Student,
    StudentFeatures,
    TeacherFeatures,
    VolumePreprocessing,
)
from monai_rd.networks.levels import LevelReader, pool_features


class Head(nn.Module):
    """What a method may ask of the student in tests that hand it ready features: g alone."""

    spatial_dims = 2

    def __init__(self, classifier: nn.Linear) -> None:
        super().__init__()
        self.classifier = classifier


def taught(tap: Tensor, maps: tuple[Tensor, ...] = (), dims: int = 2) -> TeacherFeatures:
    """What the teacher gave, from its tap."""
    return TeacherFeatures(tap, pool_features(tap, dims), maps)


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
) -> dict[str, Tensor]:
    """The terms of one batch, `student_ce` left out, and their graph."""
    with LevelReader(student.backbone, method.student_levels) as reader:
        pooled = student.features(image)
        features = StudentFeatures(image, pooled, student.classifier(pooled), reader.take())
    seen = teacher.read(image, method.teacher_levels) if teacher is not None and method.needs_teacher else None
    return method(features, seen, student, target, index)


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
