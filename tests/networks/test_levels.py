"""Feature levels: of every student and teacher, how they are paired, and what is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from monai.data import MetaTensor
from monai.networks import nets
from monai.networks.nets.segresnet_ds import SegResEncoder
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from monai_rd.networks import TEACHERS, FrozenFoundationModel, Preprocessing, Reads, Student, load_teacher
from monai_rd.networks.bag import fold
from monai_rd.networks.levels import Level, LevelReader, Levels, find_levels, last_map, nearest_level, pair_levels
from monai_rd.networks.stages import timm_stages
from monai_rd.networks.student.table import FOR_IMAGES
from monai_rd.networks.teacher.zoo import TeacherEntry
from monai_rd.networks.teacher.zoo.networks import TeacherBackbone, build
from tests.networks.teacher.test_blackbox import MOBILENET, export

# channels x side at 224 pixels, by stride; True: may be negative
PAPER = {
    "resnet18": {4: (64, 56, False), 8: (128, 28, False), 16: (256, 14, False), 32: (512, 7, False)},
    "mobilenet_v2": {4: (24, 56, True), 8: (32, 28, True), 16: (96, 14, True), 32: (320, 7, True)},
    "shufflenet_v2_x1_0": {8: (116, 28, False), 16: (232, 14, False), 32: (464, 7, False)},
}
RESNET50 = {4: (256, 56), 8: (512, 28), 16: (1024, 14), 32: (2048, 7)}
DENSENET121 = {4: (256, 56), 8: (512, 28), 16: (1024, 14), 32: (1024, 7)}
TEACHERS_AT_224 = {
    "pmc_clip": RESNET50,
    "radimagenet_resnet50": RESNET50,
    "lvm_med_resnet50": RESNET50,
    "radimagenet_densenet121": DENSENET121,
    "torchxrayvision_densenet121": DENSENET121,
    "radimagenet_inceptionv3": {4: (192, 52), 8: (288, 25), 16: (768, 12), 32: (2048, 5)},
}
VITS_AT_224 = {"lvm_med_vit_b": 768, "biomedclip": 768, "usfm": 768, "retfound": 1024}
OTHERS = ("ghostnet_050", "hgnetv2_b0", "efficientvit_m0", "levit_conv_128s", "deit_tiny_distilled_patch16_224")
R18 = tuple(Level(f"layer{i}", 64 * 2 ** (i - 1), 2 ** (i + 1), i / 4, False) for i in (1, 2, 3, 4))
SHUFFLENET = tuple(Level(f"stage{i}", 100, 2 ** (i + 1), i / 4, False) for i in (2, 3, 4))
VIT = tuple(Level(f"blocks.{3 * i - 1}", 768, 16, i / 4, True, "tokens", 1) for i in (1, 2, 3, 4))


def seeded(make: Any, *args: Any, **arguments: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **arguments).eval()


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def read(network: nn.Module, levels: tuple[Level, ...], image: Tensor) -> tuple[Tensor, ...]:
    with LevelReader(network, levels) as reader:
        network(image)
        return reader.take()


# --- the students ---------------------------------------------------------------------------------------------------


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
        ("efficientvit_m0", (1, 3, 128, 192)),
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


# --- the teachers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", TEACHERS.values(), ids=TEACHERS)
def test_levels_of_every_teacher(entry: TeacherEntry) -> None:
    """Shapes at the full size of every network, of ViTs with four blocks; nothing is computed."""
    blocks = any(word in entry.builder for word in ("vit_", "beit"))
    depth = {"depth": 4} if blocks else {"num_layers": 4} if entry.builder == "monai:ViT" else {}
    network = TeacherBackbone(build(entry.builder, {**entry.arguments, **depth}), entry.builder, "map").to("meta")
    image = torch.empty(1, *entry.input_shape, device="meta")
    levels = find_levels(network, network.stages, image, network.prefix)
    assert [level.module for level in levels] == list(network.stages)
    maps = read(network, levels, image)
    assert [one.shape[1] for one in maps] == [level.channels for level in levels]
    with_neck = entry.name in ("sam_vit_b", "medsam")  # the tap has 256 channels
    assert (levels[-1].channels, *maps[-1].shape[2:]) == (768 if with_neck else entry.channels, *entry.grid)
    assert levels[-1].depth == 1
    found = {level.stride: (one.shape[1], one.shape[2]) for level, one in zip(levels, maps, strict=True)}
    if entry.name in TEACHERS_AT_224:
        assert found == TEACHERS_AT_224[entry.name]
    if depth:
        assert [level.depth for level in levels] == [0.25, 0.5, 0.75, 1.0]
    if entry.name in VITS_AT_224:
        assert [tuple(one.shape[1:]) for one in maps] == [(VITS_AT_224[entry.name], 14, 14)] * 4
        assert {level.stride for level in levels} == {16}


_SMALL = {"embed_dim": 96, "num_heads": 3, "img_size": 64}


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Values for what `build` left undefined."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "signed"),
    [
        ("resnet10t", {"global_pool": ""}, "map", [False] * 4),
        ("resnet10t", {"global_pool": ""}, "vector", [False] * 4),
        ("densenet121", {"global_pool": ""}, "map", [True, True, True, False]),
        ("densenet121", {"global_pool": "", "final_relu": False}, "map", [True] * 4),
        ("samvit_base_patch16", {**_SMALL, "depth": 4, "neck": False}, "map", [True] * 4),
        ("vit_tiny_patch16_224", {**_SMALL, "depth": 5}, "vector", [True] * 4),
    ],
)
def test_a_teachers_levels(name: str, arguments: dict[str, Any], kind: Any, signed: list[bool]) -> None:
    builder = f"timm:{name}"
    network = build(builder, {"num_classes": 0, **arguments})
    fill(network)
    backbone = TeacherBackbone(network, builder, kind)
    plain = Preprocessing(64, (0.5,) * 3, (0.25,) * 3)
    channels = {"resnet10t": 512, "densenet121": 1024}.get(name, 96)
    teacher = FrozenFoundationModel(backbone, channels=channels, kind=kind, preprocessing=plain, name="mine")
    assert teacher.levels.owner == "teacher 'mine'"
    assert teacher.levels is teacher.levels
    assert [level.signed for level in teacher.levels] == signed
    bag = noise(2, 3, 3, 48, 64)
    seen = teacher.read(bag, Reads(tap=True, pooled=True, levels=teacher.levels))
    assert torch.equal(seen.tap, teacher(bag))
    with torch.no_grad():
        told = network.forward_intermediates(plain(fold(bag)[0]), intermediates_only=True)
    assert len(seen.maps) == 4
    for level, one in zip(teacher.levels, seen.maps, strict=True):
        assert one.shape == (6, level.channels, 64 // level.stride, 64 // level.stride)
        assert any(one.shape == other.shape and torch.allclose(one, other, atol=1e-4) for other in told), level
        assert level.signed == bool((one < 0).any())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())


def test_levels_of_open_clips_towers() -> None:
    own = {"image_size": 64, "width": 32, "head_width": 16}
    trunk = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}
    for vision, modules, prefix in (
        ({"layers": [1, 1, 1, 1], **own}, [f"layer{i}" for i in (1, 2, 3, 4)], 0),
        ({"layers": 4, "patch_size": 16, **own}, [f"transformer.resblocks.{i}" for i in range(4)], 1),
        (trunk, [f"trunk.blocks.{i}" for i in (2, 5, 8, 11)], 1),
    ):
        image = noise(2, 3, vision["image_size"], vision["image_size"])
        tower: Any = build("open_clip:visual", {"embed_dim": 8, "vision_cfg": vision})
        fill(tower)
        backbone = TeacherBackbone(tower, "open_clip:visual", "map")
        assert backbone.stages == tuple(f"network.{module}" for module in modules)
        levels = find_levels(backbone, backbone.stages, image[:1], backbone.prefix)
        assert [level.prefix for level in levels] == [prefix] * 4
        with torch.no_grad():
            told = tower.forward_intermediates(image, intermediates_only=True)["image_intermediates"]
        for level, one in zip(levels, read(backbone, levels, image), strict=True):
            assert any(one.shape == other.shape and torch.allclose(one, other, atol=1e-4) for other in told), level


def test_levels_of_monais_encoders() -> None:
    volume = noise(1, 1, 64, 32, 64)
    encoder = seeded(SegResEncoder, blocks_down=(1, 1, 1), init_filters=8)
    swin = seeded(SwinTransformer, 1, 12, (7,) * 3, (2,) * 3, (1,) * 4, (1, 1, 2, 2))
    vit = seeded(nets.ViT, 1, (64, 32, 64), (16,) * 3, 24, 48, 3, 4)
    with torch.no_grad():
        expected = {
            "monai:SegResEncoder": (encoder, encoder(volume), [1, 2, 4]),
            "monai:SwinTransformer": (swin, swin(volume, normalize=False)[1:], [4, 8, 16, 32]),
            "monai:ViT": (
                vit,
                [tokens.transpose(1, 2).unflatten(2, (4, 2, 4)) for tokens in vit(volume)[1]],
                [16, 16, 16],
            ),
        }
    for builder, (network, told, strides) in expected.items():
        backbone = TeacherBackbone(network, builder, "map")
        levels = find_levels(backbone, backbone.stages, volume[:1], backbone.prefix)
        assert [level.stride for level in levels] == strides
        for one, other in zip(read(backbone, levels, volume), told, strict=True):
            torch.testing.assert_close(one, other)


# --- black boxes ----------------------------------------------------------------------------------------------------


def _cnn() -> nn.Sequential:
    """Strides 2, 4 and 8; before the last of them an expansion and a padding."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 24, 1), nn.ReLU6()),
        *(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(24, 10, 3, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 3)),
    )


