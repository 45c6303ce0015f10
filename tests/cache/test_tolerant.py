"""One bad study among many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Transform

from monai_rd.cache import SkippingCacheDataset, TolerantDataset
from monai_rd.errors import StudyError, UnreadableImageError
from monai_rd.teacher_image import TEACHER_IMAGE
from monai_rd.transforms import bag_collate


def load(item: dict[str, Any]) -> dict[str, Any]:
    if item["image"] == "bad":
        try:
            raise UnreadableImageError("it is torn; mend it")
        except UnreadableImageError as error:
            raise RuntimeError("applying transform") from error
    if item["image"] == "bug":
        raise RuntimeError("no such key")
    return {**item, "image": MetaTensor(torch.ones(4, 3, 8, 8), meta={"intensity": "HU"})}


class Loader(Transform):
    """`load` as a transform, which MONAI caches; it never caches a plain function."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return load(data)


@pytest.mark.parametrize("names", [["bad", "good"], ["good", "bad"], ["bad", "good", "bad", "good"]])
@pytest.mark.parametrize("plain", [False, True])
def test_a_batch_of_what_is_read_and_what_is_not(plain: bool, names: list[str]) -> None:
    """In any order, whether transforms keep the metadata of images (inference) or not (training)."""

    def loaded(data: dict[str, Any]) -> dict[str, Any]:
        made = load(data)
        return made | ({"image": made["image"].as_tensor()} if plain else {})

    data = TolerantDataset([{"image": name} for name in names], loaded, (1, 3, 8, 8), {"default": "skip"})
    (batch,) = DataLoader(data, batch_size=len(names), collate_fn=bag_collate)
    assert batch["image"].shape == (len(names), 4, 3, 8, 8)
    assert [bool(image.any()) for image in batch["image"]] == [name == "good" for name in names]


def test_the_teachers_image_of_what_is_not_read_is_black_too() -> None:
    def loaded(data: dict[str, Any]) -> dict[str, Any]:
        return {**load(data), TEACHER_IMAGE: torch.ones(4, 3, 12, 12)}

    items = [{"image": name} for name in ("bad", "good")]
    data = TolerantDataset(items, loaded, (1, 3, 8, 8), {"default": "skip"}, teacher_shape=(1, 3, 12, 12))
    (batch,) = DataLoader(data, batch_size=2, collate_fn=bag_collate)
    assert batch[TEACHER_IMAGE].shape == (2, 4, 3, 12, 12)
    assert [bool(image.any()) for image in batch[TEACHER_IMAGE]] == [False, True]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_study_that_cannot_be_read_leaves_the_others_alone(num_workers: int) -> None:
    items = [{"image": name, "id": str(i)} for i, name in enumerate(["bad", "good", "bad", "good", "bad", "bad"])]
    loader = DataLoader(
        TolerantDataset(items, load, (1, 3, 8, 8), {"default": "skip"}),
        batch_size=2,
        num_workers=num_workers,
        collate_fn=bag_collate,
    )
    batches = list(loader)
    assert [batch["problem"] for batch in batches] == [["UNREADABLE_IMAGE", ""]] * 2 + [["UNREADABLE_IMAGE"] * 2]
    assert [batch["message"][0] for batch in batches] == ["it is torn; mend it"] * 3
    assert [batch["id"] for batch in batches] == [["0", "1"], ["2", "3"], ["4", "5"]]
    for batch in batches[:2]:
        assert batch["image"].shape == (2, 4, 3, 8, 8)
        assert batch["image"][0].max() == 0
        assert batch["image"][1].min() == 1


def test_any_other_error_is_raised() -> None:
    with pytest.raises(RuntimeError) as caught:
        TolerantDataset([{"image": "bug", "id": "0"}], load, (1, 3, 8, 8), {"default": "skip"})[0]
    assert "no such key" in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("policy", [None, {"default": "skip", "UNREADABLE_IMAGE": "error"}])
def test_what_the_policy_calls_an_error_is_raised(policy: dict | None) -> None:
    items = [{"image": "good", "id": "0"}, {"image": "bad", "id": "1"}]
    said = (
        r"study 1: it is torn; mend it \[to go on without such studies: --policy \"\{'UNREADABLE_IMAGE': 'skip'\}\"\]"
    )
    with pytest.raises(UnreadableImageError, match=said):
        TolerantDataset(items, load, (1, 3, 8, 8), policy)[1]
    with pytest.raises(UnreadableImageError, match=said):
        SkippingCacheDataset(items, Loader(), policy)


def test_training_goes_on_without_what_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    names = ["good", "bad", "good", "bad", "good"]
    data = SkippingCacheDataset(
        [{"image": n, "id": str(i)} for i, n in enumerate(names)], Loader(), {"default": "skip"}
    )
    assert [data[i]["id"] for i in range(len(data))] == ["0", "2", "4"]
    assert len(list(DataLoader(data, batch_size=2, collate_fn=bag_collate))) == 2
    assert "2 of 5 studies left out: 2 UNREADABLE_IMAGE" in caplog.text
    with pytest.raises(ValueError, match="no study is left, all were left out: 1 UNREADABLE_IMAGE"):
        SkippingCacheDataset([{"image": "bad", "id": "0"}], Loader(), {"default": "skip"})
    with pytest.raises(RuntimeError):
        SkippingCacheDataset([{"image": "bug", "id": "0"}], Loader(), {"default": "skip"})


def test_every_reason_has_a_code_of_its_own() -> None:
    def below(kind: type[StudyError]) -> list[type[StudyError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    codes = [kind.code for kind in below(StudyError)]
    assert len(codes) == len(set(codes)) >= 13
