"""Several teachers as one: their features standardised by channel, on one grid, side by side along the channels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.networks.preprocessing import Preprocessing, VolumePreprocessing
from monai_rd.networks.teacher.foundation import FrozenFoundationModel, add_weights
from monai_rd.networks.teacher.standardisation import RunningStandardisation

__all__ = ["SeveralTeachers", "join_teachers"]

_FINEST = 16  # positions a side: SAM's 64 x 64 beside others would be thousands of channels at each


class SeveralTeachers(nn.Module):
    """The backbone of several teachers at once: images or volumes as they are to the features of all.

    Each channel is standardised by its mean and standard deviation over images and positions, which `update` takes
    from training images. Maps are averaged, or repeated, to the finest grid among them (at most 16 positions a side); a
    vector is a map of one position.

    Args:
        teachers: at least two, all of images or all of volumes.

    Attributes:
        kind: "vector" where all of them give vectors, else "map".
        channels: of all together.

    Raises:
        ValueError: images and volumes mixed.
    """

    teachers: Any
    scales: Any

    def __init__(self, teachers: Sequence[FrozenFoundationModel]) -> None:
        super().__init__()
        if len({teacher.spatial_dims for teacher in teachers}) > 1:
            volumes = [teacher.name for teacher in teachers if teacher.spatial_dims == 3]
            images = [teacher.name for teacher in teachers if teacher.spatial_dims == 2]
            raise ValueError(
                f"several teachers must all read images or all read volumes: {', '.join(volumes)} reads volumes, "
                f"{', '.join(images)} images"
            )
        self.teachers = nn.ModuleList(teachers)
        self.scales = nn.ModuleList(RunningStandardisation(teacher.channels) for teacher in teachers)
        self.kind: Literal["map", "vector"] = "map" if any(one.kind == "map" for one in teachers) else "vector"
        self.channels = sum(teacher.channels for teacher in teachers)
        self._dims = teachers[0].spatial_dims
        self._known = False
        self.eval()

    def update(self, images: Tensor) -> None:
        """Add images `[B, 3, H, W]` or volumes `[B, 1, D, H, W]` in [0, 1] to the statistics of the channels."""
        for teacher, scale in zip(self.teachers, self.scales, strict=True):
            scale.update(self._as_map(teacher(images)))

    def forward(self, images: Tensor) -> Tensor:
        """Maps `[B, C, ...]` or vectors `[B, C]` of images `[B, 3, H, W]` or volumes `[B, 1, D, H, W]` in [0, 1].

        Raises:
            RuntimeError: the channels' statistics are not known yet.
        """
        if not self._known and not all(float(scale.count) > 0 for scale in self.scales):
            raise RuntimeError(
                "several teachers are brought to one scale by training images first: use monai_rd.adapters.standardise"
            )
        self._known = True  # looked at once: a device would be waited for
        found = [scale(self._as_map(one(images))) for one, scale in zip(self.teachers, self.scales, strict=True)]
        if self.kind == "vector":
            return torch.cat(found, dim=1).flatten(1)
        sides: Any = [min(max(axis), _FINEST) for axis in zip(*(one.shape[2:] for one in found), strict=True)]
        pool = F.adaptive_avg_pool2d if self._dims == 2 else F.adaptive_avg_pool3d
        return torch.cat([one if list(one.shape[2:]) == sides else pool(one, sides) for one in found], dim=1)

    def _as_map(self, features: Tensor) -> Tensor:
        return features if features.dim() > 2 else features[(...,) + (None,) * self._dims]

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides the features: the teachers' and the statistics of their channels."""
        digest = hashlib.sha256("".join(teacher.fingerprint() for teacher in self.teachers).encode())
        add_weights(digest, self.scales)
        return digest.hexdigest()

    def offload(self, folder: str | Path) -> None:
        """Let each of them rest, see `FrozenFoundationModel.offload`."""
        for teacher in self.teachers:
            teacher.offload(folder)


def join_teachers(teachers: Sequence[FrozenFoundationModel]) -> FrozenFoundationModel:
    """Several teachers as one, whose channels' statistics are not known yet.

    Raises:
        ValueError: see `SeveralTeachers`.
    """
    backbone = SeveralTeachers(teachers)
    as_they_are = (
        Preprocessing(None, (0.0,) * 3, (1.0,) * 3) if teachers[0].spatial_dims == 2 else VolumePreprocessing(None)
    )
    return FrozenFoundationModel(
        backbone,
        channels=backbone.channels,
        kind=backbone.kind,
        preprocessing=as_they_are,
        name=",".join(teacher.name for teacher in teachers),
    )