@pytest.mark.parametrize("tap", ["map", "vector"])
def test_levels_of_an_onnx_file(tmp_path: Path, tap: str) -> None:
    network = seeded(_cnn)
    teacher = load_teacher(str(export(network, noise(2, 3, 32, 32), tmp_path / "cnn.onnx", dynamic=True)), tap=tap)
    assert len(teacher.backbone._session.get_outputs()) == 1  # nobody asked yet
    image = noise(3, 3, 32, 32)
    before = teacher(image)
    assert [(level.stride, level.channels, level.signed, level.depth) for level in teacher.levels] == [
        (2, 6, False, 0.5),
        (4, 24, False, 0.75),
        (8, 10, True, 1.0),
    ]
    seen = teacher.read(image, Reads(tap=True, pooled=True, levels=teacher.levels[::-1]))
    torch.testing.assert_close(seen.tap, before)
    prepared = teacher.preprocessing(image)
    with torch.no_grad():
        for one, end in zip(seen.maps, (7, 5, 2), strict=True):
            torch.testing.assert_close(one, network[:end](prepared), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(teacher(image), before)


class _Tokens(nn.Module):
    """A network whose only maps are its patch embedding and an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 2)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2).unflatten(2, (2, 4)).transpose(1, 2)
        mixed = (tokens @ tokens.transpose(2, 3)).softmax(-1) @ tokens
        return self.head(mixed.transpose(1, 2).flatten(2).mean(1))


def test_an_onnx_transformer_has_none(tmp_path: Path) -> None:
    import onnx

    path = export(_Tokens(), noise(1, 3, 32, 32), tmp_path / "vit.onnx")
    teacher = load_teacher(str(path), tap=onnx.load(path).graph.output[0].name)
    assert teacher.levels == ()
    with pytest.raises(ValueError, match=r"the teacher 'vit.onnx' has no feature maps that can be read"):
        pair_levels(R18, teacher.levels)


class _Hybrid(nn.Module):
    """Attention over the positions of a convolution's map, whose weights `[1, 2, 16, 16]` look like a map."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.project, self.head = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 6, 1), nn.Linear(6, 2)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2).unflatten(2, (2, 4)).transpose(1, 2)
        mixed = (0.5 * (tokens @ tokens.transpose(2, 3))).softmax(-1) @ tokens
        maps = mixed.transpose(2, 3).flatten(1, 2).unflatten(2, (4, 4))
        return self.head(self.project(maps).relu().mean(dim=(2, 3)))


def test_the_weights_of_an_attention_are_no_level(tmp_path: Path) -> None:
    teacher = load_teacher(str(export(seeded(_Hybrid), noise(1, 3, 32, 32), tmp_path / "hybrid.onnx")))
    assert [(level.stride, level.channels, level.signed) for level in teacher.levels] == [(8, 6, False)]


@pytest.mark.skipif(not MOBILENET.is_file(), reason="the published MobileNetV2 is not here")
def test_levels_of_a_tflite_file() -> None:
    pytest.importorskip("ai_edge_litert")
    teacher = load_teacher(str(MOBILENET))
    assert [(level.stride, level.channels, level.signed) for level in teacher.levels] == [
        (2, 96, False),
        (4, 144, False),
        (8, 192, False),
        (16, 576, False),
        (32, 1280, False),
    ]
    image = F.interpolate(noise(2, 3, 6, 6), size=224, mode="bicubic").clamp(0, 1)
    seen = teacher.read(image, Reads(tap=True, pooled=True, levels=teacher.levels))
    assert torch.equal(seen.tap, teacher(image))
    assert torch.equal(seen.maps[-1], seen.tap)
    for level, one in zip(teacher.levels, seen.maps, strict=True):
        assert one.shape == (2, level.channels, 224 // level.stride, 224 // level.stride)
        assert one.min() == 0
        assert 0.1 < one.max() < 6.1  # ReLU6, dequantised
        assert not torch.equal(one[0], one[1])


# --- pairs ----------------------------------------------------------------------------------------------------------


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


# --- the reader -----------------------------------------------------------------------------------------------------


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
