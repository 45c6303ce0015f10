"""Merlin and Astra, ResNet-152s inflated to volumes; and Astra summed to a network of slices."""

from __future__ import annotations

from typing import Any

from monai_rd.networks.preprocessing import Preprocessing, VolumePreprocessing
from monai_rd.networks.teacher.zoo.entry import Hub, TeacherEntry

__all__ = ["ENTRIES"]

_MERLIN_FILE = "i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt"
_ASTRA: dict[str, Any] = {
    "licence": "MIT",
    "source": "https://huggingface.co/zzzwzh/Astra_CTRG",
    "renamed": {r"^visual_encoder\.model\.encode_image\.i3_resnet\.": ""},
    "ignored": {r"(language_model|embed_tokens|perceiver|llama_proj|layer_norm)\.": "report generator"},
    "modality": "chest and abdominal CT",
    "window": (-1000, 1000),
    "citation": "Wang et al., arXiv 2605.31437",
}


def _of_volumes(name: str, **other: Any) -> TeacherEntry:
    return TeacherEntry(
        name=name,
        builder="monai_rd:I3ResNet",
        arguments={},
        # 224 x 224 x 160 voxels in "RAS", of which the authors' code takes the last axis first.
        preprocessing=VolumePreprocessing((160, 224, 224), axcodes="SRA"),
        channels=2048,
        kind="map",
        tap="layer4",
        grid=(10, 7, 7),
        params=117.37,
        gmacs=664.60,
        spacing=(3.0, 1.5, 1.5),
        numerics="a ResNet-152 of volumes, written anew",
        **other,
    )


ENTRIES = (
    _of_volumes(
        "merlin",
        licence="MIT",
        source="https://huggingface.co/stanfordmimi/Merlin",
        renamed={r"^(?!encode_image\.i3_resnet\.)": "not Merlin's: ", r"^encode_image\.i3_resnet\.": ""},
        ignored={
            r"encode_image\.i3_resnet\.(classifier|contrastive_head)\.": "heads",
            r"(encode_text\.|logit_scale$)": "text tower",
        },
        modality="abdominal CT",
        window=(-1000, 1000),
        file=_MERLIN_FILE,
        hub=Hub("stanfordmimi/Merlin", _MERLIN_FILE),
        citation="Blankemeier et al., Nature 2026, arXiv 2406.06512",
        unverified="the names of the text tower's tensors; whether it is gated",
    ),
    _of_volumes(
        "astra",
        file="astra_encoder.pt or converted_weights.pth",
        unverified="that astra_encoder.pt holds the authors' values; the names in converted_weights.pth",
        **_ASTRA,
    ),
    TeacherEntry(
        name="astra_2d",
        builder="timm:resnet152",
        arguments={"num_classes": 0, "global_pool": ""},
        # A volume's first and second axis point to the right and to the front, and so do those of its slices.
        preprocessing=Preprocessing(224, (0.0,) * 3, (1.0,) * 3, turn="RAS"),
        channels=2048,
        kind="map",
        converter="deflated",
        tap="layer4",
        grid=(7, 7),
        params=58.14,
        gmacs=11.51,
        file="astra_encoder.pt or converted_weights.pth; its kernels are summed",
        numerics="torchvision's resnet152",
        unverified="as for astra",
        **_ASTRA,
    ),
)
