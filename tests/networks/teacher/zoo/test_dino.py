"""DINOv2 and DINOv3, of Meta and of medicine: every file's features are those of a ViT written anew."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from monai_rd.networks.preprocessing import Preprocessing
from monai_rd.networks.teacher.zoo import TEACHERS, load_teacher
from monai_rd.networks.teacher.zoo.networks import build
from tests.networks.teacher.zoo import literal, published, vits
from tests.networks.teacher.zoo.test_layouts import _image, _network, _same

META: dict[str, Any] = {"scales": ("ls1.gamma", "ls2.gamma")}
TRANSFORMERS: dict[str, Any] = {
    "qkv": tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    "out": "attention.output.dense",
    "scales": ("layer_scale1.lambda1", "layer_scale2.lambda1"),
    "final": "layernorm",
}


def _of_transformers(image: Tensor, w: literal.Weights, **other: Any) -> Tensor:
    x = literal.patches(image, w, "embeddings.patch_embeddings.projection")
    x = torch.cat([w["embeddings.cls_token"], x], dim=1) + w["embeddings.position_embeddings"]
    return literal.vit(x, w, "encoder.layer.{i}.", 2, 12, **{**TRANSFORMERS, **other})


def _with_registers(image: Tensor, w: literal.Weights, registers: str, at: str = "") -> Tensor:
    return torch.cat([w[f"{at}cls_token"], w[at + registers], literal.patches(image, w, f"{at}patch_embed.proj")], 1)


def _meta_dinov2(image: Tensor, w: literal.Weights) -> Tensor:
    x = torch.cat([w["cls_token"], literal.patches(image, w, "patch_embed.proj")], dim=1) + w["pos_embed"]
    return literal.vit(x, w, "blocks.{i}.", 2, x.shape[-1] // 64, **META)


def _dinov3(image: Tensor, w: literal.Weights, at: str = "", eps: float = 1e-5, **other: Any) -> Tensor:
    registers = "reg_token" if "reg_token" in w else "storage_tokens"
    named = {"rope": (image.shape[2] // 16, image.shape[3] // 16), "eps": eps, "final": f"{at}norm", **META, **other}
    heads = w[f"{at}cls_token"].shape[-1] // 64
    return literal.vit(_with_registers(image, w, registers, at), w, at + "blocks.{i}.", 2, heads, **named)


def _dinov3_of_transformers(image: Tensor, w: literal.Weights) -> Tensor:
    x = literal.patches(image, w, "embeddings.patch_embeddings")
    x = torch.cat([w["embeddings.cls_token"], w["embeddings.register_tokens"], x], dim=1)
    return literal.vit(
        x,
        w,
        "layer.{i}.",
        2,
        12,
        eps=1e-5,
        qkv=tuple(f"attention.{letter}_proj" for letter in "qkv"),
        out="attention.o_proj",
        mlp=("mlp.up_proj", "mlp.down_proj"),
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        rope=(image.shape[2] // 16, image.shape[3] // 16),
    )


def _uni2(image: Tensor, w: literal.Weights) -> Tensor:
    on_grid = literal.patches(image, w, "patch_embed.proj") + w["pos_embed"]
    x = torch.cat([w["cls_token"], w["reg_token"], on_grid], dim=1)
    return literal.vit(x, w, "blocks.{i}.", 2, 24, gated=True, **META)


def _virchow2(image: Tensor, w: literal.Weights) -> Tensor:
    x = _with_registers(image, w, "reg_token") + w["pos_embed"]
    return literal.vit(x, w, "blocks.{i}.", 2, 16, gated=True, **META)


def _panderm(image: Tensor, w: literal.Weights) -> Tensor:
    x = torch.cat([w["encoder.cls_token"], literal.patches(image, w, "encoder.patch_embed.proj")], dim=1)
    named: dict[str, Any] = {"qkv_bias": ("attn.q_bias", "attn.v_bias"), "scales": ("gamma_1", "gamma_2")}
    x = x + w["encoder.pos_embed"]
    return literal.vit(x, w, "encoder.blocks.{i}.", 2, 16, final="encoder.norm", **named)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("entry", "layout", "sides", "patch", "expected"),
    [
        ("dinov2_vits14", lambda: vits.dinov2(2, 384), (518, 518), 14, _meta_dinov2),
        ("dinov2_vitb14", lambda: vits.dinov2_of_transformers(2, 10), (140, 140), 14, _of_transformers),
        (
            "dinov2_vitl14",
            lambda: {**vits.dinov2(2, 1024), "pos_embed": [1, 1 + 8 * 10, 1024]},
            (112, 140),
            14,
            _meta_dinov2,
        ),
        ("dinov3_vits16", lambda: vits.dinov3(2, 384), (256, 256), 16, _dinov3),
        ("dinov3_vitb16", lambda: vits.dinov3(2), (96, 160), 16, _dinov3),
        ("dinov3_vitb16", lambda: vits.dinov3_of_transformers(2), (96, 160), 16, _dinov3_of_transformers),
        (
            "dinov3_vitl16",
            lambda: vits.dinov3_of_timm(2),
            (96, 160),
            16,
            lambda image, w: _dinov3(image, w, scales=("gamma_1", "gamma_2")),
        ),
        (
            "meddinov3_ct",
            lambda: vits.meddinov3(2),
            (96, 160),
            16,
            lambda image, w: _dinov3(image, {**w, "storage_tokens": w["backbone.storage_tokens"]}, "backbone.", 1e-6),
        ),
        (
            "curia",
            lambda: vits.dinov2_of_transformers(2, 9, 16, 1, gated=True),
            (144, 144),
            16,
            lambda image, w: _of_transformers(image, w, gated=True, mlp=("mlp.weights_in", "mlp.weights_out")),
        ),
        ("uni2_h", lambda: vits.uni2(2), (224, 224), 14, _uni2),
        ("virchow2", lambda: vits.virchow2(2), (224, 224), 14, _virchow2),
        ("panderm", lambda: vits.panderm(2), (224, 224), 16, _panderm),
    ],
)
def test_features_are_those_of_a_vit_written_anew(
    entry: str,
    layout: Callable[[], vits.Layout],
    sides: tuple[int, int],
    patch: int,
    expected: Callable[[Tensor, literal.Weights], Tensor],
    tmp_path: Path,
) -> None:
    """Two blocks of each, at its own size or a smaller one; DINOv3, which takes any size, just so."""
    w = published.values(layout())
    torch.save(w, tmp_path / "model.bin")
    image = _image(*sides, channels=1 if entry == "curia" else 3)
    tokens = expected(image, {key: tensor.float() for key, tensor in w.items()})
    own = {"img_size": sides} if entry in ("dinov2_vitb14", "dinov2_vitl14", "curia") else {}
    got = _network(entry, tmp_path / "model.bin", depth=2, **own)(image)
    _same(got, literal.grid(tokens, [n // patch for n in sides]))


@pytest.mark.slow
@torch.no_grad()
def test_rad_dino_is_dinov2_by_either_file(tmp_path: Path) -> None:
    """Two of twelve blocks at 140 instead of 518 pixels; the second file is in half precision."""
    w = published.values(vits.dinov2_of_transformers(2, 10))
    image, small = _image(140, 140), {"depth": 2, "img_size": 140}
    torch.save(w, tmp_path / "model.bin")
    network = _network("rad_dino", tmp_path / "model.bin", **small)
    got = network(image)
    _same(got, literal.grid(_of_transformers(image, w), (10, 10)))
    own = {key.removeprefix("network."): tensor.half().contiguous() for key, tensor in network.state_dict().items()}
    save_file({**own, "mask_token": torch.zeros(1, 768)}, tmp_path / "backbone_compatible.safetensors")
    again = _network("rad_dino", tmp_path / "backbone_compatible.safetensors", **small)
    assert {tensor.dtype for tensor in again.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(again(image), got, atol=0.03, rtol=0.03)


def test_what_would_be_lost_silently_is_refused(tmp_path: Path) -> None:
    """A DINOv3 file is loaded without its biases and periods only where these change nothing."""
    w = published.values(vits.dinov3(2, 384))
    for key, value in (
        ("blocks.1.attn.qkv.bias", torch.tensor([0.0] * 1151 + [1e-3])),
        ("blocks.0.attn.qkv.bias", torch.full((1152,), float("nan"))),
        ("rope_embed.periods", 50 ** (torch.arange(16) / 16)),
        ("rope_embed.periods", torch.tensor(1.0)),
    ):
        torch.save({**w, key: value}, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=rf"does not fit dinov3_vits16: 32 of 32 tensors fit; 1 unexpected: {key}"):
            load_teacher("dinov3_vits16", tmp_path / "other.pth", depth=2)
    torch.save(w, tmp_path / "usual.pth")
    assert load_teacher("dinov3_vits16", tmp_path / "usual.pth", depth=2).channels == 384


def test_only_layers_of_timm_are_built_by_name() -> None:
    arguments = {"depth": 1, "embed_dim": 24, "num_heads": 3, "num_classes": 0}
    gated = build("timm:vit_tiny_patch16_224", {**arguments, "mlp_layer": "SwiGLUPacked"})
    assert gated.get_parameter("blocks.0.mlp.fc2.weight").shape == (24, 48)
    for name in ("Identity", "set_fused_attn", "os.system"):
        with pytest.raises(ValueError, match=f"mlp_layer must be one of Mlp, .*SwiGLUPacked, not '{name}'"):
            build("timm:vit_tiny_patch16_224", {**arguments, "mlp_layer": name})


def test_curia_standardises_every_slice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the authors' processor: grey, the mean and standard deviation of the slice itself, whatever its scale."""
    slices = torch.rand(2, 1, 512, 512)
    wanted = (slices - slices.mean(dim=(1, 2, 3), keepdim=True)) / slices.std(dim=(1, 2, 3), keepdim=True)
    preprocessing = TEACHERS["curia"].preprocessing
    for scaled in (slices, slices * 0.2 + 0.3):
        torch.testing.assert_close(preprocessing(scaled.expand(-1, 3, -1, -1)), wanted, atol=1e-4, rtol=1e-4)
    hounsfield = torch.tensor([-1000.0, 65.1084, 1000.0]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    seen = Preprocessing(None, *_mean_and_std("meddinov3_ct"))((hounsfield + 1000) / 2000)
    torch.testing.assert_close(seen, (hounsfield - 65.1084) / 178.0166, atol=1e-4, rtol=1e-4)
    torch.save(published.values(vits.meddinov3(1)), tmp_path / "model.pth")
    caplog.set_level(logging.INFO)
    load_teacher("meddinov3_ct", tmp_path / "model.pth", depth=1)
    assert 'in CT, 0 is -1000 HU and 1 is 1000 HU: --windows "[[0, 2000]]" (centre, width)' in caplog.text


def _mean_and_std(name: str) -> tuple[Any, Any]:
    preprocessing = TEACHERS[name].preprocessing
    return preprocessing.mean, preprocessing.std
