"""Teachers of volumes."""

from __future__ import annotations

from monai_rd.networks.preprocessing import VolumePreprocessing
from monai_rd.networks.teacher.zoo.entry import Hub, TeacherEntry

__all__ = ["ENTRIES"]


def _swin(name: str, **other: object) -> TeacherEntry:
    return TeacherEntry(
        name=name,
        builder="monai:SwinTransformer",
        arguments={
            "in_chans": 1,
            "embed_dim": 48,
            "window_size": [7, 7, 7],
            "patch_size": [2, 2, 2],
            "depths": [2, 2, 2, 2],
            "num_heads": [3, 6, 12, 24],
        },
        preprocessing=VolumePreprocessing(None, axcodes="RAS", multiple=32),
        channels=768,
        kind="map",
        tap="last stage of the Swin encoder, layer-normalised",
        grid=(3, 3, 3),
        params=8.06,
        gmacs=24.93,
        **other,  # type: ignore[arg-type]
    )


ENTRIES = (
    TeacherEntry(
        name="ct_fm",
        builder="monai:SegResEncoder",
        arguments={"spatial_dims": 3, "init_filters": 32, "in_channels": 1, "blocks_down": [1, 2, 2, 4, 4]},
        preprocessing=VolumePreprocessing(None, axcodes="SPL", multiple=16),
        channels=512,
        kind="map",
        licence="Apache-2.0",
        source="https://huggingface.co/project-lighter/ct_fm_feature_extractor",
        modality="CT",
        tap="last level of the encoder",
        grid=(6, 6, 6),
        params=77.76,
        gmacs=171.23,
        window=(-1024, 2048),
        spacing=(3.0, 1.0, 1.0),
        file="model.safetensors",
        hub=Hub("project-lighter/ct_fm_feature_extractor", "model.safetensors"),
        citation="Pai et al., arXiv 2501.09001",
        numerics="a residual encoder, written anew",
        unverified="that the keys have no prefix",
    ),
    _swin(
        "swinunetr_ssl",
        licence="Apache-2.0",
        source="https://github.com/Project-MONAI/MONAI-extra-test-data (release 0.8.1)",
        renamed={r"^module\.": "", r"\.mlp\.fc([12])\.": r".mlp.linear\1."},
        ignored={r"(module\.)?(norm|convTrans3d|rotation_head|contrastive_head)\.": "heads of the pretraining"},
        modality="CT",
        window=(-1000, 1000),
        file="model_swinvit.pt",
        citation="Tang et al., CVPR 2022, arXiv 2111.14791",
        numerics="MONAI's SwinUNETR.load_from",
        unverified="licence, window and the names of the heads",
    ),
    _swin(
        "suprem_swinunetr",
        licence="CC BY-NC-ND 4.0",
        source="https://huggingface.co/MrGiovanni/SuPreM",
        renamed={r"^(module\.)?(backbone\.)?swinViT\.": ""},
        ignored={r"(module\.)?(backbone\.)?(encoder\d+|decoder\d+|out)\.": "rest of SwinUNETR"},
        modality="CT",
        non_commercial=True,
        window=(-175, 250),
        spacing=(1.5, 1.5, 1.5),
        file="supervised_suprem_swinunetr_2100.pth",
        hub=Hub("MrGiovanni/SuPreM", "supervised_suprem_swinunetr_2100.pth"),
        citation="Li et al., ICLR 2024, arXiv 2501.11253",
        numerics="MONAI's SwinUNETR",
        unverified="that the file holds nothing beside SwinUNETR",
    ),
    TeacherEntry(
        name="brainiac",
        builder="monai:ViT",
        arguments={
            "in_channels": 1,
            "img_size": [96, 96, 96],
            "patch_size": [16, 16, 16],
            "hidden_size": 768,
            "mlp_dim": 3072,
            "num_layers": 12,
            "num_heads": 12,
        },
        preprocessing=VolumePreprocessing(96, mean=None, std=None, axcodes="RAS"),
        channels=768,
        kind="map",
        licence="CC BY-NC 4.0",
        source="https://github.com/AIM-KannLab/BrainIAC",
        renamed={r"^backbone\.": ""},
        ignored={r"(?!backbone\.)": "heads of the pretraining"},
        modality="brain MR",
        tap="patch tokens after the last norm",
        grid=(6, 6, 6),
        params=88.34,
        gmacs=19.89,
        non_commercial=True,
        file="BrainIAC.ckpt",
        citation="Tak et al., medRxiv 2024.12.02.24317992",
        numerics="a ViT of volumes, written anew",
        unverified="axes and standardisation; that the checkpoint needs no code",
    ),
)
