"""The small teachers shipped with the package and trained on its phantoms, for the bundles' default runs only."""

from __future__ import annotations

from monai_rd.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, VolumePreprocessing
from monai_rd.networks.teacher.zoo.entry import TeacherEntry

__all__ = ["ENTRIES"]


_SOURCE = "shipped with monai_rd; trained on its synthetic phantoms, of no clinical use"


def _phantom(name: str, what: str, channels: list[int], params: float, gmacs: float) -> TeacherEntry:
    return TeacherEntry(
        name=name,
        builder="timm:resnet10t",
        arguments={"channels": channels, "num_classes": 0, "global_pool": ""},
        preprocessing=Preprocessing(96, IMAGENET_MEAN, IMAGENET_STD),
        channels=channels[-1],
        kind="map",
        licence="Apache-2.0",
        source=_SOURCE,
        modality=f"{what} phantoms",
        grid=(3, 3),
        params=params,
        gmacs=gmacs,
    )


_NARROW = {"mr": "MR", "us": "ultrasound", "xray": "X-ray", "derm": "dermoscopy"}

ENTRIES = (
    _phantom("phantom_ct", "CT", [32, 64, 128, 256], 1.26, 0.10),
    TeacherEntry(
        name="phantom_ct_3d",
        builder="monai:SegResEncoder",
        arguments={
            "spatial_dims": 3,
            "init_filters": 8,
            "in_channels": 1,
            "blocks_down": [1, 1, 1],
            "norm": "batch",
        },
        preprocessing=VolumePreprocessing(None, 0.6, 0.3, axcodes="SPL", multiple=4),
        channels=32,
        kind="map",
        licence="Apache-2.0",
        source=_SOURCE,
        modality="CT phantoms",
        tap="last level of the encoder",
        grid=(24, 24, 24),
        params=0.09,
        gmacs=6.12,
        window=(-1350, 150),
        spacing=(5.0, 5.0, 5.0),
    ),
    *(_phantom(f"phantom_{name}", what, [24, 48, 96, 192], 0.73, 0.09) for name, what in _NARROW.items()),
)
