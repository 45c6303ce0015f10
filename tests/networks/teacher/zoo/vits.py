"""Layouts of vision transformers, written from their publishers' code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# key -> shape; ["int64"] is a counter, ["zeros", n] n zeros, ["periods", n] those of DINOv3's position embedding
Layout = Mapping[str, list[Any]]


def linears(prefix: str, sizes: Mapping[str, tuple[int, int]]) -> Layout:
    return {
        f"{prefix}{name}.{kind}": shape
        for name, (inputs, outputs) in sizes.items()
        for kind, shape in (("weight", [outputs, inputs]), ("bias", [outputs]))
    }


def norms(prefix: str, names: tuple[str, ...], width: int) -> Layout:
    return {f"{prefix}{name}.{kind}": [width] for name in names for kind in ("weight", "bias")}


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
        layout |= linears(block, {"attn.qkv": (768, 2304), "attn.proj": (768, 768)})
        layout |= linears(block, {"mlp.lin1": (768, 3072), "mlp.lin2": (3072, 768)})
        layout |= norms(block, ("norm1", "norm2"), 768)
    return layout


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
    layout |= linears(f"{vision}head.", {"attention.out_proj": (width, width)})
    layout |= linears(f"{vision}head.", {"mlp.fc1": (width, hidden), "mlp.fc2": (hidden, width)})
    layout |= norms(vision, ("post_layernorm", "head.layernorm"), width)
    for i in range(depth):
        layer = f"{vision}encoder.layers.{i}."
        layout |= linears(layer, {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")})
        layout |= linears(layer, {"mlp.fc1": (width, hidden), "mlp.fc2": (hidden, width)})
        layout |= norms(layer, ("layer_norm1", "layer_norm2"), width)
    return layout


def dinov2_of_transformers(
    depth: int = 12, side: int = 37, patch: int = 14, inputs: int = 3, gated: bool = False
) -> Layout:
    """transformers' Dinov2Model of a ViT-B; `gated` for SwiGLU."""
    width, names = 768, ("mlp.weights_in", "mlp.weights_out") if gated else ("mlp.fc1", "mlp.fc2")
    layout: dict[str, list[Any]] = {
        "embeddings.cls_token": [1, 1, width],
        "embeddings.mask_token": [1, width],
        "embeddings.position_embeddings": [1, 1 + side * side, width],
        "embeddings.patch_embeddings.projection.weight": [width, inputs, patch, patch],
        "embeddings.patch_embeddings.projection.bias": [width],
    }
    for i in range(depth):
        layer = f"encoder.layer.{i}."
        layout |= linears(layer, {f"attention.attention.{name}": (width, width) for name in ("query", "key", "value")})
        layout |= linears(layer, {"attention.output.dense": (width, width), names[0]: (width, 4096 if gated else 3072)})
        layout |= linears(layer, {names[1]: (2048 if gated else 3072, width)})
        layout |= norms(layer, ("norm1", "norm2"), width)
        layout |= {f"{layer}layer_scale{n}.lambda1": [width] for n in (1, 2)}
    return layout | norms("", ("layernorm",), width)


def vit(
    depth: int,
    width: int,
    patch: int,
    hidden: int | tuple[int, int] = 0,
    scales: tuple[str, ...] = ("ls1.gamma", "ls2.gamma"),
    **tokens: list[Any],
) -> Layout:
    """A ViT as timm and Meta name its parts; `hidden` is the MLP's width, of SwiGLU before and after the gate."""
    first, second = (hidden, hidden) if isinstance(hidden, int) else hidden
    layout: dict[str, list[Any]] = {
        "cls_token": [1, 1, width],
        **tokens,
        "patch_embed.proj.weight": [width, 3, patch, patch],
        "patch_embed.proj.bias": [width],
    }
    for i in range(depth):
        block = f"blocks.{i}."
        layout |= linears(block, {"attn.qkv": (width, 3 * width), "attn.proj": (width, width)})
        layout |= linears(block, {"mlp.fc1": (width, first or 4 * width), "mlp.fc2": (second or 4 * width, width)})
        layout |= norms(block, ("norm1", "norm2"), width) | {f"{block}{name}": [width] for name in scales}
    return layout | norms("", ("norm",), width)


