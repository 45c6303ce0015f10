"""The small teachers that the package ships, trained on its own phantoms: they make every bundle run, and no more."""

from __future__ import annotations

from monai_rd.networks.foundation import Preprocessing
from monai_rd.networks.foundation_zoo.entry import IMAGENET_MEAN, IMAGENET_STD, TeacherEntry

__all__ = ["ENTRIES"]


def _phantom(modality: str, channels: list[int], params: float, gmacs: float) -> TeacherEntry:
    return TeacherEntry(
        name=f"phantom_{modality.lower()}",
        builder="timm:resnet10t",
        arguments={"channels": channels, "num_classes": 0, "global_pool": ""},
        preprocessing=Preprocessing(96, IMAGENET_MEAN, IMAGENET_STD),
        channels=channels[-1],
        kind="map",
        licence="Apache-2.0",
        source="shipped with monai_rd; trained on its synthetic phantoms, of no clinical use",
        modality=f"{modality} phantoms",
        grid=(3, 3),
        params=params,
        gmacs=gmacs,
    )


_NARROW = ("MR", "US", "Xray", "derm")

ENTRIES = (
    _phantom("CT", [32, 64, 128, 256], 1.26, 0.10),
    *(_phantom(modality, [24, 48, 96, 192], 0.73, 0.09) for modality in _NARROW),
)
