"""FlexiCT, a vision transformer of slices or of volumes. Either file holds both patch embeddings."""

from __future__ import annotations

from typing import Any

from monai_rd.networks.preprocessing import Preprocessing, VolumePreprocessing
from monai_rd.networks.teacher.zoo.entry import TeacherEntry

__all__ = ["ENTRIES"]


def _flexict(dims: int, **other: Any) -> TeacherEntry:
    return TeacherEntry(
        name=f"flexict_{dims}d",
        builder="monai_rd:RotaryViT",
        arguments={"spatial_dims": dims},
        channels=864,
        kind="map",
        licence="CC BY-NC-ND 4.0",
        source="https://github.com/ricklisz/FlexiCT (Google Drive)",
        renamed={
            r"^backbone\.": "",
            rf"^patch_embed_{dims}D\.proj\.": "patch_embed.",
            rf"^rope_embed_{dims}D\.": "",
            r"\.(attn|mlp)\.": ".",
            r"\.ls([12])\.gamma$": r".scale\1",
        },
        ignored={
            r"(dino_head|ibot_head)\.": "heads of the pretraining",
            r"backbone\.mask_token$": "mask token",
            rf"backbone\.(patch|rope)_embed_{5 - dims}D\.": f"embedding of {'volumes' if dims == 2 else 'slices'}",
        },
        modality="CT",
        tap="patch tokens after the last norm",
        non_commercial=True,
        window=(-1000, 1000),
        file=f"ct_{dims}d_teacher.pth",
        citation="Li et al., arXiv 2605.21906",
        numerics="a ViT with rotary positions, written anew, at depth 2",
        unverified="that the file needs no code",
        **other,
    )


ENTRIES = (
    _flexict(
        2,
        preprocessing=Preprocessing(512, None, None, channel_order="GRAY"),
        grid=(64, 64),
        params=143.56,
        gmacs=1053.00,
    ),
    _flexict(
        3,
        preprocessing=VolumePreprocessing(160, None, None, axcodes="SPL", nonzero=False),
        grid=(20, 20, 20),
        params=143.94,
        gmacs=2922.56,
        spacing=(2.0, 2.0, 2.0),
    ),
)
