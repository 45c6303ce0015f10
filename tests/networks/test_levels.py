"""Feature levels: how they are paired, and what the reader takes of a network that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch import distributed as dist

from monai_rd.networks import Student
from monai_rd.networks.levels import Level, LevelReader, find_levels, nearest_level, pair_levels
from tests.networks.levels_of import R18, noise, read, seeded

SHUFFLENET = tuple(Level(f"stage{i}", 100, 2 ** (i + 1), i / 4, False) for i in (2, 3, 4))
VIT = tuple(Level(f"blocks.{3 * i - 1}", 768, 16, i / 4, True, "tokens", 1) for i in (1, 2, 3, 4))


def test_pairs_go_by_stride_and_depth_never_by_place() -> None:
    resnet50 = tuple(Level(f"layer{i}", 256, 2 ** (i + 1), i / 4, False) for i in (1, 2, 3, 4))

    def pairs(student: Any, teacher: Any) -> dict[str, str]:
        return {one.module: other.module for one, other in pair_levels(student, teacher)}

    assert pairs(SHUFFLENET, resnet50) == {"stage2": "layer2", "stage3": "layer3", "stage4": "layer4"}
    assert pairs(SHUFFLENET, resnet50[::-1]) == pairs(SHUFFLENET, resnet50)
    assert pairs(R18, SHUFFLENET) == {"layer1": "stage2", "layer2": "stage2", "layer3": "stage3", "layer4": "stage4"}
    for teacher in (VIT, VIT[::-1]):
        assert pairs(R18, teacher) == {f"layer{i}": f"blocks.{3 * i - 1}" for i in (1, 2, 3, 4)}
        assert pairs(SHUFFLENET, teacher) == {f"stage{i}": f"blocks.{3 * i - 1}" for i in (2, 3, 4)}
    assert pairs(VIT, R18) == {level.module: "layer3" for level in VIT}
    assert nearest_level(R18, 16).module == "layer3"
    assert nearest_level(VIT, 16).module == "blocks.8"
    assert nearest_level(VIT, 32).module == "blocks.11"


class _Repeating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Conv2d(3, 3, 3, 2, 1), nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return self.scale * self.layer(self.layer(image)).mean(dim=(2, 3))


def test_of_a_module_that_runs_twice_the_last_output_counts() -> None:
    network = _Repeating()
    (level,) = find_levels(network, ["layer"], noise(1, 3, 16, 16))
    (one,) = read(network, (level,), noise(2, 3, 16, 16))
    assert level.stride == 4
    with torch.no_grad():
        torch.testing.assert_close(one, network.layer(network.layer(noise(2, 3, 16, 16))))


def test_maps_are_there_once_after_every_run() -> None:
    student = seeded(Student, "resnet18")
    with LevelReader(student.backbone, R18[1:]) as reader:
        with pytest.raises(RuntimeError, match=r"no feature maps of layer2, layer3, layer4: the network must run"):
            reader.take()
        bag = MetaTensor(noise(2, 3, 3, 64, 96))
        with torch.autocast("cpu", torch.bfloat16):
            student.train()(bag)
        maps = reader.take()
        assert [tuple(one.shape) for one in maps] == [(6, 128, 8, 12), (6, 256, 4, 6), (6, 512, 2, 3)]
        assert {one.dtype for one in maps} == {torch.bfloat16}
        assert {type(one) for one in maps} == {Tensor}
        maps[0].float().sum().backward()
        assert student.backbone.layer2[0].conv1.weight.grad.any()
        assert student.backbone.layer3[0].conv1.weight.grad is None
        with pytest.raises(RuntimeError, match="the network must run"):
            reader.take()
    assert not student.backbone.layer2._forward_hooks
    with LevelReader(student.backbone, ()) as reader:
        assert not student.backbone._forward_pre_hooks
        assert reader.take() == ()


def test_tokens_that_make_no_grid_are_refused() -> None:
    network = seeded(timm.create_model, "vit_tiny_patch16_224", num_classes=0, img_size=64, depth=1)
    level = Level("blocks.0", 192, 16, 1.0, True, "tokens", 0)
    with pytest.raises(ValueError, match=r"module 'blocks.0' gives \[1, 17, 192\] of an input of \[64, 64\]"):
        read(network, (level,), noise(1, 3, 64, 64))


def test_a_wrapped_network_is_read_by_its_own_modules(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        student = Student("shufflenet_v2_x1_0")
        wrapped = nn.parallel.DistributedDataParallel(student)
        levels = student.levels
        with LevelReader(student.backbone, levels) as reader:
            logits = wrapped(noise(4, 3, 64, 64))
            (logits.sum() + sum(one.square().mean() for one in reader.take())).backward()
        assert all(parameter.grad is not None for parameter in student.parameters())
    finally:
        dist.destroy_process_group()


def test_a_hooked_student_runs_as_before() -> None:
    student = seeded(Student, "timm:deit_tiny_distilled_patch16_224")
    image = noise(1, 3, 64, 96)
    with torch.no_grad():
        expected = student(image)
        with LevelReader(student.backbone, student.levels) as reader:
            assert torch.equal(student(image), expected)
            assert [tuple(one.shape) for one in reader.take()] == [(1, 192, 4, 6)] * 4
