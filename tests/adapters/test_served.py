"""Which teachers an adapter serves, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.adapters import build_adapter
from monai_rd.networks import TEACHERS, FrozenFoundationModel, Preprocessing, VolumePreprocessing
from monai_rd.networks.teacher.zoo.networks import TeacherBackbone, build
from tests.adapters.tiny import FEW, HEADS, PLAIN, PROMPTED, WIDTH, adapt, inputs, teacher, trained


@pytest.mark.slow
def test_lvm_med_at_its_true_size() -> None:
    """SAM's encoder for 1024 pixels at 224: one window as a flat sequence, which prompts join, is what windows give."""
    arguments = {"num_classes": 0, "use_abs_pos": False, "img_size": 1024, "layer_norm_eps": 1e-6, "neck": False}
    made = build("timm:samvit_base_patch16", arguments)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.03, generator=generator)
    backbone = TeacherBackbone(made, "timm:samvit_base_patch16", "map")
    size = Preprocessing(224, (0.5,) * 3, (0.5,) * 3)
    base = FrozenFoundationModel(backbone, channels=768, kind="map", preprocessing=size, name="lvm_med")
    image = torch.rand(1, 3, 224, 224, generator=generator)
    expected = base(image)
    torch.manual_seed(0)
    lora, flat = build_adapter("lora", base, 3).eval(), build_adapter("vpt_deep", base, 3, tokens=0).eval()
    prompted = build_adapter("vpt_deep", base, 3).eval()
    with torch.no_grad():
        torch.testing.assert_close(lora.backbone(size(image)), expected, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(flat.backbone(size(image)), expected, atol=1e-4, rtol=1e-3)
        assert (prompted.backbone(size(image)) - expected).abs().max() > 1e-3


SERVED = {"biomedclip", "medsiglip_448", "rad_dino", "retfound", "lvm_med_vit_b", "sam_vit_b", "medsam"}


@pytest.mark.parametrize("name", [*sorted(SERVED), "usfm", "radimagenet_resnet50"])
def test_which_of_the_known_teachers_are_served(name: str) -> None:
    entry = TEACHERS[name]
    shorter = {} if "resnet" in name else {"depth": 1}
    with torch.device("meta"):
        made = build(entry.builder, {**entry.arguments, **shorter})
    backbone = TeacherBackbone(made, entry.builder, entry.kind)
    base = FrozenFoundationModel(
        backbone, channels=entry.channels, kind=entry.kind, preprocessing=entry.preprocessing, name=name
    )
    if name not in SERVED:
        with pytest.raises(ValueError, match="'lora' changes the blocks of a ViT"):
            build_adapter("lora", base, 2)
        return
    for adapter in ("adaptformer", "lora"):
        build_adapter(adapter, base, 2)
    for adapter in PROMPTED:
        if entry.grid == (64, 64):
            with pytest.raises(ValueError, match="224 pixels a side, and not 1024"):
                build_adapter(adapter, base, 2)
        else:
            build_adapter(adapter, base, 2)


def test_a_vit_without_class_token_and_the_trunk_of_open_clip() -> None:
    from open_clip.timm_model import TimmModel

    base = teacher("plain", class_token=False, global_pool="avg")
    image = inputs()
    adapted = adapt("vqt", base).eval()
    with torch.no_grad():
        mean = F.normalize(base(image).flatten(2).mean(2), dim=1)
        torch.testing.assert_close(adapted.backbone(PLAIN(image))[:, :WIDTH], mean, atol=1e-5, rtol=1e-4)
    tower = TimmModel("vit_tiny_patch16_224", embed_dim=8, pretrained=False).eval()
    size, image = Preprocessing(224, (0.5,) * 3, (0.5,) * 3), torch.rand(2, 3, 224, 224)
    backbone = TeacherBackbone(tower, "open_clip:visual", "map")
    clip = FrozenFoundationModel(backbone, channels=192, kind="map", preprocessing=size, name="clip")
    lora, prompted = build_adapter("lora", clip, 2).eval(), build_adapter("vpt_deep", clip, 2)
    with torch.no_grad():
        torch.testing.assert_close(lora.backbone(size(image)), clip(image), atol=1e-5, rtol=1e-4)
    prompted(image).sum().backward()
    assert all(p.grad is not None for p in trained(prompted).values())


def _other(backbone: Any, preprocessing: Any = PLAIN) -> FrozenFoundationModel:
    return FrozenFoundationModel(backbone, channels=4, kind="map", preprocessing=preprocessing, name="other")


class _BlackBox:
    def __call__(self, image: Tensor) -> Tensor:
        return image.mean(dim=1, keepdim=True).expand(-1, 4, -1, -1)[..., ::8, ::8]

    def fingerprint(self) -> str:
        return "a file"


@pytest.mark.parametrize("name", ["adaptformer", "lora", *PROMPTED])
def test_other_networks_are_refused(name: str) -> None:
    works = "linear_probe works for every teacher, full for every one that is no ONNX"
    for backbone in (nn.Conv2d(3, 4, 8), _BlackBox(), timm.create_model("beit_base_patch16_224", depth=1)):
        with pytest.raises(ValueError, match=f"'{name}' changes the blocks of a ViT.*'other' does not have: {works}"):
            build_adapter(name, _other(backbone), 2)


def test_cnns_volumes_and_black_boxes_have_the_probe() -> None:
    image = inputs()
    for name in ("linear_probe", "full"):
        adapted = build_adapter(name, _other(nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4))), 2)
        assert adapted(image).shape == (2, 2)
        volumes = FrozenFoundationModel(
            nn.Conv3d(1, 4, 4), channels=4, kind="map", preprocessing=VolumePreprocessing(8), name="volumes"
        )
        assert build_adapter(name, volumes, 2)(torch.rand(2, 1, 8, 8, 8)).shape == (2, 2)
    probe = build_adapter("linear_probe", _other(_BlackBox()), 2)
    probe(image).sum().backward()
    assert probe.head.weight.grad is not None
    with pytest.raises(ValueError, match="'other' is a black box, which gives no gradient: only linear_probe"):
        build_adapter("full", _other(_BlackBox()), 2)
    with pytest.raises(ValueError, match="'linear_probe' normalises over the batch: use a --batch_size of 2"):
        probe(image[:1])


