"""Resizing of images against MONAI's, which takes the long way."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Resize

from monai_rd.transforms import ResizeImaged
from monai_rd.transforms.resizing import _weights

SIZES = [(224, 224), (64, 64), (3, 20), (1, 1), (300, 97), (96, 224)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 301, 97), (6, 96, 80), (2, 5, 7), (1, 2, 1), (1, 1, 9)])
def test_values_are_those_of_monai(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    wanted = Resize(list(size), mode="bilinear", anti_aliasing=True)(image).as_tensor()
    found = ResizeImaged("image", size)({"image": image})["image"]
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)  # places of pixels in float32 there, in float64 here


def test_a_radiograph() -> None:
    image = torch.rand(1, 2500, 2000, generator=torch.Generator().manual_seed(0))
    wanted = Resize([224, 224], mode="bilinear", anti_aliasing=True)(image).as_tensor()
    torch.testing.assert_close(ResizeImaged("image", [224, 224])({"image": image})["image"], wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float64, torch.float16])
def test_the_result_is_in_float32(dtype: torch.dtype) -> None:
    image = (torch.rand(1, 9, 12) * 100).to(dtype)
    found = ResizeImaged("image", [4, 4])({"image": image})["image"]
    assert found.dtype == torch.float32
    assert torch.equal(found, ResizeImaged("image", [4, 4])({"image": image.float()})["image"])


def test_metadata_stay_and_the_given_image_too() -> None:
    image = MetaTensor(torch.rand(1, 9, 12), meta={"intensity": "HU"})
    before = image.clone()
    found = ResizeImaged("image", [4, 4])({"image": image, "label": 1})
    assert found["image"].meta["intensity"] == "HU"
    assert found["label"] == 1
    assert torch.equal(image, before)


def test_few_weights_are_kept() -> None:
    for rows in range(40, 140):
        _weights(rows, 32, torch.device("cpu"))
    assert _weights.cache_info().currsize == 32
