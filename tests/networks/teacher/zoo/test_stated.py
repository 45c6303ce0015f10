"""What teachers of volumes state, as the defaults of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder

from monai_rd.networks import StatedVolume, check_field, stated_volume
from monai_rd.networks.preprocessing import VolumePreprocessing
from monai_rd.networks.teacher.zoo import TEACHERS, save_teacher


def test_spacing_field_and_window_of_entries() -> None:
    assert stated_volume("ct_fm") == StatedVolume([1, 1, 3], None, [512, 3072])  # takes any number of voxels
    assert stated_volume("phantom_ct") == stated_volume("timm:resnet18") == StatedVolume()
    assert stated_volume("phantom_ct,ct_fm").spacing == [1, 1, 3]
    for name, entry in TEACHERS.items():
        found = stated_volume(name)
        assert (found.spacing is None) == (entry.spacing is None)
        if found.field is not None:
            check_field(name, found.field)


def test_a_file_states_what_its_entry_did_and_its_field_is_checked(tmp_path: Path) -> None:
    arguments = {"spatial_dims": 3, "init_filters": 4, "in_channels": 1, "blocks_down": [1, 1]}
    entry = replace(
        TEACHERS["ct_fm"],
        arguments=arguments,
        preprocessing=VolumePreprocessing((40, 48, 32), axcodes="RAS"),
        spacing=(3.0, 2.0, 1.0),  # along D, H, W
        window=(-1000.0, 1000.0),
        channels=8,
    )
    path = str(tmp_path / "own.safetensors")
    torch.manual_seed(0)
    save_teacher(path, SegResEncoder(**arguments), entry)
    assert stated_volume(path) == StatedVolume([1, 2, 3], [40, 96, 96], [0, 2000])  # x, y, z
    check_field(path, [41, 96, 95])
    check_field(path, None)
    with pytest.raises(ValueError, match=r"--field 100 96 96: the teacher .* which are 40 96 96 mm"):
        check_field(path, [100, 96, 96])
    check_field(path, [100, 96, 96], {"size": None})
    assert stated_volume(path, {"size": None}).field is None
    with pytest.raises(FileNotFoundError):
        stated_volume(str(tmp_path / "none.safetensors"))
