"""The feature levels of every teacher, black boxes among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks import nets
from monai.networks.nets.segresnet_ds import SegResEncoder
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.networks import TEACHERS, FrozenFoundationModel, Preprocessing, Reads, load_teacher
from monai_rd.networks.bag import fold
from monai_rd.networks.levels import find_levels, pair_levels
from monai_rd.networks.teacher.zoo import TeacherEntry
from monai_rd.networks.teacher.zoo.networks import TeacherBackbone, build
from tests.networks.levels_of import R18, noise, read, seeded
from tests.networks.teacher.shapes import on_meta
from tests.networks.teacher.test_blackbox import MOBILENET, export

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


@pytest.mark.slow
@pytest.mark.parametrize("entry", TEACHERS.values(), ids=TEACHERS)
def test_levels_of_every_teacher(entry: TeacherEntry) -> None:
    """Shapes at the full size of every network, of ViTs with four blocks; nothing is computed."""
    blocks = any(word in entry.builder for word in ("vit_", "beit"))
    depth = {"depth": 4} if blocks else {"num_layers": 4} if entry.builder == "monai:ViT" else {}
    network = TeacherBackbone(on_meta(entry.builder, {**entry.arguments, **depth}), entry.builder, "map")
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
    reads = Reads(tap=True, pooled=True, levels=teacher.levels)
    seen = teacher.read(bag, reads)
    assert reads.names().keys() == seen.parts.keys()
    assert len(set(reads.names().values())) == len(seen.parts)  # a feature store tells them apart
    assert torch.equal(seen.tap, teacher(bag))
    if not hasattr(network, "forward_intermediates"):
        pytest.skip("this timm does not tell the maps of this network")
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
