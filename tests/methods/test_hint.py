from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_rd.methods import build_method
from monai_rd.methods.base import Step
from monai_rd.methods.hint import Hint
from monai_rd.networks import FrozenFoundationModel, Preprocessing, Student
from monai_rd.networks.levels import Level
from monai_rd.networks.teacher.standardisation import RunningStandardisation
from tests.methods.steps import Head, ends, learnt, taught, tiny_teacher


def _level(channels: int, signed: bool = False) -> Level:
    return Level("layer", channels, 16, 0.75, signed)


def test_is_the_squared_error_of_the_standardised_target() -> None:
    """By loops, the student's map pooled to the teacher's sides and the regressor written out."""
    torch.manual_seed(0)
    method = Hint(*ends(pairs=[(_level(2), _level(3))])).double()
    ours, theirs = torch.randn(2, 2, 4, 4).double(), 50 + 9 * torch.randn(2, 3, 2, 2).double()
    g = nn.Linear(2, 2).double()
    found = method(
        Step(learnt(torch.zeros(2, 2).double(), g, (ours,)), taught(theirs, (theirs,)), Head(g), torch.zeros(2))
    )
    weight = method.regressor[0].weight.view(3, 2)  # type: ignore[union-attr, operator]
    answers, wanted = torch.zeros(2, 3, 2, 2).double(), torch.zeros(2, 3, 2, 2).double()
    for n in range(2):
        for c in range(3):
            for y in range(2):
                for x in range(2):
                    pooled = [ours[n, i, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].sum() / 4 for i in range(2)]
                    answers[n, c, y, x] = weight[c, 0] * pooled[0] + weight[c, 1] * pooled[1]
                    wanted[n, c, y, x] = theirs[n, c, y, x]
    total = 0.0
    for c in range(3):
        answer, target = answers[:, c], wanted[:, c]
        answer = (answer - answer.mean()) / (answer.var(correction=0) + 1e-5).sqrt()
        target = (target - target.mean()) / target.var(correction=0).sqrt()
        total += (answer - target).square().sum().item()
    assert found["hint"].item() == pytest.approx(total / 24, rel=1e-4)


def test_statistics_are_those_of_all_that_was_seen() -> None:
    torch.manual_seed(0)
    scale, every = RunningStandardisation(3), 1000 + 5 * torch.randn(7, 4, 3, 2, 2)
    for maps in every:
        scale(maps)
    values = every.double().movedim(2, 0).flatten(1)
    torch.testing.assert_close(scale.mean.double(), values.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(scale.variance.double(), values.var(1, correction=0), rtol=1e-2, atol=0)
    before = {key: value.clone() for key, value in scale.state_dict().items()}
    answer = scale.eval()(every[0])
    torch.testing.assert_close(dict(scale.state_dict()), before, rtol=0, atol=0)
    assert answer.mean().abs() < 0.5
    assert 0.5 < answer.std() < 1.5


def test_a_channel_that_never_moves_is_not_blown_up() -> None:
    scale, maps = RunningStandardisation(2), torch.rand(4, 2, 3, 3)
    maps[:, 1] = 7.0
    assert scale(maps).abs().max() < 10
    assert RunningStandardisation(2)(torch.ones(4, 2, 3, 3)).abs().max() == 0


def test_stride_chooses_the_level() -> None:
    student, teacher = Student("resnet18"), tiny_teacher()
    for stride, ours, theirs in ((16, "layer3", "2"), (1, "layer1", "1")):
        method = build_method("hint", student, teacher, [0, 1], {"stride": stride})
        assert ([one.module for one in method.student_levels], [one.module for one in method.reads.levels]) == (
            [ours],
            [theirs],
        )
    with pytest.raises(ValueError, match="the stride of a hint is at least 1, got 0"):
        build_method("hint", student, teacher, [0, 1], {"stride": 0})


@pytest.mark.parametrize("name", ["hint", "at", "vid"])
def test_a_teacher_without_maps_is_refused(name: str) -> None:
    plain = Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
    teacher = FrozenFoundationModel(nn.Conv2d(3, 4, 1), channels=4, kind="map", preprocessing=plain, name="closed")
    with pytest.raises(ValueError, match="teacher 'closed' has no feature maps"):
        build_method(name, Student("shufflenet_v2_x1_0"), teacher, [0, 1])
