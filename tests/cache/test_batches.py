"""Batches of labelled and unlabelled items."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from monai.data import DataLoader

from monai_rd.cache import TrainingBatches, TrainingItems
from monai_rd.cache.batches import ItemView


class Items:
    """What a cached data set is to `TrainingItems`."""

    transform_fingerprint, transform = "same", None

    def __init__(self, name: str, count: int) -> None:
        self.data = [{"image": f"{name}{number}"} for number in range(count)]
        self.item_keys = [f"key of {item['image']}" for item in self.data]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> Any:
        return self.data[place]


def items(labelled: int, unlabelled: int = 0) -> TrainingItems:
    return TrainingItems(Items("labelled ", labelled), Items("unlabelled ", unlabelled) if unlabelled else None)


def epoch(batches: TrainingBatches, number: int) -> list[list[ItemView]]:
    batches.set_epoch(number)
    return list(batches)


def test_an_epoch_without_unlabelled_items_is_a_round_that_drops_what_fills_no_batch() -> None:
    batches = TrainingBatches(items(10), 4)
    assert (len(batches), batches.size) == (2, 4)
    for number in (1, 2, 3):
        shown = [one for batch in epoch(batches, number) for one in batch]
        assert len({one.item for one in shown}) == 8
        assert {one.visit for one in shown} == {number - 1}
    assert epoch(batches, 1) != epoch(batches, 2)


@pytest.mark.parametrize(("share", "beside"), [(0.5, 4), (0.75, 12), (0.01, 1), (0.0, 0)])
def test_every_batch_brings_its_share_of_unlabelled_items(share: float, beside: int) -> None:
    batches = TrainingBatches(items(10, 7), 4, share)
    assert batches.size == 4 + beside
    for batch in epoch(batches, 1):
        assert [one.item < 10 for one in batch] == [True] * 4 + [False] * beside


def test_all_unlabelled_items_are_shown_equally_often_over_epochs() -> None:
    batches = TrainingBatches(items(10, 7), 4, 0.5)
    shown = [one for number in range(1, 8) for batch in epoch(batches, number) for one in batch if one.item >= 10]
    assert set(Counter(one.item for one in shown).values()) == {8}
    for place in range(10, 17):
        assert sorted(one.visit for one in shown if one.item == place) == list(range(8))


def test_stated_steps_go_over_rounds_and_go_on_where_the_last_epoch_ended() -> None:
    whole = [batch for number in range(1, 4) for batch in epoch(TrainingBatches(items(10, 7), 4, 0.5, seed=3), number)]
    stated = TrainingBatches(items(10, 7), 4, 0.5, steps=3, seed=3)
    assert [batch for number in (1, 2) for batch in epoch(stated, number)] == whole
    for batch in whole:  # which `ReplayedViews` builds on
        assert len({one.visit for one in batch if one.item < 10}) == 1


def test_an_epoch_follows_from_its_number_and_the_seed() -> None:
    batches = TrainingBatches(items(10, 7), 4, seed=1)
    first = epoch(batches, 5)
    assert epoch(batches, 5) == first == epoch(TrainingBatches(items(10, 7), 4, seed=1), 5)
    assert epoch(TrainingBatches(items(10, 7), 4, seed=2), 5) != first


def test_processes_share_what_one_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = epoch(TrainingBatches(items(16, 9), 4, 0.5), 2)
    monkeypatch.setattr("monai_rd.cache.batches.world_size", lambda: 2)
    halves = []
    for number in (0, 1):
        monkeypatch.setattr("monai_rd.cache.batches.rank", lambda number=number: number)
        halves.append(epoch(TrainingBatches(items(16, 9), 2, 0.5), 2))
    joined = [one[:2] + other[:2] + one[2:] + other[2:] for one, other in zip(*halves, strict=True)]
    assert joined == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_items_of_the_batches(workers: int) -> None:
    data = items(10, 7)
    batches = TrainingBatches(data, 4)
    loader = DataLoader(data, batch_sampler=batches, num_workers=workers, collate_fn=list)
    assert [[item["image"] for item in batch] for batch in loader] == [
        [data[one]["image"] for one in batch] for batch in epoch(batches, 1)
    ]
    assert data[12]["image"] == "unlabelled 2"
    assert data[ItemView(3, 9)]["image"] == "labelled 3"
    assert data.item_keys[9:11] == ["key of labelled 9", "key of unlabelled 0"]


def skewed(unlabelled: int = 0) -> TrainingItems:
    """16 labelled items: 12, 3 and 1 of three classes."""
    data = items(16, unlabelled)
    for place, one in enumerate(data.labelled.data):
        one["label"] = 0 if place < 12 else 1 if place < 15 else 2
    return data


def test_balanced_batches_show_all_classes_equally_often_in_as_many_steps() -> None:
    balanced, plain = TrainingBatches(skewed(7), 6, 0.5, balanced=True), TrainingBatches(skewed(7), 6, 0.5)
    assert (len(balanced), balanced.size) == (len(plain), plain.size)
    for number in (1, 2, 3):
        batches = epoch(balanced, number)
        for batch, other in zip(batches, epoch(plain, number), strict=True):
            own = [one.item for one in batch[:6]]
            assert [sum(first <= item < end for item in own) for first, end in ((0, 12), (12, 15), (15, 16))] == [2] * 3
            assert batch[6:] == other[6:]  # the unlabelled ones are as ever
        assert epoch(TrainingBatches(skewed(7), 6, 0.5, balanced=True), number) == batches


def test_balanced_rounds_are_in_stored_views_or_in_new_ones() -> None:
    """What `ReplayedViews` builds on: visits of a batch are all even or all odd; an item never has a visit twice."""
    batches, seen = TrainingBatches(skewed(), 6, steps=3, balanced=True), Counter[ItemView]()
    for number in range(1, 15):
        for batch in epoch(batches, number):
            assert len({one.visit % 2 for one in batch}) == 1
            seen.update(batch)
    assert set(seen.values()) == {1}
    for item in range(16):
        for kind in (0, 1):
            visits = sorted(one.visit // 2 for one in seen if one.item == item and one.visit % 2 == kind)
            assert visits == list(range(len(visits)))


def test_processes_share_balanced_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = epoch(TrainingBatches(skewed(), 4, balanced=True), 3)
    monkeypatch.setattr("monai_rd.cache.batches.world_size", lambda: 2)
    halves = []
    for number in (0, 1):
        monkeypatch.setattr("monai_rd.cache.batches.rank", lambda number=number: number)
        halves.append(epoch(TrainingBatches(skewed(), 2, balanced=True), 3))
    assert [one + other for one, other in zip(*halves, strict=True)] == whole


def test_wrong_settings_are_refused() -> None:
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="unlabelled_share"):
            TrainingBatches(items(10, 7), 4, share)
    with pytest.raises(ValueError, match="epoch_steps"):
        TrainingBatches(items(10), 4, steps=0)
    assert len(TrainingBatches(items(3), 4, steps=5)) == 0  # which `EpochSeedHandler` refuses
