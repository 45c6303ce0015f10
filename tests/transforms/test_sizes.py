"""The sizes of student and teacher, and the images of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CopyItemsd, EnsureTyped, Resized

from monai_rd.transforms import ResizeForBothd, Sizes, chain


@pytest.mark.parametrize(
    ("given", "student", "teacher", "view", "item"),
    [
        ({}, [8, 8], None, [8, 8], [1, 3, 8, 8]),
        ({"teacher_size": 12}, [8, 8], [12, 12], [12, 12], [1, 3, 8, 8]),
        ({"teacher_size": 4, "slices": 5}, [8, 8], [4, 4], [8, 8], [1, 3, 8, 8]),
        ({"slices": 5, "spatial_dims": 3}, [5, 8, 8], None, [5, 8, 8], [1, 5, 8, 8]),
        ({"teacher_size": 12, "slices": 5, "spatial_dims": 3}, [5, 8, 8], [5, 12, 12], [5, 12, 12], [1, 5, 8, 8]),
    ],
)
def test_sizes(given: dict[str, int], student: Any, teacher: Any, view: Any, item: Any) -> None:
    sizes = Sizes(8, **given)
    assert (sizes.student, sizes.teacher, sizes.view, sizes.item) == (student, teacher, view, item)


@pytest.mark.parametrize(("shape", "dims"), [((4, 20, 17), 2), ((1, 6, 20, 17), 3)])
def test_both_get_an_image_of_their_own_size_as_monai_resizes_it(shape: tuple[int, ...], dims: int) -> None:
    image, sizes = torch.rand(shape), Sizes(8, 12, slices=5, spatial_dims=dims)
    volume = [5] * (dims - 2)
    mode = {"mode": "bilinear" if dims == 2 else "trilinear", "anti_aliasing": True}
    expected = Compose(
        [
            CopyItemsd("image", names="teacher_image"),
            Resized("teacher_image", spatial_size=[*volume, 12, 12], **mode),
            Resized("image", spatial_size=[*volume, 8, 8], **mode),
        ]
    )({"image": image})
    found = ResizeForBothd("image", sizes)({"image": image, "label": 1})
    assert found.keys() == {"image", "teacher_image", "label"}
    for key in ("image", "teacher_image"):
        assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(expected[key]))


def test_a_view_of_the_right_size_is_left_alone_and_another_image_is_not() -> None:
    image, resize = torch.rand(4, 8, 8), ResizeForBothd("image", Sizes(8))
    assert resize({"image": image})["image"] is image
    larger = MetaTensor(torch.rand(4, 20, 17))
    expected = Resized("image", spatial_size=[8, 8], mode="bilinear", anti_aliasing=True)({"image": larger})["image"]
    found = resize({"image": larger})
    assert torch.equal(found["image"], expected)
    assert "teacher_image" not in found


def test_an_image_that_fits_both_is_copied() -> None:
    found = ResizeForBothd("image", Sizes(8, 8))({"image": torch.rand(4, 8, 8)})
    found["image"] += 1
    assert float(found["teacher_image"].max()) < 1


def test_a_chain_is_a_compose_of_all_its_parts_in_their_order() -> None:
    first, second, third = (EnsureTyped("image") for _ in range(3))
    made = chain([[first, second], third, []])
    assert isinstance(made, Compose)
    assert made.transforms == (first, second, third)
