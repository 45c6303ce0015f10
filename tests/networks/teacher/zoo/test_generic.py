"""Any network of timm or image tower of open_clip, by name or in a folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from monai_rd.networks.preprocessing import Preprocessing
from monai_rd.networks.teacher.zoo import load_teacher
from monai_rd.networks.teacher.zoo.generic import generic_entry

TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2},
    "resnet": {"image_size": 64, "width": 8, "head_width": 8, "layers": [1, 1, 1, 1]},
    "timm": {
        "image_size": 224,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_model_pretrained": True,  # it must not be asked for
        "timm_pool": "",
        "timm_proj": "linear",
    },
}


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("vit_small_patch16_dinov3.lvd1689m", (256, 256), (384, 16, 16)),
        ("vit_small_patch14_reg4_dinov2.lvd142m", (518, 518), (384, 37, 37)),
        ("convnext_tiny.dinov3_lvd1689m", (224, 224), (768, 7, 7)),
        ("swin_tiny_patch4_window7_224", (224, 224), (768, 7, 7)),
        ("mobilenetv3_small_100", (224, 224), (576, 7, 7)),  # whose num_features is 1024
        ("efficientnet_b0", (224, 224), (1280, 7, 7)),
        ("vit_tiny_patch16_224", (224, 224), (192, 14, 14)),
    ],
)
def test_timm_describes_its_networks(name: str, size: tuple[int, int], shape: tuple[int, ...]) -> None:
    entry, beside = generic_entry(f"timm:{name}", {})
    assert beside is None
    assert (entry.preprocessing.size, (entry.channels, *entry.grid)) == (size, shape)
    assert entry.hub is not None
    assert entry.hub.repo.startswith(f"timm/{name}")
    assert entry.licence == ("dinov3-license" if "dinov3" in name else "apache-2.0" if "swin" not in name else "mit")


def test_a_dinov2_of_another_size(tmp_path: Path) -> None:
    """Prefix tokens are dropped, and the network's own arguments may be changed."""
    arguments = {"img_size": 112, "depth": 1}
    network = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, **arguments).eval()
    save_file({**network.state_dict(), "head.weight": torch.zeros(2, 384)}, tmp_path / "w.safetensors")
    loaded = load_teacher("timm:vit_small_patch14_reg4_dinov2", tmp_path / "w.safetensors", **arguments)
    assert isinstance(loaded.backbone, nn.Module)
    image = torch.rand(1, 3, 112, 112)
    with torch.no_grad():
        tokens = network.forward_features(image)
        assert tokens.shape == (1, 5 + 64, 384)
        assert torch.equal(loaded.backbone(image)[0, :, 2, 3], tokens[0, 5 + 2 * 8 + 3])


@pytest.mark.parametrize("tower", TOWERS)
def test_a_folder_of_open_clip(tower: str, tmp_path: Path) -> None:
    model = {"embed_dim": 24, "vision_cfg": TOWERS[tower], "text_cfg": TEXT}
    images = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    torch.manual_seed(0)
    vision = {**TOWERS[tower], "timm_model_pretrained": False}
    whole = CLIP(24, vision, TEXT).eval()  # type: ignore[arg-type]
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": images}))
    torch.save(whole.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    loaded = load_teacher(f"local-dir:{tmp_path}")
    size = TOWERS[tower]["image_size"]
    assert loaded.preprocessing == Preprocessing(size, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert isinstance(loaded.backbone, nn.Module)
    image = torch.rand(1, 3, size, size)
    with torch.no_grad():
        if tower == "resnet":
            visual = whole.visual
            expected = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(image)))))
        elif tower == "timm":
            expected = whole.visual.trunk.forward_features(image)[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
        else:
            tokens = whole.visual.transformer(whole.visual._embeds(image))
            expected = whole.visual.ln_post(tokens)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        torch.testing.assert_close(loaded.backbone(image), expected)
    vector = load_teacher(f"local-dir:{tmp_path}", tap="vector")
    assert (vector.kind, vector.channels) == ("vector", loaded.channels)


def test_open_clips_own_names(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    entry, _ = generic_entry("open_clip:ViT-B-32", {})
    assert (entry.channels, entry.grid, entry.preprocessing.interpolation) == (768, (7, 7), "bicubic")
    assert "CLIP's mean and std are assumed" in caplog.text
    with pytest.raises(ValueError, match=r"needs a checkpoint \(--teacher_checkpoint FILE\)"):
        load_teacher("open_clip:ViT-B-32")


def test_a_folder_of_timm(tmp_path: Path) -> None:
    network = timm.create_model("resnet10t", channels=[4, 4, 8, 8], num_classes=3).eval()
    config = {
        "architecture": "resnet10t",
        "model_args": {"channels": [4, 4, 8, 8]},
        "pretrained_cfg": {"input_size": [3, 64, 64], "classifier": "fc", "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match=r"no weights lie there; looked for model\.safetensors"):
        load_teacher(f"local-dir:{tmp_path}")
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    loaded = load_teacher(f"local-dir:{tmp_path}")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), network.forward_features(image * 2 - 1))
        pooled = load_teacher(f"local-dir:{tmp_path}", tap="vector")(image)
        assert torch.allclose(pooled, F.adaptive_avg_pool2d(network.forward_features(image * 2 - 1), 1).flatten(1))


def test_folders_that_describe_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither config"):
        load_teacher(f"local-dir:{tmp_path}")
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json: no description of a network"):
            load_teacher(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no architecture of timm"):
        load_teacher(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 3}}')
    with pytest.raises(ValueError, match="has no image tower"):
        load_teacher(f"local-dir:{tmp_path}")


def test_a_network_without_a_map() -> None:
    with pytest.raises(ValueError, match="has no feature map that can be read"):
        generic_entry("timm:levit_128s", {})
