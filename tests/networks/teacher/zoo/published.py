"""Files laid out as their publishers lay them out, with made-up values: every key and every shape."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Layout = Mapping[str, list[Any]]  # key -> shape; ["int64"] is a counter

RECORDED: dict[str, Layout] = json.loads(
    gzip.decompress((Path(__file__).parent / "checkpoint_layouts.json.gz").read_bytes())
)


def layout_of(network: nn.Module, prefix: str = "") -> Layout:
    return {
        prefix + key: ["int64"] if key.endswith("num_batches_tracked") else list(tensor.shape)
        for key, tensor in network.state_dict().items()
    }


def values(layout: Layout) -> dict[str, Tensor]:
    """A tensor for every key: weights that keep a signal's size, norms about 1, biases about 0.

    Tensors of one fan-in are windows of one random store, so that a file of a billion numbers takes megabytes.
    """
    generator = torch.Generator().manual_seed(0)
    largest: dict[int, int] = {}
    for shape in layout.values():
        if len(shape) > 1:
            fan = _product(shape[1:])
            largest[fan] = max(largest.get(fan, 0), _product(shape))
    stores = {fan: torch.randn(n + 5000, generator=generator) / fan**0.5 for fan, n in largest.items()}
    small = torch.randn(20_000, generator=generator) / 10
    made: dict[str, Tensor] = {}
    for number, (key, shape) in enumerate(layout.items()):
        start = number * 37 % 5000
        if shape == ["int64"]:
            made[key] = torch.tensor(7)
        elif len(shape) > 1:
            made[key] = stores[_product(shape[1:])][start : start + _product(shape)].view(shape)
        elif key.endswith(("running_var", "weight", "gamma", "lambda1", "gamma_1", "gamma_2")):
            made[key] = 1 + small[start : start + _product(shape)]
        else:
            made[key] = small[start : start + _product(shape)]
    return made


def _product(shape: list[Any]) -> int:
    n = 1
    for length in shape:
        n *= length
    return n


# --- layouts that were not recorded, written from the publishers' code ----------------------------------------------


def sam(size: int = 1024, depth: int = 12, global_blocks: tuple[int, ...] = (2, 5, 8, 11)) -> Layout:
    """SAM's own file: its image encoder, and a tensor or two of its other parts."""
    side = size // 16
    layout: dict[str, list[Any]] = {
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": [2, 128],
        "prompt_encoder.point_embeddings.0.weight": [1, 256],
        "mask_decoder.iou_token.weight": [1, 256],
        "image_encoder.pos_embed": [1, side, side, 768],
        "image_encoder.patch_embed.proj.weight": [768, 3, 16, 16],
        "image_encoder.patch_embed.proj.bias": [768],
        "image_encoder.neck.0.weight": [256, 768, 1, 1],
        "image_encoder.neck.2.weight": [256, 256, 3, 3],
    }
    for norm in (1, 3):
        layout |= {f"image_encoder.neck.{norm}.weight": [256], f"image_encoder.neck.{norm}.bias": [256]}
    for i in range(depth):
        block = f"image_encoder.blocks.{i}."
        positions = 2 * (side if i in global_blocks else 14) - 1
        layout |= {f"{block}attn.rel_pos_h": [positions, 64], f"{block}attn.rel_pos_w": [positions, 64]}
        layout |= _linears(block, {"attn.qkv": (768, 2304), "attn.proj": (768, 768)})
        layout |= _linears(block, {"mlp.lin1": (768, 3072), "mlp.lin2": (3072, 768)})
        layout |= _norms(block, ("norm1", "norm2"), 768)
    return layout


def _linears(prefix: str, sizes: Mapping[str, tuple[int, int]]) -> Layout:
    return {
        f"{prefix}{name}.{kind}": shape
        for name, (inputs, outputs) in sizes.items()
        for kind, shape in (("weight", [outputs, inputs]), ("bias", [outputs]))
    }


def _norms(prefix: str, names: tuple[str, ...], width: int) -> Layout:
    return {f"{prefix}{name}.{kind}": [width] for name in names for kind in ("weight", "bias")}


