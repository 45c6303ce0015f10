"""Layouts of the inflated ResNets, FlexiCT, VISTA3D and OpenMind, written from their publishers' code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from tests.networks.teacher.zoo.vits import Layout, linears, norms


@cache
def inflated(prefix: str = "") -> Layout:
    """torchvision's resnet152 without its classifier; 3 x 3 and 7 x 7 kernels are 3 deep, the others 1."""
    from torchvision.models import resnet152

    with torch.device("meta"):
        tensors = resnet152(weights=None).state_dict()
    layout: dict[str, list[Any]] = {}
    for key, tensor in tensors.items():
        shape: list[Any] = list(tensor.shape)
        if len(shape) == 4:
            shape.insert(2, 3 if shape[-1] > 1 else 1)
        if not key.startswith("fc."):
            layout[prefix + key] = ["int64"] if key.endswith("num_batches_tracked") else shape
    return layout


def deflated() -> Layout:
    """The same with every kernel summed over its depth."""
    return {key: shape[:2] + shape[3:] if len(shape) == 5 else shape for key, shape in inflated().items()}


def merlin() -> Layout:
    at = "encode_image.i3_resnet."
    return {
        "logit_scale": [1],
        **inflated(at),
        f"{at}classifier.weight": [1692, 2048, 1, 1, 1],
        f"{at}classifier.bias": [1692],
        f"{at}contrastive_head.weight": [512, 2048, 1, 1, 1],
        f"{at}contrastive_head.bias": [512],
        "encode_text.text_encoder.embeddings.word_embeddings.weight": [300, 768],
        "encode_text.linear_layer.weight": [512, 768],
        "encode_text.linear_layer.bias": [512],
    }


def astra() -> Layout:
    """The whole report generator, of which a tensor or two stand for each part beside the encoder."""
    return {
        **inflated("visual_encoder.model.encode_image.i3_resnet."),
        "language_model.base_model.model.lm_head.weight": [300, 3584],
        "embed_tokens.weight": [300, 3584],
        "perceiver.latents": [32, 2048],
        "perceiver.layers.0.0.norm_media.weight": [2048],
        "llama_proj.weight": [3584, 2048],
        "llama_proj.bias": [3584],
        "layer_norm.weight": [3584],
    }


def flexict(depth: int = 16) -> Layout:
    """Either file of FlexiCT: both embeddings, and a tensor of each head of the pretraining."""
    width, at = 864, "backbone."
    layout: dict[str, list[Any]] = {
        "dino_head.mlp.0.weight": [2048, width],
        "ibot_head.last_layer.weight": [65536, 256],
        f"{at}cls_token": [1, 1, width],
        f"{at}storage_tokens": [1, 4, width],
        f"{at}mask_token": [1, width],
        f"{at}patch_embed_2D.proj.weight": [width, 1, 8, 8],
        f"{at}patch_embed_3D.proj.weight": [width, 1, 8, 8, 8],
        f"{at}rope_embed_2D.periods": ["periods", 18],
        f"{at}rope_embed_3D.periods": ["periods", 12],
    }
    layout |= {f"{at}patch_embed_{dims}D.proj.bias": [width] for dims in (2, 3)} | norms(at, ("norm",), width)
    for i in range(depth):
        block = f"{at}blocks.{i}."
        layout |= {f"{block}attn.qkv.weight": [3 * width, width], f"{block}ls1.gamma": [width]}
        layout |= linears(block, {"attn.proj": (width, width), "mlp.fc1": (width, 4 * width)})
        layout |= linears(block, {"mlp.fc2": (4 * width, width)}) | norms(block, ("norm1", "norm2"), width)
        layout |= {f"{block}ls2.gamma": [width]}
    return layout


