from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_rd.methods import build_method
from monai_rd.methods.base import Step
from monai_rd.methods.norm import NToOneMatching, _WithBlock
from monai_rd.networks import Level, Student
from tests.methods.steps import Head, assert_learns, assert_restores, ends, learnt, small_student, taught, tiny_teacher

# Widths of the last maps of teachers and students, and millions of parameters of the block for each pair.
TEACHERS = {"resnet50": 2048, "densenet121": 1024, "vit_b": 768}
STUDENTS = {"resnet18": 512, "mobilenet_v2": 1280, "shufflenet_v2_x1_0": 1024}
MILLIONS = {"resnet50": (16.8, 42.0, 33.6), "densenet121": (8.4, 21.0, 16.8), "vit_b": (6.3, 15.7, 12.6)}


def last(channels: int) -> Level:
    return Level("0", channels, 32, 1.0, signed=False)


def term(method: NToOneMatching, expanded: Tensor, tap: Tensor) -> Tensor:
    g = nn.Linear(2, 2)
    return method(Step(learnt(torch.zeros(2, 2), g, (expanded,)), taught(tap), Head(g), torch.tensor([0, 1])))["norm"]


def test_each_part_is_to_be_the_teachers_map() -> None:
    torch.manual_seed(0)
    method = NToOneMatching(*ends(5, last_map=last(4)), parts=3)
    expanded, tap = torch.randn(4, 15, 3, 3), torch.randn(2, 2, 5, 6, 6)  # bags of two slices
    total = 0.0
    for part in range(3):
        for n in range(4):
            wanted = tap[n // 2, n % 2].unflatten(1, (3, 2)).unflatten(3, (3, 2)).amax(dim=(2, 4))  # 6 x 6 to 3 x 3
            total += float(((expanded[n, 5 * part : 5 * part + 5] - wanted) ** 2).mean()) / 4
    assert term(method, expanded, tap).item() == pytest.approx(total, rel=1e-5)
    larger = torch.randn(2, 15, 8, 8)
    pooled, tap = larger.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5)), torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(term(method, larger, tap), ((pooled - tap.repeat(1, 3, 1, 1)) ** 2).mean() * 3)


def disturb(network: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and factors as a training leaves them."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)
    return network


@pytest.mark.parametrize("name", [*STUDENTS, "small_3d"])
def test_the_folded_student_is_the_trained_one(name: str) -> None:
    torch.manual_seed(0)
    plain = small_student(name, 3)
    method = build_method("norm", plain, tiny_teacher(plain.spatial_dims), [0, 1, 2])
    trained: Any = disturb(method.prepare(deepcopy(plain))).eval()
    single = torch.rand(1, 1, 32, 32, 32) if "3d" in name else torch.rand(1, 3, 64, 64)
    images = [single] if "3d" in name else [single, torch.rand(1, 2, 3, 64, 64)]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        trained, plain = trained.to(dtype), plain.to(dtype).eval()
        state = method.deployable(trained)
        assert list(state) == list(plain.state_dict())
        plain.load_state_dict(state)
        for image in images:
            with torch.no_grad():
                wanted, found = trained(image.to(dtype)), plain(image.to(dtype))
            assert (found - wanted).abs().max() < tolerance * max(1.0, float(wanted.abs().max()))
    with torch.no_grad():  # without the block it is not the same
        pooled = trained.backbone.network((single.double() - plain.mean) / plain.std)
        assert (trained.classifier(pooled) - trained(single.double())).abs().max() > 1e-2


class SharedActivation(nn.Module):
    """A backbone whose last map comes from a module that it uses twice, as MONAI's EfficientNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 6, 3, 2), nn.SiLU()

    def forward(self, image: Tensor) -> Tensor:
        return self.act(self.second(self.act(self.first(image)))).mean(dim=(2, 3))


def test_a_last_map_of_a_module_that_runs_twice() -> None:
    torch.manual_seed(0)
    plain = small_student("small")
    plain.backbone, plain.classifier, plain.feature_dim = SharedActivation(), nn.Linear(6, 2), 6
    method = NToOneMatching(*ends(5, last_map=Level("act", 6, 4, 1.0, signed=True)))
    trained: Any = disturb(method.prepare(deepcopy(plain))).eval()
    plain.load_state_dict(method.deployable(trained))
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(plain.eval()(image), trained(image))


@pytest.mark.parametrize("teacher", TEACHERS)
def test_parameters_of_each_pair(teacher: str) -> None:
    for (name, channels), millions in zip(STUDENTS.items(), MILLIONS[teacher], strict=True):
        with torch.device("meta"):
            block = _WithBlock(nn.Sequential(nn.Identity()), last(channels), 8 * TEACHERS[teacher], 2)
        assert sum(p.numel() for p in block.parameters()) / 1e6 == pytest.approx(millions, abs=0.09), name


@pytest.mark.parametrize(("student", "amp"), [("small", True), ("small_3d", False), ("mobilenet_v2", False)])
def test_every_parameter_learns(student: str, amp: bool) -> None:
    assert_learns("norm", student, amp=amp)


def test_its_state_is_all_it_needs() -> None:
    assert_restores("norm")


def test_the_schedule_is_that_of_240_epochs() -> None:
    built = ends(5, last_map=last(4))
    always, scheduled = NToOneMatching(*built), NToOneMatching(*built, weight=2.0, schedule=True)
    assert {always.weights(e / 239)["norm"] for e in range(240)} == {1.0}
    found = [scheduled.weights(e / 239)["norm"] for e in range(240)]
    assert found == [0.2] * 10 + [1.0] * 10 + [2.0] * 160 + [1.0] * 30 + [0.2] * 30


def test_a_training_keeps_the_block_to_go_on_and_deploys_the_plain_student(tiny_run: Callable[..., Any]) -> None:
    options = {"method": "norm", "max_epochs": 1, "student": lambda: Student("shufflenet_v2_x1_0", 2)}
    run = tiny_run(**options)
    run.trainer.run()
    plain = Student("shufflenet_v2_x1_0", 2)
    plain.load_state_dict(torch.load(run.checkpoint.model_path, weights_only=True))
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(image), run.network.eval()(image), rtol=1e-4, atol=1e-5)
    last_state = torch.load(run.checkpoint.last, weights_only=True)["network"]
    assert "backbone.expand.0.weight" in last_state
    resumed = tiny_run(resume=True, **options)
    resumed.trainer.run()
    assert all(torch.equal(value, last_state[key]) for key, value in resumed.network.state_dict().items())


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="parts must be at least 1"):
        NToOneMatching(*ends(5, last_map=last(4)), parts=0)
    student = Student("shufflenet_v2_x1_0")
    student.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="'norm' works on the map whose mean is the student's features"):
        build_method("norm", student, tiny_teacher(), [0, 1])
