"""Slices of a study as channels, and as a bag."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_rd.teacher_features import TEACHER_FEATURES
from monai_rd.transforms import (
    ChannelsToBagd,
    ResizeForBothd,
    Sizes,
    SliceStackd,
    VolumeViewd,
    bag_collate,
    resize,
)
from monai_rd.transforms.bag import joined


def volume(depth: int) -> MetaTensor:
    """[1, X, Y, Z] in LPS order, each slice filled with its number."""
    values = torch.arange(depth).float().expand(1, 4, 5, depth)
    return MetaTensor(values, affine=torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])), meta={"intensity": "HU"})


@pytest.mark.parametrize(
    ("depth", "slices", "expected"),
    [(12, 4, [1, 4, 7, 10]), (4, 4, [0, 1, 2, 3]), (100, 1, [50]), (2, 4, [0, 0, 1, 1]), (1, 3, [0, 0, 0])],
)
def test_slices_stand_in_the_middle_of_equal_parts(depth: int, slices: int, expected: list[int]) -> None:
    stack = SliceStackd("image", slices)({"image": volume(depth)})["image"]
    assert stack.shape == (slices, 5, 4)
    assert stack[:, 0, 0].tolist() == expected
    assert stack.meta["intensity"] == "HU"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_image_becomes_one_grey_slice(channels: int) -> None:
    image = MetaTensor(torch.rand(channels, 6, 5) * 255, meta={"intensity": "display"})
    stack = SliceStackd("image", 4)({"image": image})["image"]
    grey = image[0] if channels < 3 else 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    assert stack.shape == (1, 5, 6)
    torch.testing.assert_close(stack.as_tensor()[0], grey.as_tensor().T)


def test_grey_colours_keep_their_value() -> None:
    image = MetaTensor(torch.full((3, 4, 4), 77.0))
    torch.testing.assert_close(
        SliceStackd("image", 1)({"image": image})["image"].as_tensor(), torch.full((1, 4, 4), 77.0)
    )


@pytest.mark.parametrize("windows", [1, 3])
def test_channels_become_a_bag(windows: int) -> None:
    stack = torch.rand(4 * windows, 6, 5)
    bag = ChannelsToBagd("image", windows)({"image": stack})["image"]
    assert bag.shape == (4, 3, 6, 5)
    for index in range(4):
        for channel in range(3):
            assert torch.equal(bag[index, channel], stack[index * windows + (channel if windows == 3 else 0)])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_colours_can_be_kept(channels: int) -> None:
    """Grey is repeated, alpha dropped; a bag of 3 "windows" a slice gets its colours back."""
    image = MetaTensor(torch.rand(channels, 6, 5) * 255, meta={"intensity": "display"})
    stack = SliceStackd("image", 4, colour=True)({"image": image})["image"]
    bag = ChannelsToBagd("image", 3)({"image": stack})["image"].as_tensor()
    assert bag.shape == (1, 3, 5, 6)
    for channel in range(3):
        assert torch.equal(bag[0, channel], image.as_tensor()[channel if channels > 2 else 0].T)


def test_frames_keep_their_colours() -> None:
    frames = MetaTensor(torch.rand(3, 4, 5, 8), affine=torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])))
    stack = SliceStackd("image", 2, colour=True)({"image": frames})["image"].as_tensor()
    assert stack.shape == (6, 5, 4)
    for index, frame in enumerate((2, 6)):
        assert torch.equal(stack[3 * index : 3 * index + 3], frames.as_tensor()[..., frame].transpose(1, 2))


@pytest.mark.parametrize("flips", itertools.product([False, True], repeat=3))
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_whole_volume_runs_up_back_and_left(flips: tuple[bool, ...], order: tuple[int, ...]) -> None:
    """[1, D, H, W] whatever the storage: D from inferior, H from anterior, W from the right."""
    drawn = torch.rand(4, 5, 6)
    array, affine = drawn.permute(2, 1, 0), torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    for axis, flip in enumerate(flips):
        if flip:
            array = array.flip(axis)
            affine[:3, axis] *= -1
    stored = MetaTensor(array.permute(order)[None], affine=affine[:, [*order, 3]], meta={"intensity": "HU"})
    sizes = Sizes(spatial_dims=3, spacing=(1, 1, 1), field=(6, 5, 4))
    found = VolumeViewd("image", sizes, region="image")({"image": stored})["image"]
    torch.testing.assert_close(found.as_tensor(), drawn[None], atol=1e-6, rtol=0)
    assert found.meta["intensity"] == "HU"
    assert torch.equal(ChannelsToBagd("image")({"image": found})["image"], found)
    batch = bag_collate([{"image": found, "label": 0}, {"image": found, "label": 1}])
    assert batch["image"].shape == (2, 1, 4, 5, 6)


def item(slices: int, label: int) -> dict[str, object]:
    return {"image": torch.full((slices, 3, 2, 2), float(label)), "label": label}


def test_a_single_image_among_studies_is_repeated() -> None:
    batch = bag_collate([item(3, 0), item(1, 1), item(3, 2)])
    assert batch["image"].shape == (3, 3, 3, 2, 2)
    assert batch["image"].mean(dim=(1, 2, 3, 4)).tolist() == [0, 1, 2]
    assert batch["label"].tolist() == [0, 1, 2]
    assert bag_collate([item(1, 0), item(1, 1)])["image"].shape == (2, 1, 3, 2, 2)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SliceStackd("image", 0)
    with pytest.raises(ValueError, match="must be 1 or 3, got 2"):
        ChannelsToBagd("image", 2)
    with pytest.raises(ValueError, match=r"got \[2, 3\]"):
        SliceStackd("image", 1)({"image": MetaTensor(np.zeros((2, 3)))})
    with pytest.raises(ValueError, match=r"roles of \[2, 3\] slices"):
        joined({"pa": torch.rand(2, 4, 4), "lateral": torch.rand(3, 4, 4)})


@pytest.mark.parametrize("numbers", [(1, 2, 3), (2, 3), (4, 6, 1)])
def test_bags_of_any_sizes_keep_their_means(numbers: tuple[int, ...]) -> None:
    """A study may have one, two or three of three roles."""
    bags = [torch.rand(count, 3, 2, 2) for count in numbers]
    features = {name: [torch.rand(count, 5) for count in numbers] for name in ("tap", "map")}
    items = [
        {"image": bag, TEACHER_FEATURES: {name: own[place] for name, own in features.items()}}
        for place, bag in enumerate(bags)
    ]
    batch = bag_collate(items)
    assert batch["image"].shape[1] == np.lcm.reduce(numbers)
    for place, bag in enumerate(bags):
        torch.testing.assert_close(batch["image"][place].mean(dim=0), bag.mean(dim=0))
        for name, own in features.items():
            torch.testing.assert_close(batch[TEACHER_FEATURES][name][place].mean(dim=0), own[place].mean(dim=0))


def test_roles_are_transformed_one_by_one_and_become_one_stack() -> None:
    """A picture among volumes of three slices counts as much as each of them."""
    picture = MetaTensor(torch.rand(1, 6, 5), meta={"intensity": "display"})
    stacks = SliceStackd("image", 3)({"image": {"scout": picture, "t1": volume(12), "t2": volume(9)}})["image"]
    assert {role: len(stack) for role, stack in stacks.items()} == {"scout": 1, "t1": 3, "t2": 3}
    one = resize("image", [8, 8])({"image": stacks})["image"]
    alone = [resize("image", [8, 8])({"image": stack})["image"].as_tensor() for stack in stacks.values()]
    assert torch.equal(one.as_tensor(), torch.cat([alone[0], alone[0], alone[0], alone[1], alone[2]]))
    assert one.meta["intensity"] == "display"
    bag = ChannelsToBagd("image")({"image": one})["image"]
    torch.testing.assert_close(bag.mean(dim=0)[0], torch.stack([each.mean(dim=0) for each in alone]).mean(dim=0))


@pytest.mark.parametrize("windows", [1, 3])
def test_both_networks_get_the_roles(windows: int) -> None:
    stacks = {"pa": torch.rand(windows, 40, 30), "lateral": torch.rand(windows, 20, 50)}
    both = ResizeForBothd("image", Sizes(16, teacher_size=24))({"image": stacks})
    for name, size in (("image", 16), ("teacher_image", 24)):
        alone = [resize(name, [size, size])({name: stack})[name] for stack in stacks.values()]
        torch.testing.assert_close(torch.as_tensor(both[name]), torch.cat(alone), atol=0, rtol=0)
        assert ChannelsToBagd(name, windows)({name: both[name]})[name].shape == (2, 3, size, size)
    assert list(stacks) == ["pa", "lateral"]


def test_windows_of_a_shorter_volume_are_repeated_and_so_are_their_features() -> None:
    def volume(windows: int) -> dict[str, object]:
        image = torch.arange(float(windows))[:, None, None, None].expand(windows, 2, 2, 2)
        kept = {"tap": torch.rand(windows, 5), "pooled": torch.rand(5)}
        return {"image": image, "teacher_image": image + 1, "label": 0, TEACHER_FEATURES: kept}

    batch = bag_collate([volume(4), volume(2), volume(1)])
    assert batch["image"].shape == batch["teacher_image"].shape == (3, 4, 2, 2, 2)
    assert batch["image"].mean(dim=(1, 2, 3, 4)).tolist() == [1.5, 0.5, 0]
    assert batch[TEACHER_FEATURES]["tap"].shape == (3, 4, 5)
    assert batch[TEACHER_FEATURES]["pooled"].shape == (3, 5)
    assert torch.equal(batch[TEACHER_FEATURES]["tap"][1, :2], batch[TEACHER_FEATURES]["tap"][1, 2:])


def test_multi_label_items_become_a_row_each() -> None:
    items = [{"image": torch.rand(1, 3, 4, 4), "label": label} for label in ([0.0, 1.0, 1.0], [1.0, 0.0, 0.0])]
    batch = bag_collate(items)
    assert torch.equal(batch["label"], torch.tensor([[0.0, 1, 1], [1, 0, 0]]))
