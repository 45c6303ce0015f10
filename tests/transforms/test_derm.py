"""Colour constancy and colour jitter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torchvision.transforms import functional

from monai_rd.errors import EmptyImageError, StudyError, WrongIntensityError
from monai_rd.transforms import ColourConstancyd, RandColourJitterd


def item(values: torch.Tensor, intensity: str = "display", **meta: str) -> dict[str, MetaTensor]:
    return {"image": MetaTensor(values.float(), meta={"intensity": intensity, **meta})}


def balanced(values: torch.Tensor) -> torch.Tensor:
    return ColourConstancyd("image")(item(values))["image"].as_tensor()


def skin(seed: int = 0) -> torch.Tensor:
    """RGB [3, X, Y] of 60 to 180 whose channels have one Minkowski mean: skin under white light."""
    values = 60 + 120 * torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(seed))
    return values / values.double().pow(6).mean(dim=(1, 2)).pow(1 / 6).view(3, 1, 1) * 130


def test_a_planted_cast_is_taken_away() -> None:
    """The picture becomes what it was under white light, up to one factor for all channels."""
    cast = torch.tensor([1.2, 0.9, 0.6]).view(3, 1, 1)
    ratio = balanced(skin() * cast) / (skin() / 255)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), atol=1e-4, rtol=0)
    assert (balanced(skin() * cast) - skin() * cast / 255).abs().max() > 0.02


def test_the_gain_is_that_of_shades_of_gray() -> None:
    values = torch.tensor([[50.0, 100.0], [40.0, 80.0], [30.0, 30.0]]).view(3, 1, 2)
    light = np.array([np.mean(np.power(channel, 6)) ** (1 / 6) for channel in values.numpy().reshape(3, 2)])
    gain = np.linalg.norm(light) / (np.sqrt(3) * light)
    np.testing.assert_allclose(balanced(values).numpy().reshape(3, 2), values.reshape(3, 2) / 255 * gain[:, None], 1e-5)


def test_white_light_changes_nothing() -> None:
    torch.testing.assert_close(balanced(skin()), (skin() / 255).float(), atol=1e-5, rtol=0)


def test_vignette_and_reflections_do_not_count() -> None:
    """A black surround, a clipped highlight and an alpha channel leave the gains as they are."""
    cast = skin() * torch.tensor([1.2, 0.9, 0.6]).view(3, 1, 1)
    framed = torch.zeros(4, 64, 64)
    framed[:, 20:44, 16:48] = torch.cat([cast, torch.full((1, 24, 32), 255.0)])
    framed[0, :10] = 12  # nearly black, and red
    framed[:3, 60:] = torch.tensor([255.0, 255.0, 180.0]).view(3, 1, 1)
    found = balanced(framed)
    assert found.shape == (3, 64, 64)
    torch.testing.assert_close(found[:, 20:44, 16:48], balanced(cast), atol=1e-5, rtol=0)
    assert (found[:, 10:20] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_range_is_kept(seed: int) -> None:
    values = torch.randint(0, 256, (3, 20, 20), generator=torch.Generator().manual_seed(seed))
    values = values * torch.tensor([1.0, 0.3, 0.05]).view(3, 1, 1)
    found = ColourConstancyd("image")(item(values))["image"]
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.meta["intensity"] == "unit"


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (item(torch.rand(1, 8, 8) * 255), WrongIntensityError, "got a grey one"),
        (item(torch.rand(2, 8, 8) * 255), WrongIntensityError, "got a grey one"),
        (item((torch.rand(1, 8, 8) * 255).expand(3, 8, 8)), WrongIntensityError, "got a grey one"),
        (item(torch.rand(3, 8, 8) * 15), EmptyImageError, "neither black nor clipped"),
        (item(250 + torch.rand(3, 8, 8) * 5), EmptyImageError, "neither black nor clipped"),
        (item(skin(), modality="US"), WrongIntensityError, "'US' was given where XC, DMS is expected"),
        (item(skin(), "arbitrary"), WrongIntensityError, "got 'arbitrary' values"),
    ],
)
def test_what_is_no_photograph_is_refused(image: dict[str, MetaTensor], error: type[StudyError], said: str) -> None:
    with pytest.raises(error, match=said):
        ColourConstancyd("image")(image)


def test_jitter_is_brightness_then_contrast_then_saturation_of_every_slice() -> None:
    stack = torch.rand(6, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    jitter = RandColourJitterd("image", amount=0.2, prob=1)
    jitter.set_random_state(5)
    found = jitter({"image": stack})["image"].as_tensor()
    state = np.random.RandomState(5)
    state.rand()  # whether to do anything
    brightness, contrast, saturation = state.uniform(0.8, 1.2, 3)
    for start in (0, 3):
        expected = functional.adjust_brightness(stack[start : start + 3], brightness)
        expected = functional.adjust_saturation(functional.adjust_contrast(expected, contrast), saturation)
        torch.testing.assert_close(found[start : start + 3], expected)
    jitter.prob = 0
    assert torch.equal(jitter({"image": stack})["image"], stack)