def dinov2(depth: int = 12, width: int = 768) -> Layout:
    """Meta's DINOv2 at 518 pixels."""
    return vit(depth, width, 14, pos_embed=[1, 1370, width], mask_token=[1, width])


def uni2(depth: int = 24) -> Layout:
    """UNI2-h: no position for the class token and the registers."""
    return vit(depth, 1536, 14, (8192, 4096), reg_token=[1, 8, 1536], pos_embed=[1, 256, 1536])


def virchow2(depth: int = 32) -> Layout:
    """Virchow2: positions for them too."""
    return vit(depth, 1280, 14, (6832, 3416), reg_token=[1, 4, 1280], pos_embed=[1, 261, 1280])


def dinov3(depth: int = 12, width: int = 768, biases: bool = True) -> Layout:
    """Meta's DINOv3: biases of q, k and v that are all zero, and their mask."""
    tokens = {"storage_tokens": [1, 4, width], "mask_token": [1, width], "rope_embed.periods": ["periods", 16]}
    layout = dict(vit(depth, width, 16, **tokens))
    for i in range(depth):
        del layout[f"blocks.{i}.attn.qkv.bias"]
        if biases:
            layout |= {f"blocks.{i}.attn.qkv.bias{kind}": ["zeros", 3 * width] for kind in ("", "_mask")}
    return {key: layout[key] for key in sorted(layout)}


def dinov3_of_timm(depth: int = 24, width: int = 1024) -> Layout:
    layout = vit(depth, width, 16, scales=("gamma_1", "gamma_2"), reg_token=[1, 4, width])
    return {key: shape for key, shape in layout.items() if not key.endswith("qkv.bias")}


def dinov3_of_transformers(depth: int = 12) -> Layout:
    """transformers' DINOv3ViTModel of a ViT-B."""
    width = 768
    layout: dict[str, list[Any]] = {
        "embeddings.cls_token": [1, 1, width],
        "embeddings.mask_token": [1, 1, width],
        "embeddings.register_tokens": [1, 4, width],
        "embeddings.patch_embeddings.weight": [width, 3, 16, 16],
        "embeddings.patch_embeddings.bias": [width],
    }
    for i in range(depth):
        layer = f"layer.{i}."
        layout |= {f"{layer}attention.{name}_proj.weight": [width, width] for name in "qkvo"}
        layout |= {f"{layer}attention.{name}_proj.bias": ["zeros", width] for name in "qv"}
        layout |= {f"{layer}attention.o_proj.bias": [width]}
        layout |= linears(layer, {"mlp.up_proj": (width, 4 * width), "mlp.down_proj": (4 * width, width)})
        layout |= norms(layer, ("norm1", "norm2"), width)
        layout |= {f"{layer}layer_scale{n}.lambda1": [width] for n in (1, 2)}
    return layout | norms("", ("norm",), width)


def meddinov3(depth: int = 12) -> Layout:
    """The teacher of a DINOv3 training, with its heads."""
    backbone = {f"backbone.{key}": shape for key, shape in dinov3(depth, biases=False).items()}
    return {"dino_head.mlp.0.weight": [64, 768], "ibot_head.last_layer.weight": [64, 256], **backbone}


def panderm(depth: int = 24) -> Layout:
    """CAE's encoder, and a tensor of the rest of its pretraining."""
    layout = dict(vit(depth, 1024, 16, scales=("gamma_1", "gamma_2"), pos_embed=[1, 197, 1024]))
    for i in range(depth):
        del layout[f"blocks.{i}.attn.qkv.bias"]
        layout |= {f"blocks.{i}.attn.{letter}_bias": [1024] for letter in "qv"}
    return {"mask_token": [1, 1, 1024], **{f"encoder.{key}": layout[key] for key in sorted(layout)}}


def mae(depth: int = 24) -> Layout:
    """MAE's ViT-L/16 with its decoder, of which the first block stands for all."""
    tokens = {"pos_embed": [1, 197, 1024], "mask_token": [1, 1, 512], "decoder_pos_embed": [1, 197, 512]}
    layout = linears("", {"decoder_embed": (1024, 512), "decoder_blocks.0.mlp.fc1": (512, 2048)})
    return {**layout, **linears("", {"decoder_pred": (512, 768)}), **vit(depth, 1024, 16, scales=(), **tokens)}
