"""The sizes of student and teacher, and the images of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CopyItemsd, EnsureTyped, Resized

from monai_rd.transforms import ResizeForBothd, ResizeImaged, Sizes, chain

VOLUMES: dict[str, Any] = {"spatial_dims": 3, "spacing": [1, 1, 1], "field": [9, 9, 9]}


@pytest.mark.parametrize(
    ("given", "student", "teacher", "view", "item"),
    [
        ({}, [8, 8], None, [8, 8], [1, 3, 8, 8]),
        ({"teacher_size": 12}, [8, 8], [12, 12], [12, 12], [1, 3, 8, 8]),
        ({"teacher_size": 4, "slices": 5}, [8, 8], [4, 4], [8, 8], [1, 3, 8, 8]),
    ],
)
def test_sizes(given: dict[str, int], student: Any, teacher: Any, view: Any, item: Any) -> None:
    sizes = Sizes(8, **given)
    assert (sizes.student, sizes.teacher, sizes.view, sizes.item) == (student, teacher, view, item)
    assert sizes.bag == [given.get("slices", 1), 3, 8, 8]


def test_sizes_of_volumes_follow_from_lengths_in_mm() -> None:
    lengths: dict[str, Any] = {"spatial_dims": 3, "spacing": (1, 2, 3), "field": (32, 32, 60)}
    alone, taught = Sizes(**lengths), Sizes(**lengths, teacher_spacing=(2, 1, 2.9))
    assert (alone.student, alone.teacher, alone.view) == ([20, 16, 32], None, [20, 16, 32])
    assert (taught.student, taught.teacher, taught.view) == ([20, 16, 32], [21, 32, 16], [21, 32, 32])
    assert alone.item == alone.bag == [1, 20, 16, 32]
    assert taught.teacher_item == [1, 21, 32, 16]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "a 2D student needs an --image_size"),
        ({"image_size": 8, "spacing": [1, 1, 1]}, "--spacing: leave it out for a 2D student: it is for 3D"),
        (
            {**VOLUMES, "image_size": 8, "slices": 4},
            "--image_size, --slices: leave it out for a 3D student: volumes have",
        ),
        ({"spatial_dims": 3, "spacing": [1, 1, 1]}, "needs volumes with a --spacing and a --field in mm: .* rd_ct or"),
        ({**VOLUMES, "spacing": [1, 1]}, "--spacing: three lengths in mm above 0"),
        ({**VOLUMES, "teacher_spacing": [1, 1, 0]}, "--teacher_spacing: three lengths in mm above 0"),
    ],
)
def test_sizes_of_the_other_kind_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Sizes(**given)


def test_both_get_an_image_of_their_own_size_as_monai_resizes_it() -> None:
    image, sizes = torch.rand(4, 20, 17), Sizes(8, 12)
    mode = {"mode": "bilinear", "anti_aliasing": True}
    expected = Compose(
        [
            CopyItemsd("image", names="teacher_image"),
            Resized("teacher_image", spatial_size=[12, 12], **mode),
            Resized("image", spatial_size=[8, 8], **mode),
        ]
    )({"image": image})
    found = ResizeForBothd("image", sizes)({"image": image, "label": 1})
    assert found.keys() == {"image", "teacher_image", "label"}
    for key in ("image", "teacher_image"):
        torch.testing.assert_close(torch.as_tensor(found[key]), expected[key].as_tensor(), atol=1e-6, rtol=0)


def test_both_get_a_volume_of_their_own_size() -> None:
    sizes = Sizes(spatial_dims=3, spacing=(2, 2, 2), field=(16, 16, 12), teacher_spacing=(1, 2, 3))
    found = ResizeForBothd("image", sizes)({"image": torch.rand(2, 12, 16, 16)})
    assert found["image"].shape == (2, 6, 8, 8)
    assert found["teacher_image"].shape == (2, 4, 8, 16)


def test_a_view_of_the_right_size_is_left_alone_and_another_image_is_not() -> None:
    image, resize = torch.rand(4, 8, 8), ResizeForBothd("image", Sizes(8))
    assert resize({"image": image})["image"] is image
    larger = MetaTensor(torch.rand(4, 20, 17))
    found = resize({"image": larger})
    assert torch.equal(found["image"], ResizeImaged("image", [8, 8])({"image": larger})["image"])
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
