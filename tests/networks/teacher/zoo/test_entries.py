"""What every entry states: sizes as counted, scales as of other libraries, all that a user needs."""

from __future__ import annotations

import open_clip
import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from monai_rd.networks.preprocessing import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from monai_rd.networks.teacher.zoo import TEACHERS, TeacherEntry
from monai_rd.networks.teacher.zoo.networks import TeacherBackbone
from tests.networks.teacher.shapes import on_meta
from tests.networks.teacher.zoo import published

# --- what is stated -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(one, id=name, marks=[pytest.mark.slow] * one.builder.startswith("monai:"))
        for name, one in TEACHERS.items()
    ],
)
def test_sizes_are_as_stated(entry: TeacherEntry) -> None:
    """Counted without computing anything, at the full size of every network."""
    network = on_meta(entry.builder, entry.arguments)
    fused = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(False)  # the counter knows matrix products
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            features = TeacherBackbone(network, entry.builder, "map")(torch.empty(1, *entry.input_shape, device="meta"))
    finally:
        timm.layers.set_fused_attn(bool(fused))
    params = sum(parameter.numel() for parameter in network.parameters())
    counted = (tuple(features.shape[1:]), round(params / 1e6, 2), round(counter.get_total_flops() / 2e9, 2))
    assert counted == ((entry.channels, *entry.grid), entry.params, entry.gmacs)


def test_every_entry_says_what_a_user_needs() -> None:
    for name, entry in TEACHERS.items():
        assert entry.name == name
        assert entry.kind == "map"
        for word in ("licence", "source", "modality", "tap"):
            assert getattr(entry, word), f"{name}: {word}"
        if not name.startswith("phantom_"):
            assert entry.citation, name
            assert entry.file, name
            assert any(e == name for e, *_ in published.FILES), f"{name}: no published layout is tested"


def test_scales_are_those_of_other_libraries() -> None:
    assert (CLIP_MEAN, CLIP_STD) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    assert (IMAGENET_MEAN, IMAGENET_STD) == (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    pixels = torch.randint(0, 256, (1, 3, 224, 224)).float()
    grey = 0.299 * pixels[:, :1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:]
    for name, expected in (
        ("torchxrayvision_densenet121", (2 * grey / 255 - 1) * 1024),
        ("radimagenet_resnet50", (pixels.flip(1) - 127.5) * 2 / 255),
        ("radimagenet_inceptionv3", (pixels.flip(1) - 127.5) * 2 / 255),
    ):
        torch.testing.assert_close(TEACHERS[name].preprocessing(pixels / 255), expected, atol=1e-3, rtol=1e-5)