@pytest.mark.parametrize("name", PROMPTED)
def test_prompts_need_one_window(name: str) -> None:
    large = teacher("sam", Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
    message = f"'{name}' needs the grid of the teacher 'sam' to be one window, which is 32 pixels a side, and not 64"
    with pytest.raises(ValueError, match=message):
        build_adapter(name, large, 2)
    free = build_adapter(name, teacher("sam", Preprocessing(None, (0.5,) * 3, (0.5,) * 3)), 2, **FEW.get(name, {}))
    assert free(inputs()).shape == (2, 2)
    if name != "vqt":
        with pytest.raises(ValueError, match=r"one window of 4 positions a side, got \(8, 8\)"):
            free(torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize("name", ["adaptformer", "lora"])
def test_windows_are_nothing_to_the_others(name: str) -> None:
    large = teacher("sam", Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(adapt(name, large).eval().backbone(large.preprocessing(image)), large(image))


def test_names_and_options() -> None:
    base = teacher("plain")
    with pytest.raises(ValueError, match="unknown adapter 'lola'; known: linear_probe, full, adaptformer, lora, vpt"):
        build_adapter("lola", base, 2)
    with pytest.raises(ValueError, match="'lora' has no option width; it takes rank, alpha"):
        build_adapter("lora", base, 2, width=4)
    with pytest.raises(ValueError, match="chosen must be from 1 to 3, the number of groups, not 4"):
        build_adapter("lpt", base, 2, groups=3, chosen=4)
    assert HEADS * 8 == WIDTH
