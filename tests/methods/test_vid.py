from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from monai_rd.methods import build_method, parameter_groups
from monai_rd.methods.base import Step
from monai_rd.methods.vid import VariationalInformationDistillation
from monai_rd.networks import Student
from monai_rd.networks.levels import Level, pair_levels
from tests.methods.steps import Head, ends, learnt, taught, tiny_teacher

# Channels of the teachers' levels; those of the ViT have one stride.
TEACHERS = {
    "resnet50": [
        Level("", channels, stride, 1, False) for channels, stride in ((256, 4), (512, 8), (1024, 16), (2048, 32))
    ],
    "densenet121": [
        Level("", channels, stride, 1, True) for channels, stride in ((256, 4), (512, 8), (1024, 16), (1024, 32))
    ],
    "vit_b": [Level("", 768, 16, depth, True) for depth in (0.25, 0.5, 0.75, 1)],
}
MILLIONS = {  # the reference's modules
    "resnet18": {"resnet50": 12.5, "densenet121": 5.7, "vit_b": 5.5},
    "mobilenet_v2": {"resnet50": 11.9, "densenet121": 5.3, "vit_b": 5.1},
    "shufflenet_v2_x1_0": {"resnet50": 12.3, "densenet121": 5.5, "vit_b": 4.2},
}


def test_is_the_gaussian_likelihood() -> None:
    """By loops, with variances that were moved."""
    torch.manual_seed(0)
    method = VariationalInformationDistillation(*ends(pairs=[(Level("s", 2, 4, 1, True), Level("t", 3, 4, 1, True))]))
    rho = [-2.0, 0.5, 3.0]
    with torch.no_grad():
        method.no_weight_decay()[0].copy_(torch.tensor(rho))
    ours, theirs, g = torch.randn(2, 2, 2, 3), torch.randn(2, 3, 2, 3), nn.Linear(2, 2)
    found = method(Step(learnt(torch.zeros(2, 2), g, (ours,)), taught(theirs, (theirs,)), Head(g), torch.zeros(2)))[
        "vid"
    ]
    weights = [parameter.detach().flatten(1) for parameter in method.parameters() if parameter.dim() == 4]
    total = 0.0
    for n in range(2):
        for y in range(2):
            for x in range(3):
                hidden = ours[n, :, y, x]
                for weight in weights[:-1]:
                    hidden = (weight @ hidden).clamp(min=0)
                for c, mean in enumerate((weights[-1] @ hidden).tolist()):
                    variance = math.log(1 + math.exp(rho[c])) + 1e-5
                    total += 0.5 * ((theirs[n, c, y, x].item() - mean) ** 2 / variance + math.log(variance))
    assert len(weights) == 3
    assert found.item() == pytest.approx(total / 36, rel=1e-5)


def test_variances_start_at_five_may_go_below_one_and_do_not_decay() -> None:
    student = Student("shufflenet_v2_x1_0")
    method = build_method("vid", student, tiny_teacher(), [0, 1])
    rho = method.no_weight_decay()
    assert [len(one) for one in rho] == [8, 8, 8]
    torch.testing.assert_close(nn.functional.softplus(torch.cat(rho)) + 1e-5, torch.full((24,), 5.0))
    decaying, bare = parameter_groups(student, method)
    assert {id(one) for one in bare["params"]} == {id(one) for one in rho}
    assert bare["weight_decay"] == 0
    assert len(decaying["params"]) + 3 == len([*student.parameters(), *method.parameters()])
    zero, g = torch.zeros(2, 4, 2, 2), nn.Linear(2, 2)
    alone = VariationalInformationDistillation(*ends(pairs=[(Level("s", 4, 4, 1, True),) * 2]))
    alone.no_weight_decay()[0].data.fill_(-4.0)
    assert alone(Step(learnt(torch.zeros(2, 2), g, (zero,)), taught(zero, (zero,)), Head(g), torch.zeros(2)))["vid"] < 0


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_are_as_many_as_in_the_reference(name: str) -> None:
    levels = Student(name).levels
    for teacher, wanted in MILLIONS[name].items():
        with torch.device("meta"):
            method = VariationalInformationDistillation(*ends(pairs=pair_levels(levels, TEACHERS[teacher])))
        assert round(sum(one.numel() for one in method.parameters()) / 1e6, 1) == wanted, teacher
