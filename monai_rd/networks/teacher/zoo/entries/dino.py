"""Vision transformers trained by DINOv2 or DINOv3: on photographs (Meta's own), radiology or pathology."""

from __future__ import annotations

from monai_rd.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from monai_rd.networks.teacher.zoo.entry import Hub, TeacherEntry

__all__ = ["ENTRIES"]

_TAP = "patch tokens after the last norm"
_LITERAL = "a ViT, written anew, at depth 2"
_MASK_TOKEN = {r"(embeddings\.)?mask_token$": "mask token"}

# Names in transformers' files; those of timm and of Meta are the same.
_DINOV2_NAMES = {
    r"^embeddings\.(cls_token|mask_token)$": r"\1",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"^encoder\.layer\.": "blocks.",
    r"\.attention\.attention\.(q)uery\.": r".attn.\1.",
    r"\.attention\.attention\.(k)ey\.": r".attn.\1.",
    r"\.attention\.attention\.(v)alue\.": r".attn.\1.",
    r"\.attention\.output\.dense\.": ".attn.proj.",
    r"\.layer_scale([12])\.lambda1$": r".ls\1.gamma",
    r"\.mlp\.weights_in\.": ".mlp.fc1.",  # SwiGLU
    r"\.mlp\.weights_out\.": ".mlp.fc2.",
    r"^layernorm\.": "norm.",
}
# Names in Meta's files, then in transformers'.
_DINOV3_NAMES = {
    r"^storage_tokens$": "reg_token",
    r"\.ls([12])\.gamma$": r".gamma_\1",
    r"^embeddings\.cls_token$": "cls_token",
    r"^embeddings\.register_tokens$": "reg_token",
    r"^embeddings\.patch_embeddings\.": "patch_embed.proj.",
    r"^layer\.": "blocks.",
    r"\.attention\.([qkv])_proj\.": r".attn.\1.",
    r"\.attention\.o_proj\.": ".attn.proj.",
    r"\.layer_scale([12])\.lambda1$": r".gamma_\1",
    r"\.mlp\.up_proj\.": ".mlp.fc1.",
    r"\.mlp\.down_proj\.": ".mlp.fc2.",
}
_DINOV3_IGNORED = {**_MASK_TOKEN, r"blocks\.\d+\.attn\.qkv\.bias_mask$": "masks of the biases"}


def _dinov2(letter: str, size: str, channels: int, params: float, gmacs: float) -> TeacherEntry:
    hub = f"timm/vit_{size}_patch14_dinov2.lvd142m"
    return TeacherEntry(
        name=f"dinov2_vit{letter}14",
        builder=f"timm:vit_{size}_patch14_dinov2",
        arguments={"num_classes": 0},
        preprocessing=Preprocessing(518, IMAGENET_MEAN, IMAGENET_STD, interpolation="bicubic"),
        channels=channels,
        kind="map",
        licence="Apache-2.0",
        source=f"https://huggingface.co/{hub}",
        renamed=_DINOV2_NAMES,
        ignored=_MASK_TOKEN,
        converter="huggingface_vit",
        modality="photographs",
        tap=_TAP,
        grid=(37, 37),
        params=params,
        gmacs=gmacs,
        file=f"model.safetensors, or Meta's dinov2_vit{letter}14_pretrain.pth",
        hub=Hub(hub, "model.safetensors"),
        citation="Oquab et al., TMLR 2024, arXiv 2304.07193",
        numerics=_LITERAL,
    )


def _dinov3(letter: str, size: str, channels: int, params: float, gmacs: float) -> TeacherEntry:
    hub = f"timm/vit_{size}_patch16_dinov3.lvd1689m"
    return TeacherEntry(
        name=f"dinov3_vit{letter}16",
        builder=f"timm:vit_{size}_patch16_dinov3",
        arguments={"num_classes": 0},
        preprocessing=Preprocessing(256, IMAGENET_MEAN, IMAGENET_STD, interpolation="bicubic"),
        channels=channels,
        kind="map",
        licence="DINOv3 License",
        terms="derivatives are passed on under it; no military use",
        source=f"https://huggingface.co/{hub}",
        renamed=_DINOV3_NAMES,
        ignored=_DINOV3_IGNORED,
        converter="dinov3",
        modality="photographs",
        tap=_TAP,
        grid=(16, 16),
        params=params,
        gmacs=gmacs,
        file=f"model.safetensors, or Meta's dinov3_vit{letter}16_pretrain_lvd1689m-*.pth",
        hub=Hub(hub, "model.safetensors"),
        citation="Simeoni et al., arXiv 2508.10104",
        numerics=_LITERAL,
    )


def _curia(name: str, repo: str, citation: str, unverified: str) -> TeacherEntry:
    return TeacherEntry(
        name=name,
        builder="timm:vit_base_patch14_dinov2",
        arguments={
            "img_size": 512,
            "patch_size": 16,
            "in_chans": 1,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "silu",
            "mlp_ratio": 16 / 3,
            "num_classes": 0,
        },
        # Rows from front to back, columns from right to left (the authors' "PL"): as a slice is displayed.
        preprocessing=Preprocessing(512, None, None, channel_order="GRAY", interpolation="bicubic"),
        channels=768,
        kind="map",
        licence="Research-only RAIL-M",
        source=f"https://huggingface.co/{repo}",
        renamed=_DINOV2_NAMES,
        ignored=_MASK_TOKEN,
        converter="huggingface_vit",
        modality="CT, MR",
        tap=_TAP,
        grid=(32, 32),
        params=86.07,
        gmacs=106.62,
        gated=True,
        non_commercial=True,
        window=(-1000, 3000),  # the authors clip below -1000 HU and nothing above; the standardisation needs no scale
        file="model.safetensors",
        hub=Hub(repo, "model.safetensors"),
        citation=citation,
        numerics=_LITERAL,
        unverified=unverified,
    )


