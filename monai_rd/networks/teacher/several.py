"""Several teachers joined into one: their features are standardised, resized to one grid and concatenated."""

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

_FINEST_GRID = 16  # positions along a side: else all channels would be repeated on SAM's 64 x 64 positions


class SeveralTeachers(nn.Module):
    """A backbone that concatenates the features of several teachers along the channels.

    Each channel is standardised by its mean and standard deviation over images and positions, which `update` computes
    from training images. Maps are resized, by averaging or repetition, to the finest grid among them (at most 16
    positions along each side); a vector counts as a map with one position.

    Args:
        teachers: at least two, all of images or all of volumes. Each preprocesses its input itself.

    Attributes:
        kind: "vector" if all teachers give vectors, else "map".
        teacher_channels: number of channels of each teacher.
        channels: total number of channels.

    Raises:
        ValueError: teachers of images and of volumes are mixed.
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
        self.teacher_channels = tuple(teacher.channels for teacher in teachers)
        self.channels = sum(self.teacher_channels)
        self._dims = teachers[0].spatial_dims
        self._known = False
        self.eval()

    def update(self, images: Tensor) -> None:
        """Update the channels' statistics with images `[B, 3, H, W]` or volumes `[B, 1, D, H, W]` in [0, 1]."""
        for teacher, scale in zip(self.teachers, self.scales, strict=True):
            scale.update(self._as_map(teacher(images)))

    def forward(self, images: Tensor) -> Tensor:
        """Compute maps `[B, C, ...]` or vectors `[B, C]`.

        Args:
            images: images `[B, 3, H, W]` or volumes `[B, 1, D, H, W]` in [0, 1].

        Raises:
            RuntimeError: `update` has not been called yet.
        """
        if not self._known and not all(float(scale.count) > 0 for scale in self.scales):
            raise RuntimeError(
                "several teachers are brought to one scale by training images first: use monai_rd.adapters.standardise"
            )
        self._known = True  # checked once only: reading a count synchronises with the device
        found = [scale(self._as_map(one(images))) for one, scale in zip(self.teachers, self.scales, strict=True)]
        if self.kind == "vector":
            return torch.cat(found, dim=1).flatten(1)
        sides: Any = [min(max(axis), _FINEST_GRID) for axis in zip(*(one.shape[2:] for one in found), strict=True)]
        pool = F.adaptive_avg_pool2d if self._dims == 2 else F.adaptive_avg_pool3d
        return torch.cat([one if list(one.shape[2:]) == sides else pool(one, sides) for one in found], dim=1)

    def _as_map(self, features: Tensor) -> Tensor:
        features = features[:, 0] if self._dims == 3 else features  # every window is an image of the batch here
        return features if features.dim() > 2 else features[(...,) + (None,) * self._dims]

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that the features depend on: the teachers and the channels' statistics."""
        digest = hashlib.sha256("".join(teacher.fingerprint() for teacher in self.teachers).encode())
        add_weights(digest, self.scales)
        return digest.hexdigest()

    def offload(self, folder: str | Path) -> None:
        """Offload each teacher, see `FrozenFoundationModel.offload`."""
        for teacher in self.teachers:
            teacher.offload(folder)


def join_teachers(teachers: Sequence[FrozenFoundationModel]) -> FrozenFoundationModel:
    """Join several teachers into one; the channels' statistics must be computed before it is used.

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
        origins=[origin for teacher in teachers for origin in teacher.origins],
    )
