"""The teacher and the images that the benchmarks work on: random weights and random pictures cost what real ones do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from monai.transforms import Compose, EnsureTyped, Resized
from PIL import Image
from torch.nn import functional as F

from monai_rd.networks import FrozenFoundationModel, Preprocessing
from monai_rd.networks.teacher.zoo.networks import TeacherBackbone
from monai_rd.transforms import ChannelsToBagd, CTAugmentation, HounsfieldWindowsd, LoadImageOrSeriesd, SliceStackd


def random_teacher(name: str, size: int, classes: int = 2) -> FrozenFoundationModel:
    """A ViT of timm with random weights, the same in every process, that gives the map of its last tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = timm.create_model(name, num_classes=classes, img_size=size)
    return FrozenFoundationModel(
        TeacherBackbone(network, "timm", "map"),
        channels=network.num_features,
        kind="map",
        preprocessing=Preprocessing(size=size, mean=(0.5,) * 3, std=(0.5,) * 3),
        name=f"{name} with random weights",
    )


def pictures(count: int, size: int) -> torch.Tensor:
    """Grey pictures of different content, brightness and contrast `[count, 3, size, size]` in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, 8, 8, generator=generator) - 0.5
    brightness, contrast = torch.rand(2, count, 1, 1, 1, generator=generator)
    fine = F.interpolate(coarse, (size, size), mode="bicubic")
    return (brightness + 2 * contrast * fine).clamp(0, 1).expand(-1, 3, -1, -1).contiguous()


def write_images(folder: Path, count: int, size: int) -> list[dict[str, Any]]:
    """Write pictures as files, and list them as a training set of two classes."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number, picture in enumerate(pictures(count, size)[:, 0]):
        path = folder / f"{number}.png"
        Image.fromarray((255 * picture).byte().numpy()).save(path, compress_level=1)
        items.append({"image": str(path), "label": number % 2, "index": number})
    return items


def transforms(size: int) -> Callable[[Any], Any]:
    """Those of the CT bundle's training, for single images."""
    chain: Sequence[Any] = [
        LoadImageOrSeriesd("image"),
        SliceStackd("image", slices=1),
        HounsfieldWindowsd("image", windows=["lung"]),
        Resized("image", spatial_size=[size, size], mode="bilinear", anti_aliasing=True),
        CTAugmentation("image"),
        ChannelsToBagd("image", windows=1),
        EnsureTyped("image", track_meta=False),
    ]
    return Compose(chain)