def openmind(blocks: Sequence[int] = (1, 3, 4, 6, 6, 6)) -> Layout:
    """nnU-Net's ResEnc-L: every convolution and norm has two names; the decoder holds the encoder once more."""

    def conv_norm(at: str, inputs: int, outputs: int, kernel: int, bias: bool = True) -> Layout:
        conv = {"weight": [outputs, inputs, kernel, kernel, kernel], **({"bias": [outputs]} if bias else {})}
        norm = {"weight": [outputs], "bias": [outputs]}
        names = {"conv": conv, "norm": norm, "all_modules.0": conv, "all_modules.1": norm}
        return {f"{at}.{name}.{kind}": shape for name, kinds in names.items() for kind, shape in kinds.items()}

    layout = dict(conv_norm("encoder.stem.convs.0", 1, 32, 3))
    inputs = 32
    for stage, (outputs, depth) in enumerate(zip((32, 64, 128, 256, 320, 320), blocks, strict=True)):
        for block in range(depth):
            at = f"encoder.stages.{stage}.blocks.{block}"
            layout |= {**conv_norm(f"{at}.conv1", inputs, outputs, 3), **conv_norm(f"{at}.conv2", outputs, outputs, 3)}
            if inputs != outputs:
                layout |= conv_norm(f"{at}.skip.1", inputs, outputs, 1, bias=False)
            inputs = outputs
    stem = {f"decoder.{key}": shape for key, shape in layout.items() if ".stem." in key}
    return {
        **layout,
        **stem,
        "decoder.stages.0.convs.0.all_modules.0.weight": [320, 640, 3, 3, 3],
        "decoder.seg_layers.4.weight": [1, 32, 1, 1, 1],
    }


def vista3d() -> Layout:
    """MONAI's VISTA3D without the projections in the attention of its heads."""
    from monai.networks.nets import vista3d132

    with torch.device("meta"):
        tensors = vista3d132().state_dict()
    return {key: list(tensor.shape) for key, tensor in tensors.items() if "_proj." not in key}


def _wrapped(name: str, beside: Mapping[str, Any], made: dict[str, Tensor]) -> Any:
    return {name: made, **beside}


_PLANS = {"nnssl_adaptation_plan": {"pretrain_num_input_channels": 1, "recommended_downstream_patchsize": [160] * 3}}
_TEACHER = partial(_wrapped, "teacher", {"iteration": 249999})

# As `published.FILES`: entry, file name, layout, how the file wraps it.
FILES: list[tuple[str, str, Callable[[], Layout], Callable[[dict[str, Tensor]], Any]]] = [
    ("merlin", "merlin.pt", merlin, dict),
    ("astra", "astra_encoder.pt", inflated, partial(_wrapped, "state_dict", {"meta": {"n_tensor": 930}})),
    ("astra", "converted_weights.pth", astra, dict),
    ("astra_2d", "astra_encoder.pt", inflated, partial(_wrapped, "state_dict", {"meta": {"n_tensor": 930}})),
    ("astra_2d", "astra_resnet152_2d.pt", deflated, dict),
    ("flexict_2d", "ct_2d_teacher.pth", flexict, _TEACHER),
    ("flexict_3d", "ct_3d_teacher.pth", flexict, _TEACHER),
    ("openmind_resenc_l", "checkpoint_final.pth", openmind, partial(_wrapped, "network_weights", _PLANS)),
    ("vista3d", "model.pt", vista3d, dict),
]
IGNORED = {
    ("merlin", "merlin.pt"): {"text tower": 4, "heads": 4},
    ("astra", "converted_weights.pth"): {"report generator": 7},
    ("flexict_2d", "ct_2d_teacher.pth"): {"heads of the pretraining": 2, "mask token": 1, "embedding of volumes": 3},
    ("flexict_3d", "ct_3d_teacher.pth"): {"heads of the pretraining": 2, "mask token": 1, "embedding of slices": 3},
    ("openmind_resenc_l", "checkpoint_final.pth"): {"second names of its tensors": 224, "decoder": 10},
    ("vista3d", "model.pt"): {"decoders": 60, "heads": 60},
}
