"""The feature levels of every student, and the map whose mean are its features."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from monai_rd.networks import Student
from monai_rd.networks.levels import Levels, find_levels, last_map, nearest_level, pair_levels
from monai_rd.networks.stages import timm_stages
from monai_rd.networks.student.table import FOR_IMAGES
from tests.networks.levels_of import R18, noise, read, seeded

# channels x side at 224 pixels, by stride; True: may be negative
PAPER = {
    "resnet18": {4: (64, 56, False), 8: (128, 28, False), 16: (256, 14, False), 32: (512, 7, False)},
    "mobilenet_v2": {4: (24, 56, True), 8: (32, 28, True), 16: (96, 14, True), 32: (320, 7, True)},
    "shufflenet_v2_x1_0": {8: (116, 28, False), 16: (232, 14, False), 32: (464, 7, False)},
}
OTHERS = ("ghostnet_050", "hgnetv2_b0", "efficientvit_m0", "levit_conv_128s", "deit_tiny_distilled_patch16_224")


@pytest.mark.parametrize("name", PAPER)
def test_levels_of_the_papers_students(name: str) -> None:
    student = seeded(Student, name)
    levels = student.levels
    maps = read(student.backbone, levels, noise(1, 3, 224, 224))
    found = {level.stride: (*one.shape[1:3], level.signed) for level, one in zip(levels, maps, strict=True)}
    assert found == PAPER[name]
    for level, one in zip(levels, maps, strict=True):
        assert one.shape[1:] == (level.channels, one.shape[2], one.shape[2])
    assert [level.depth for level in levels] == [0.25, 0.5, 0.75, 1.0][-len(levels) :]
    # an independent way to the same maps
    inner = create_feature_extractor(student.backbone, {level.module: level.module for level in levels})
    with torch.no_grad():
        told = inner(noise(1, 3, 224, 224))
    for level, one in zip(levels, maps, strict=True):
        torch.testing.assert_close(one, told[level.module])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(one.removeprefix("timm:") for one in FOR_IMAGES if ":" in one), *OTHERS])
def test_levels_of_timms_students(name: str) -> None:
    """Shapes alone, and what timm says of them; nothing is computed."""
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
        image = torch.empty(1, *network.default_cfg["input_size"])
    stages, prefix = timm_stages(network)
    levels = find_levels(network, stages, image, prefix)
    assert [level.module for level in levels] == list(stages)
    told = {one["module"]: (one["num_chs"], one["reduction"]) for one in network.feature_info}
    assert {level.module: (level.channels, level.stride) for level in levels} == {one: told[one] for one in stages}
    if "deit" in name:
        assert stages == ("blocks.2", "blocks.5", "blocks.8", "blocks.11")
    else:
        assert [level.stride for level in levels] == [one for one in (4, 8, 16, 32, 64) if one >= levels[0].stride][
            : len(levels)
        ]
        assert levels[-1].stride >= 32


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("deit_tiny_distilled_patch16_224", (1, 3, 64, 96)),  # two tokens before the grid
        ("xcit_nano_12_p16_224", (1, 3, 96, 64)),  # a class token that comes later
        ("swin_tiny_patch4_window7_224", (1, 3, 224, 224)),  # channels last
        ("levit_128s", (1, 3, 224, 224)),  # tokens of several strides
        ("efficientvit_m0", (1, 3, 224, 224)),
        ("efficientformer_l1", (1, 3, 224, 224)),  # maps, then tokens
    ],
)
def test_maps_are_those_that_timm_gives(name: str, shape: tuple[int, ...]) -> None:
    options = {"dynamic_img_size": True} if "deit" in name else {}
    network = seeded(timm.create_model, name, num_classes=0, **options)
    stages, prefix = timm_stages(network)
    levels = find_levels(network, stages, noise(1, 3, *network.default_cfg["input_size"][1:]), prefix)
    assert len(levels) == len(stages)
    image = noise(*shape)
    with torch.no_grad():
        told = network.forward_intermediates(image, intermediates_only=True)
    for level, one in zip(levels, read(network, levels, image), strict=True):
        assert any(one.shape == other.shape and torch.allclose(one, other, atol=1e-5) for other in told), level


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "tnt_s_legacy_patch16_224", "hrnet_w18_small", "hiera_tiny_224"])
def test_what_cannot_be_read_has_no_levels(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
        image = torch.empty(1, *network.default_cfg["input_size"])
    stages, prefix = timm_stages(network)
    assert find_levels(network, stages, image, prefix) == ()


def test_a_student_without_levels_is_named() -> None:
    student = Student("shufflenet_v2_x1_0")
    student.stages = []  # as of a network that tells nothing of itself
    levels = student.levels
    assert levels == ()
    for ask in (lambda: pair_levels(levels, R18), lambda: nearest_level(levels, 16)):
        with pytest.raises(ValueError, match=r"the student 'shufflenet_v2_x1_0' has no feature maps.*such as rd"):
            ask()
    with pytest.raises(ValueError, match=r"the teacher 'mine' has no feature maps"):
        pair_levels(R18, Levels.of("teacher 'mine'", ()))


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [
        ("resnet10_3d", [2, 4, 8, 16], [64, 128, 256, 512]),
        ("densenet121_3d", [4, 8, 16, 32], [256, 512, 1024, 1024]),
        ("efficientnet_b0_3d", [4, 8, 16, 32], [24, 40, 112, 320]),
    ],
)
def test_levels_of_students_of_volumes(name: str, strides: list[int], channels: list[int]) -> None:
    with torch.device("meta"):
        student, volume = Student(name), torch.empty(1, 1, 64, 96, 64)
    levels = find_levels(student.backbone, student.stages, volume)
    assert [(level.stride, level.channels) for level in levels] == list(zip(strides, channels, strict=True))
    assert [level.depth for level in levels] == [0.25, 0.5, 0.75, 1.0]
    for level, one in zip(levels, read(student.backbone, levels, volume), strict=True):
        assert one.shape == (1, level.channels, *(side // level.stride for side in volume.shape[2:]))


@pytest.mark.parametrize(("name", "signed"), [("densenet121_3d", False), ("efficientnet_b0_3d", True)])
def test_the_map_whose_mean_is_f_s_of_volumes(name: str, signed: bool) -> None:
    student = seeded(Student, name)
    last = student.last_map
    assert last is not None
    volume = noise(1, 1, 32, 64, 32)
    (one,) = read(student.backbone, (last,), volume)
    assert (last.signed, one.shape) == (signed, (1, student.feature_dim, 1, 2, 1))
    with torch.no_grad():
        torch.testing.assert_close(one.flatten(2).mean(2), student.backbone(volume), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("layer4", 512, False)),
        ("mobilenet_v2", ("features", 1280, False)),
        ("shufflenet_v2_x1_0", ("conv5", 1024, False)),
        ("timm:efficientnet_b0", ("bn2", 1280, True)),
        ("timm:mobilenetv3_small_050", None),  # a convolution between pooling and head
        ("timm:deit_tiny_distilled_patch16_224", None),  # class tokens
    ],
)
def test_the_map_whose_mean_is_f_s(name: str, expected: tuple[str, int, bool] | None) -> None:
    student = seeded(Student, name)
    last = student.last_map
    if expected is None:
        assert last is None
        return
    assert last is not None
    assert (last.module, last.channels, last.signed) == expected
    image, calls = noise(2, 3, 64, 64), []
    student.backbone.get_submodule(last.module).register_forward_hook(lambda *_: calls.append(1))
    (one,) = read(student.backbone, (last,), image)
    assert len(calls) == 1
    assert one.shape == (2, expected[1], 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(one.mean(dim=(2, 3)), student.backbone(image), atol=1e-5, rtol=1e-4)


def test_what_is_trained_behind_the_map_is_seen_before_it_is_trained() -> None:
    """A fresh BatchNorm in eval mode changes next to nothing, so numbers alone would not tell."""
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4))
    assert last_map(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), *tail), noise(1, 3, 16, 16)) is None
    assert last_map(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), *tail[:2]), noise(1, 3, 16, 16)) is not None
    shared = nn.ReLU()
    twice = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), shared, nn.Conv2d(4, 4, 3, 1, 1), shared, *tail[:2])
    assert last_map(twice, noise(1, 3, 16, 16)) is None  # the ReLU runs twice


def test_asking_leaves_no_trace() -> None:
    student = Student("timm:mobilenetv3_small_050")
    student.backbone.blocks[0].eval()  # as someone who freezes a stage
    before = {key: tensor.clone() for key, tensor in student.state_dict().items()}
    modes = [module.training for module in student.modules()]
    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    assert student.levels
    assert student.last_map is None
    assert torch.equal(torch.rand(()), expected)
    assert [module.training for module in student.modules()] == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in student.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
