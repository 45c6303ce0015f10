"""Strided 1 x 1 convolutions of few channels, at which PyTorch crashes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from monai_rd.networks import Student, for_training
from monai_rd.networks.strided import avoid_strided_pointwise
from monai_rd.networks.teacher.zoo.networks import build
from tests.processes import CONTEXT

WITH_ONE = ("repvgg_a0", "mobileone_s0", "fastvit_t8")


def few_and_strided(network: nn.Module) -> list[nn.Module]:
    return [
        one
        for one in network.modules()
        if isinstance(one, nn.Conv2d) and one.kernel_size == (1, 1) and one.stride != (1, 1) and one.in_channels < 16
    ]


def test_values_and_gradients_are_those_of_the_convolution() -> None:
    torch.manual_seed(0)
    for stride, bias, channels in ((2, False, 3), ((1, 3), True, 3), (2, True, 15)):
        plain = nn.Conv2d(channels, 8, 1, stride, bias=bias)
        image = torch.randn(2, channels, 33, 34)
        found = []
        for avoided in (False, True):
            plain.zero_grad()
            if avoided:
                avoid_strided_pointwise(plain)
            out = plain(image)
            out.square().sum().backward()
            found.append([out.detach(), *(one.grad.clone() for one in plain.parameters())])
        assert type(plain) is not nn.Conv2d
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_other_convolutions_stay() -> None:
    others = [nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, 2), nn.Conv2d(16, 8, 1, 2), nn.Conv2d(3, 8, 1, 2, padding=1)]
    avoid_strided_pointwise(nn.Sequential(*others))
    assert [type(one) for one in others] == [nn.Conv2d] * 4


def test_none_is_left_in_students_and_teachers() -> None:
    for name in WITH_ONE:
        with torch.device("meta"):
            assert [type(one) for one in few_and_strided(timm.create_model(name))] == [nn.Conv2d]
        tower = {"embed_dim": 8, "vision_cfg": {"timm_model_name": name, "image_size": 64, "timm_pool": "avg"}}
        teachers = build(f"timm:{name}", {"num_classes": 0}), build("open_clip:visual", tower)
        for network in (Student(f"timm:{name}").backbone, *teachers):
            (one,) = few_and_strided(network)
            assert type(one) is not nn.Conv2d


def _train() -> None:
    """What crashed at the latest after two steps."""
    student = for_training(Student(f"timm:{WITH_ONE[0]}"))
    for _ in range(3):
        student(torch.rand(2, 3, 224, 224)).sum().backward()


@pytest.mark.slow
def test_a_training_in_channels_last_does_not_crash() -> None:
    process = CONTEXT.Process(target=_train)
    process.start()
    process.join(120)
    assert process.exitcode == 0