ENTRIES = (
    _dinov2("s", "small", 384, 22.06, 46.7),
    _dinov2("b", "base", 768, 86.58, 151.57),
    _dinov2("l", "large", 1024, 304.37, 506.8),
    _dinov3("s", "small", 384, 21.59, 6.25),
    _dinov3("b", "base", 768, 85.64, 23.57),
    _dinov3("l", "large", 1024, 303.08, 82.37),
    TeacherEntry(
        name="rad_dino",
        builder="timm:vit_base_patch14_dinov2",
        arguments={"num_classes": 0},
        preprocessing=Preprocessing(518, (0.5307,) * 3, (0.2583,) * 3, interpolation="bicubic"),
        channels=768,
        kind="map",
        licence="MIT",
        source="https://huggingface.co/microsoft/rad-dino",
        renamed=_DINOV2_NAMES,
        ignored=_MASK_TOKEN,
        converter="huggingface_vit",
        modality="chest X-ray",
        tap=_TAP,
        grid=(37, 37),
        params=86.58,
        gmacs=151.57,
        file="backbone_compatible.safetensors or model.safetensors",
        hub=Hub("microsoft/rad-dino", "backbone_compatible.safetensors"),
        citation="Perez-Garcia et al., Nature Machine Intelligence 2025, arXiv 2401.10815",
        numerics=_LITERAL,
        unverified="interpolation",
    ),
    TeacherEntry(
        name="meddinov3_ct",
        builder="timm:vit_base_patch16_dinov3",
        arguments={"num_classes": 0, "layer_norm_eps": 1e-6},
        # The authors clip to -1000..1000 HU and standardise by mean 65.1084 and std 178.0166 HU.
        preprocessing=Preprocessing(512, (0.5325542,) * 3, (0.0890083,) * 3, interpolation="bicubic"),
        channels=768,
        kind="map",
        licence="Apache-2.0",
        source="https://huggingface.co/ricklisz123/MedDINOv3-ViTB-16-CT-3M",
        renamed={r"^backbone\.": "", **_DINOV3_NAMES},
        ignored={
            r"(dino_head|ibot\w*)\.": "heads of the pretraining",
            r"(backbone\.)?mask_token$": "mask token",
        },
        converter="dinov3",
        modality="CT",
        tap=_TAP,
        grid=(32, 32),
        params=85.64,
        gmacs=107.52,
        window=(-1000, 1000),
        file="model.pth",
        hub=Hub("ricklisz123/MedDINOv3-ViTB-16-CT-3M", "model.pth"),
        citation="Li et al., arXiv 2509.02379",
        numerics=_LITERAL,
        unverified="size and interpolation; that DINOv3's own terms add nothing; that the file needs no code",
    ),
    _curia("curia", "raidium/curia", "Dancette et al., arXiv 2509.06830", "that its MLPs are SwiGLU, as in Curia-2"),
    _curia(
        "curia_2", "raidium/curia-2", "Saporta et al., arXiv 2604.01987", "the layout beyond what others report of it"
    ),
    TeacherEntry(
        name="uni2_h",
        builder="timm:vit_giant_patch14_224",
        arguments={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "num_classes": 0,
            "no_embed_class": True,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "silu",
            "reg_tokens": 8,
            "dynamic_img_size": True,
        },
        preprocessing=Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD),
        channels=1536,
        kind="map",
        licence="CC BY-NC-ND 4.0",
        terms="its authors count models trained on its outputs as derivatives",
        source="https://huggingface.co/MahmoodLab/UNI2-h",
        modality="pathology",
        tap=_TAP,
        grid=(16, 16),
        params=681.39,
        gmacs=185.47,
        gated=True,
        non_commercial=True,
        file="pytorch_model.bin",
        hub=Hub("MahmoodLab/UNI2-h", "pytorch_model.bin"),
        citation="Chen et al., Nature Medicine 2024, arXiv 2308.15474",
        numerics=_LITERAL,
        unverified="interpolation",
    ),
    TeacherEntry(
        name="virchow2",
        builder="timm:vit_huge_patch14_224",
        arguments={
            "img_size": 224,
            "init_values": 1e-5,
            "num_classes": 0,
            "reg_tokens": 4,
            "mlp_ratio": 5.3375,
            "global_pool": "",
            "dynamic_img_size": True,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "silu",
        },
        preprocessing=Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, interpolation="bicubic"),
        channels=1280,
        kind="map",
        licence="CC BY-NC-ND 4.0",
        source="https://huggingface.co/paige-ai/Virchow2",
        modality="pathology",
        tap=_TAP,
        grid=(16, 16),
        params=631.24,
        gmacs=170.07,
        gated=True,
        non_commercial=True,
        file="pytorch_model.bin or model.safetensors",
        hub=Hub("paige-ai/Virchow2", "model.safetensors", alternatives=("pytorch_model.bin",)),
        citation="Zimmermann et al., arXiv 2408.00738",
        numerics=_LITERAL,
    ),
)
