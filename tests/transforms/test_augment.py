"""What holds for the augmentation of every modality, and for the chain around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Resized

from monai_rd.transforms import (
    ChannelsToBagd,
    CollimationCropd,
    ColourConstancyd,
    CTAugmentation,
    DermAugmentation,
    DisplayIntensityd,
    HounsfieldWindowsd,
    MRAugmentation,
    MRIntensityd,
    Sizes,
    SliceStackd,
    UltrasoundRegiond,
    USAugmentation,
    VolumeViewd,
    XrayAugmentation,
    bag_collate,
)
from monai_rd.transforms.augment import InPlaneAugmentation

ALL = [CTAugmentation, MRAugmentation, USAugmentation, XrayAugmentation, DermAugmentation]
GREY = [kind for kind in ALL if kind is not DermAugmentation]


def views(augment: InPlaneAugmentation, image: torch.Tensor, count: int = 12) -> list[torch.Tensor]:
    found = []
    for seed in range(count):
        augment.set_random_state(seed)
        found.append(augment({"image": MetaTensor(image.clone())})["image"])
    return found


def smooth(channels: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(torch.rand(1, channels, 6, 6), size=(32, 32), mode="bilinear")[0]


@pytest.mark.parametrize("kind", ALL)
def test_views_are_many_and_each_comes_again_from_its_seed(kind: type[InPlaneAugmentation]) -> None:
    image = smooth(3)
    first, again = views(kind("image"), image), views(kind("image"), image)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
        assert one.shape == image.shape
        assert torch.isfinite(one).all()
        if kind is not CTAugmentation:
            assert one.min() >= 0
            assert one.max() <= 1
    assert sum(not torch.allclose(one, image, atol=1e-3) for one in first) >= 9
    assert len({float(one.sum()) for one in first}) >= 9


@pytest.mark.parametrize("kind", [kind for kind in GREY if kind is not USAugmentation])
def test_all_slices_are_treated_alike(kind: type[InPlaneAugmentation]) -> None:
    """Speckle alone is another in each frame."""
    for found in views(kind("image"), smooth(1).expand(4, 32, 32)):
        torch.testing.assert_close(found, found[:1].expand_as(found))


@pytest.mark.parametrize("kind", GREY)
def test_a_volume_is_treated_as_its_slices(kind: type[InPlaneAugmentation]) -> None:
    """Also in several windows."""
    stack = smooth(6)
    for windows in (1, 2):
        volumes = views(kind("image"), stack.unflatten(0, (windows, -1)), 5)
        for flat, volume in zip(views(kind("image"), stack, 5), volumes, strict=True):
            assert volume.shape == (windows, 6 // windows, 32, 32)
            assert torch.equal(volume.flatten(0, 1), flat)


@pytest.mark.parametrize(
    ("kind", "axes"), [(CTAugmentation, {2}), (MRAugmentation, {2}), (USAugmentation, {2}), (XrayAugmentation, set()),
                       (DermAugmentation, {1, 2})]
)  # fmt: skip
def test_what_is_mirrored(kind: type[InPlaneAugmentation], axes: set[int]) -> None:
    """Left and right where anatomy allows it, front and back in skin only: seen by which mirror image a view fits."""
    image = smooth(3)
    mirrors = {0: image, 1: image.flip(1), 2: image.flip(2)}
    small = [t for t in kind("image").transforms if type(t).__name__ == "RandFlipd"]
    found = set()
    for seed in range(30):
        view: dict[str, Any] = {"image": MetaTensor(image.clone())}
        for number, flip in enumerate(small):
            flip.set_random_state(seed + 100 * number)
            view = flip(view)
        found |= {axis for axis, mirror in mirrors.items() if torch.equal(view["image"], mirror)}
    assert found == {0, *axes}


def chains() -> dict[str, tuple[list[Any], MetaTensor, int]]:
    """Of each modality: the chain after loading, an image as loaded, channels of a slice."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(30, 240, (3, 60, 50), generator=generator).float()
    volume = torch.randn(1, 30, 34, 12, generator=generator) * 400
    figure, units = MetaTensor(picture, meta={"intensity": "display"}), MetaTensor(volume, meta={"intensity": "HU"})
    unstated = MetaTensor(volume, meta={"intensity": "unstated"})
    stack = SliceStackd("image", 4)
    return {
        "ct": ([stack, HounsfieldWindowsd("image", ["lung"])], units, 1),
        "mr": ([MRIntensityd("image"), stack], unstated, 1),
        "us": ([UltrasoundRegiond("image"), stack, DisplayIntensityd("image", ["US"])], figure, 1),
        "xray": ([CollimationCropd("image"), stack, DisplayIntensityd("image", ["DX"])], figure, 1),
        "derm": ([ColourConstancyd("image"), SliceStackd("image", 4, colour=True)], figure, 3),
    }


@pytest.mark.parametrize(("name", "kind"), list(zip(["ct", "mr", "us", "xray", "derm"], ALL, strict=True)))
def test_the_chain_of_each_modality_ends_in_a_bag_of_0_to_1(name: str, kind: type[InPlaneAugmentation]) -> None:
    load, image, channels = chains()[name]
    resize, bag = Resized("image", (24, 24), mode="bilinear", anti_aliasing=True), ChannelsToBagd("image", channels)
    for steps in ([*load, resize, bag], [*load, resize, kind("image"), bag]):
        chain = Compose(steps)
        chain.set_random_state(0)
        found = chain({"image": image})["image"]
        assert found.shape == (4 if name in ("ct", "mr") else 1, 3, 24, 24)
        assert found.std() > 0.02
        if kind is not CTAugmentation:
            assert found.min() >= -1e-6
            assert found.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["ct", "mr"])
def test_the_chain_of_a_3d_network_ends_in_a_volume(name: str) -> None:
    (load, image, _), kind = chains()[name], {"ct": CTAugmentation, "mr": MRAugmentation}[name]
    sizes = Sizes(spatial_dims=3, spacing=(10, 10, 10), field=(240, 240, 160))
    view = VolumeViewd("image", sizes, empty=-1024 if name == "ct" else 0)
    load = [view if isinstance(step, SliceStackd) else step for step in load]
    chain = Compose([*load, kind("image"), ChannelsToBagd("image")])
    batch = bag_collate([{**chain({"image": image}), "label": label} for label in (0, 1)])
    assert batch["image"].shape == (2, 1, 16, 24, 24)
    assert np.isfinite(batch["image"].numpy()).all()
