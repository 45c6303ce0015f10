"""Files laid out as their publishers lay them out, with made-up values: every key and every shape."""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.networks.teacher.zoo import published_3d, vits
from tests.networks.teacher.zoo.vits import Layout, linears, norms

RECORDED: dict[str, Layout] = json.loads(
    gzip.decompress((Path(__file__).parent / "checkpoint_layouts.json.gz").read_bytes())
)


def layout_of(network: nn.Module, prefix: str = "") -> Layout:
    return {
        prefix + key: ["int64"] if key.endswith("num_batches_tracked") else list(tensor.shape)
        for key, tensor in network.state_dict().items()
    }


PERIOD = 100_003  # a prime, so that no two rows of a weight are equal


def values(layout: Layout, outline: bool = False) -> dict[str, Tensor]:
    """A tensor for every key: weights that keep a signal's size, norms about 1, biases about 0.

    Tensors of one fan-in are windows of one random store, so that a file of a billion numbers takes megabytes.
    With `outline`, each of several axes is one stored number, as is enough where only keys and shapes matter.
    """
    generator = torch.Generator().manual_seed(0)
    largest: dict[int, int] = {}
    for shape in layout.values():
        if len(shape) > 1 and not isinstance(shape[0], str) and not outline:
            fan = _product(shape[1:])
            largest[fan] = max(largest.get(fan, 0), _product(shape))
    drawn = torch.randn(PERIOD, generator=generator)
    stores = {fan: (drawn / fan**0.5).repeat((n + 5000) // PERIOD + 1) for fan, n in largest.items()}
    small = torch.randn(20_000, generator=generator) / 10
    made: dict[str, Tensor] = {}
    for number, (key, shape) in enumerate(layout.items()):
        start = number * 37 % 5000
        if shape == ["int64"]:
            made[key] = torch.tensor(7)
        elif shape[0] == "zeros":
            made[key] = torch.zeros(shape[1])
        elif shape[0] == "periods":
            made[key] = (100 ** (torch.arange(shape[1]) / shape[1])).bfloat16()
        elif len(shape) > 1 and outline:
            made[key] = torch.ones(1).expand(shape)
        elif len(shape) > 1:
            made[key] = stores[_product(shape[1:])][start : start + _product(shape)].view(shape)
        elif key.endswith(("running_var", "weight", "gamma", "lambda1", "gamma_1", "gamma_2")):
            made[key] = 1 + small[start : start + _product(shape)]
        else:
            made[key] = small[start : start + _product(shape)]
    return made


def shallow(layout: Layout, blocks: int) -> Layout:
    """The layout of a vision transformer with its first blocks alone."""
    return {
        key: shape for key, shape in layout.items() if not (n := re.search(r"blocks\.(\d+)", key)) or int(n[1]) < blocks
    }


def _product(shape: list[Any]) -> int:
    n = 1
    for length in shape:
        n *= length
    return n


# --- layouts that were not recorded, written from the publishers' code (those of vision transformers: vits.py) ------


def xrv() -> Layout:
    """The state dict of torchxrayvision's DenseNet: torchvision's for one channel, with 18 classes."""
    from torchvision.models import DenseNet

    network = DenseNet(32, (6, 12, 24, 16), 64, num_classes=18)
    network.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return {**layout_of(network), "op_threshs": [18]}


@cache
def swin_of_monai() -> Layout:
    """MONAI's SwinUNETR for one channel."""
    from monai.networks.nets import SwinUNETR

    return layout_of(SwinUNETR(in_channels=1, out_channels=32, feature_size=48))


def swin_ssl() -> Layout:
    """model_swinvit.pt, from what `SwinUNETR.load_from` reads and public loaders drop."""
    layout: dict[str, list[Any]] = {
        f"module.{key.removeprefix('swinViT.').replace('mlp.linear', 'mlp.fc')}": shape
        for key, shape in swin_of_monai().items()
        if key.startswith("swinViT.")
    }
    layout |= norms("module.", ("norm",), 768)
    layout |= linears("module.", {"rotation_head": (768, 4), "contrastive_head": (768, 512)})
    return layout | {"module.convTrans3d.weight": [768, 1, 2, 2, 2], "module.convTrans3d.bias": [1]}


def relative_positions(made: dict[str, Tensor]) -> dict[str, Tensor]:
    """Swin's index of relative positions is no weight: take the true one."""
    from monai.networks.nets.swin_unetr import WindowAttention

    index = WindowAttention(48, 3, (7, 7, 7)).relative_position_index
    return {key: index if key.endswith("relative_position_index") else tensor for key, tensor in made.items()}


def _flat(made: dict[str, Tensor]) -> Any:
    return made


def _state_dict(made: dict[str, Tensor]) -> Any:
    return {"epoch": 3, "state_dict": made, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}


def _pmc_clip_checkpoint() -> Layout:
    visual = {f"module.visual.{key}": shape for key, shape in RECORDED["pmc_clip/image_encoder(resnet50).pth"].items()}
    return {
        **visual,
        "module.logit_scale": [1],
        "module.positional_embedding": [77, 768],
        "module.text_projection": [768, 768],
        "module.mlm_projection": [768, 300],
        "module.img_special_token": [1, 1, 768],
        "module.ln_final.weight": [768],
        "module.text_encoder.embeddings.word_embeddings.weight": [300, 768],
        "module.fusion_module.resblocks.0.ln_1.weight": [768],
    }


def _brainiac() -> Layout:
    return {**RECORDED["brainiac/BrainIAC.ckpt"], "projector.0.weight": [512, 768], "projector.0.bias": [512]}


def _biomedclip() -> Layout:
    return {
        **RECORDED["biomedclip/open_clip_pytorch_model.bin"],
        "text.transformer.embeddings.word_embeddings.weight": [300, 768],
        "text.proj.0.weight": [640, 768],
        "logit_scale": [1],
    }


def _suprem() -> Layout:
    return {f"module.backbone.{key}": shape for key, shape in swin_of_monai().items()}


# entry, what differs between two files of one entry, file name, layout, how the file wraps it
FILES: list[tuple[str, str, Callable[[], Layout], Callable[[dict[str, Tensor]], Any]]] = [
    ("pmc_clip", "image_encoder.pth", lambda: RECORDED["pmc_clip/image_encoder(resnet50).pth"], _flat),
    ("pmc_clip", "checkpoint.pt", _pmc_clip_checkpoint, _state_dict),
    ("radimagenet_densenet121", "DenseNet121.pt", lambda: RECORDED["radimagenet/DenseNet121.pt"], _flat),
    ("radimagenet_resnet50", "ResNet50.pt", lambda: RECORDED["radimagenet/ResNet50.pt"], _flat),
    ("radimagenet_inceptionv3", "InceptionV3.pt", lambda: RECORDED["radimagenet/InceptionV3.pt"], _flat),
    ("lvm_med_vit_b", "lvmmed_vit.pth", lambda: RECORDED["lvmmed/lvmmed_vit.pth"], _flat),
    ("lvm_med_resnet50", "lvmmed_resnet.torch", lambda: RECORDED["lvmmed/lvmmed_resnet.torch"], _flat),
    ("biomedclip", "open_clip_pytorch_model.bin", _biomedclip, _flat),
    ("medsiglip_448", "model.bin", vits.siglip, _flat),
    (
        "rad_dino",
        "backbone_compatible.bin",
        lambda: {**RECORDED["rad_dino/backbone_compatible.safetensors"], "mask_token": [1, 768]},
        _flat,
    ),
    ("rad_dino", "model.bin", vits.dinov2_of_transformers, _flat),
    ("dinov2_vits14", "dinov2_vits14_pretrain.pth", lambda: vits.dinov2(width=384), _flat),
    ("dinov2_vitb14", "dinov2_vitb14_pretrain.pth", vits.dinov2, _flat),
    ("dinov2_vitb14", "model.bin", vits.dinov2_of_transformers, _flat),
    ("dinov2_vitl14", "dinov2_vitl14_pretrain.pth", lambda: vits.dinov2(24, 1024), _flat),
    ("dinov3_vits16", "dinov3_vits16_pretrain_lvd1689m.pth", lambda: vits.dinov3(width=384), _flat),
    ("dinov3_vitb16", "dinov3_vitb16_pretrain_lvd1689m.pth", vits.dinov3, _flat),
    ("dinov3_vitb16", "model.bin", vits.dinov3_of_transformers, _flat),
    ("dinov3_vitl16", "timm.bin", vits.dinov3_of_timm, _flat),
    ("meddinov3_ct", "model.pth", vits.meddinov3, lambda made: {"teacher": made}),
    ("curia", "model.bin", lambda: vits.dinov2_of_transformers(12, 32, 16, 1, gated=True), _flat),
    ("curia_2", "model.bin", lambda: vits.dinov2_of_transformers(12, 32, 16, 1, gated=True), _flat),
    ("uni2_h", "pytorch_model.bin", vits.uni2, _flat),
    ("virchow2", "pytorch_model.bin", vits.virchow2, _flat),
    ("panderm", "panderm_ll_data6_checkpoint-499.pth", vits.panderm, lambda made: {"model": made, "epoch": 499}),
    ("sam_vit_b", "sam_vit_b_01ec64.pth", vits.sam, _flat),
    ("medsam", "medsam_vit_b.pth", vits.sam, _flat),
    ("torchxrayvision_densenet121", "xrv.pt", xrv, _flat),
    (
        "retfound",
        "RETFound_mae_natureCFP.pth",
        vits.mae,
        lambda made: {"model": made, "epoch": 799, "scaler": {}, "args": argparse.Namespace(blr=1e-3, device="cuda")},
    ),
    (
        "usfm",
        "USFM_latest.pth",
        lambda: {
            **RECORDED["usfm/USFM_latest.pth"],
            "mask_token": [1, 1, 768],
            "rel_pos_bias.relative_position_index": [197, 197],
        },
        _flat,
    ),
    ("ct_fm", "model.pt", lambda: RECORDED["ct_fm/model.safetensors"], _flat),
    ("swinunetr_ssl", "model_swinvit.pt", swin_ssl, lambda made: {"state_dict": relative_positions(made)}),
    (
        "suprem_swinunetr",
        "supervised_suprem_swinunetr_2100.pth",
        _suprem,
        lambda made: {"net": relative_positions(made), "epoch": 2100},
    ),
    ("brainiac", "BrainIAC.ckpt", _brainiac, _state_dict),
    *published_3d.FILES,
]


def write(folder: Path, entry: str, file: str = "", outline: bool = False) -> tuple[Path, dict[str, Tensor]]:
    """Write a published file (the first of its entry where `file` does not say) and give its tensors too."""
    name, layout, wrap = next((f, lay, wr) for e, f, lay, wr in FILES if e == entry and file in ("", f))
    made = values(layout(), outline)
    torch.save(wrap(made), folder / name)
    return folder / name, made
