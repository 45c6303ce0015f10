"""A small teacher of volumes."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.networks.nets.segresnet_ds import SegResEncoder

from monai_rd.networks.preprocessing import VolumePreprocessing
from monai_rd.networks.teacher.zoo import TeacherEntry, save_teacher


def write_volume_teacher(folder: Path) -> Path:
    """Write CT-FM's network, narrower, as a file that says what it is."""
    arguments = {"spatial_dims": 3, "init_filters": 4, "in_channels": 1, "blocks_down": [1, 1, 1]}
    torch.manual_seed(0)
    path = folder / "small_volume.safetensors"
    entry = TeacherEntry(
        name="small_volume",
        builder="monai:SegResEncoder",
        arguments=arguments,
        preprocessing=VolumePreprocessing(None, multiple=8),
        channels=16,
        kind="map",
        licence="CC0",
        source="this test",
        spacing=(4.0, 5.0, 5.0),
    )
    save_teacher(path, SegResEncoder(**arguments), entry)
    return path
