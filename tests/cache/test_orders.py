"""Orders in which all classes are shown equally often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from monai_rd.cache.orders import BalancedOrder, BalancedSampler

SKEWED = np.repeat([0, 1, 2], [14, 5, 1])
SEVERAL = np.array([[1, 0], [1, 1], [1, 0], [0, 0], [0, 0]], dtype=float)


def test_every_class_is_shown_once_in_a_round_and_every_item_before_it_comes_again() -> None:
    order = BalancedOrder(SKEWED, seed=0)
    shown = [order.at(position) for position in range(3 * 70)]
    for first in range(0, len(shown), 3):
        assert {int(SKEWED[item]) for item, _ in shown[first : first + 3]} == {0, 1, 2}
    times = Counter(item for item, _ in shown)
    assert {times[item] for item in range(14)} == {5}
    assert {times[item] for item in range(14, 19)} == {14}
    assert times[19] == 70
    for item in range(20):
        assert [again for one, again in shown if one == item] == list(range(times[item]))
    assert len({tuple(SKEWED[item] for item, _ in shown[k : k + 3]) for k in range(0, 90, 3)}) > 1


def test_a_position_follows_from_the_seed_and_the_stream() -> None:
    first = BalancedOrder(SKEWED, seed=3)
    forwards = [first.at(position) for position in range(60)]
    assert [first.at(position) for position in reversed(range(60))] == forwards[::-1]
    assert [BalancedOrder(SKEWED, seed=3).at(position) for position in range(60)] == forwards
    for other in (BalancedOrder(SKEWED, seed=4), BalancedOrder(SKEWED, seed=3, stream=1)):
        assert [other.at(position) for position in range(60)] != forwards


def test_with_several_labels_those_without_any_are_a_class() -> None:
    order = BalancedOrder(SEVERAL, seed=0)
    for first in range(0, 30, 3):
        items = {order.at(position)[0] for position in range(first, first + 3)}
        assert 1 in items  # the only one of the second class
        assert items & {0, 1, 2}
        assert items & {3, 4}
    assert len(BalancedOrder(SEVERAL[:3], seed=0).classes) == 2


@pytest.mark.parametrize("labels", [np.array([0, 2, 2]), np.array([], dtype=int), np.array([[1.0, 0.0], [0.0, 0.0]])])
def test_a_class_without_items_is_refused(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a class has no training item"):
        BalancedOrder(labels, seed=0)


def test_epochs_of_a_sampler_follow_each_other_and_processes_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, whole = BalancedSampler(SKEWED, seed=1), []
    for epoch in (1, 2, 3):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler) == 20
        whole += list(sampler)
    order = BalancedOrder(SKEWED, seed=1)
    assert whole == [order.at(position)[0] for position in range(60)]
    monkeypatch.setattr("monai_rd.cache.orders.world_size", lambda: 2)
    halves = []
    for number in (0, 1):
        monkeypatch.setattr("monai_rd.cache.orders.rank", lambda number=number: number)
        sampler.set_epoch(2)
        halves.append(list(sampler))
    assert [item for pair in zip(*halves, strict=True) for item in pair] == whole[20:40]