def siglip(size: int = 448, depth: int = 27) -> Layout:
    """transformers' SiglipModel: the image tower, and a tensor or two of the text tower."""
    vision, width, hidden = "vision_model.", 1152, 4304
    layout: dict[str, list[Any]] = {
        "logit_scale": [1],
        "logit_bias": [1],
        "text_model.embeddings.token_embedding.weight": [100, width],
        "text_model.final_layer_norm.weight": [width],
        f"{vision}embeddings.patch_embedding.weight": [width, 3, 14, 14],
        f"{vision}embeddings.patch_embedding.bias": [width],
        f"{vision}embeddings.position_embedding.weight": [(size // 14) ** 2, width],
        f"{vision}head.probe": [1, 1, width],
        f"{vision}head.attention.in_proj_weight": [3 * width, width],
        f"{vision}head.attention.in_proj_bias": [3 * width],
    }
    layout |= _linears(f"{vision}head.", {"attention.out_proj": (width, width)})
    layout |= _linears(f"{vision}head.", {"mlp.fc1": (width, hidden), "mlp.fc2": (hidden, width)})
    layout |= _norms(vision, ("post_layernorm", "head.layernorm"), width)
    for i in range(depth):
        layer = f"{vision}encoder.layers.{i}."
        layout |= _linears(layer, {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")})
        layout |= _linears(layer, {"mlp.fc1": (width, hidden), "mlp.fc2": (hidden, width)})
        layout |= _norms(layer, ("layer_norm1", "layer_norm2"), width)
    return layout


def dinov2_of_transformers(depth: int = 12) -> Layout:
    """transformers' Dinov2Model of a ViT-B/14 at 518."""
    width = 768
    layout: dict[str, list[Any]] = {
        "embeddings.cls_token": [1, 1, width],
        "embeddings.mask_token": [1, width],
        "embeddings.position_embeddings": [1, 1370, width],
        "embeddings.patch_embeddings.projection.weight": [width, 3, 14, 14],
        "embeddings.patch_embeddings.projection.bias": [width],
    }
    for i in range(depth):
        layer = f"encoder.layer.{i}."
        layout |= _linears(layer, {f"attention.attention.{name}": (width, width) for name in ("query", "key", "value")})
        layout |= _linears(layer, {"attention.output.dense": (width, width), "mlp.fc1": (width, 4 * width)})
        layout |= _linears(layer, {"mlp.fc2": (4 * width, width)})
        layout |= _norms(layer, ("norm1", "norm2"), width)
        layout |= {f"{layer}layer_scale{n}.lambda1": [width] for n in (1, 2)}
    return layout | _norms("", ("layernorm",), width)


def mae(depth: int = 24) -> Layout:
    """MAE's ViT-L/16 with its decoder, of which the first block stands for all."""
    layout: dict[str, list[Any]] = {
        "cls_token": [1, 1, 1024],
        "pos_embed": [1, 197, 1024],
        "mask_token": [1, 1, 512],
        "decoder_pos_embed": [1, 197, 512],
        "patch_embed.proj.weight": [1024, 3, 16, 16],
        "patch_embed.proj.bias": [1024],
    }
    for i in range(depth):
        layout |= _linears(f"blocks.{i}.", {"attn.qkv": (1024, 3072), "attn.proj": (1024, 1024)})
        layout |= _linears(f"blocks.{i}.", {"mlp.fc1": (1024, 4096), "mlp.fc2": (4096, 1024)})
        layout |= _norms(f"blocks.{i}.", ("norm1", "norm2"), 1024)
    layout |= _linears("", {"decoder_embed": (1024, 512), "decoder_blocks.0.mlp.fc1": (512, 2048)})
    return layout | _linears("", {"decoder_pred": (512, 768)}) | _norms("", ("norm",), 1024)


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
    layout |= _norms("module.", ("norm",), 768)
    layout |= _linears("module.", {"rotation_head": (768, 4), "contrastive_head": (768, 512)})
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
    ("medsiglip_448", "model.bin", siglip, _flat),
    (
        "rad_dino",
        "backbone_compatible.bin",
        lambda: {**RECORDED["rad_dino/backbone_compatible.safetensors"], "mask_token": [1, 768]},
        _flat,
    ),
    ("rad_dino", "model.bin", dinov2_of_transformers, _flat),
    ("sam_vit_b", "sam_vit_b_01ec64.pth", sam, _flat),
    ("medsam", "medsam_vit_b.pth", sam, _flat),
    ("torchxrayvision_densenet121", "xrv.pt", xrv, _flat),
    (
        "retfound",
        "RETFound_mae_natureCFP.pth",
        mae,
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
]


def write(folder: Path, entry: str, file: str = "") -> tuple[Path, dict[str, Tensor]]:
    """Write a published file (the first of its entry where `file` does not say) and give its tensors too."""
    name, layout, wrap = next((f, lay, wr) for e, f, lay, wr in FILES if e == entry and file in ("", f))
    made = values(layout())
    torch.save(wrap(made), folder / name)
    return folder / name, made
