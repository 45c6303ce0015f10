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


def test_wrong_settings_are_refused() -> None:
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="unlabelled_share"):
            TrainingBatches(items(10, 7), 4, share)
    with pytest.raises(ValueError, match="epoch_steps"):
        TrainingBatches(items(10), 4, steps=0)
    assert len(TrainingBatches(items(3), 4, steps=5)) == 0  # which `EpochSeedHandler` refuses
