"""Data loaders of a training, alike in all but what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose
from PIL import Image

from monai_rd.cache import Loaders, TrainingBatches, TrainingItems, training_items
from monai_rd.cache import batches as module
from monai_rd.datasets.lists import DataList
from monai_rd.no_label import NO_LABEL
from monai_rd.transforms import LoadImageOrSeriesd, SliceStackd
from tests.cache.test_batches import items


class Pictures(Dataset):
    """Items of one slice that know their number."""

    def __init__(self, count: int, device: str = "cpu") -> None:
        super().__init__([{"image": torch.full((1, 3, 2, 2), float(number)), "label": 0} for number in range(count)])
        self.device = torch.device(device)


def shown(loader: Any) -> list[list[int]]:
    return [batch["image"][:, 0, 0, 0, 0].int().tolist() for batch in loader]


def test_in_order_all_items_shuffled_whole_batches() -> None:
    loaders, data = Loaders(batch_size=2), Pictures(5)
    assert shown(loaders.whole(data)) == shown(loaders.shared(data)) == [[0, 1], [2, 3], [4]]
    torch.manual_seed(0)
    loader = loaders.shuffled(data)
    first, second = shown(loader), shown(loader)
    assert [len(batch) for batch in first] == [2, 2]
    assert len({number for batch in first for number in batch}) == 4
    assert first != second


def test_balanced_batches_for_the_teacher() -> None:
    data = Pictures(8)
    for item in data.data:
        item["label"] = int(item["image"][0, 0, 0, 0] >= 6)
    loader = Loaders(batch_size=4).shuffled(data, balanced=True, seed=1)
    for epoch in (1, 2, 3):
        loader.sampler.set_epoch(epoch)
        batches = shown(loader)
        assert [len({*batch} & {6, 7}) for batch in batches] == [2, 2]


def test_processes_share_what_is_shared_and_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "world_size", lambda: 2)
    ranks = []
    sampler = module.DistributedSampler
    for rank in (0, 1):
        monkeypatch.setattr(
            module, "DistributedSampler", lambda data, rank=rank, **how: sampler(data, num_replicas=2, rank=rank, **how)
        )
        loaders, data = Loaders(batch_size=2), Pictures(5)
        assert shown(loaders.whole(data)) == [[0, 1], [2, 3], [4]]
        ranks.append((shown(loaders.shared(data)), shown(loaders.shuffled(data))))
    assert [own for own, _ in ranks] == [[[0, 2], [4]], [[1, 3]]]
    assert [len(mixed) for _, mixed in ranks] == [1, 1]
    assert not {*ranks[0][1][0]} & {*ranks[1][1][0]}


def test_batches_of_a_training_come_from_its_sampler() -> None:
    batches = TrainingBatches(items(5), 2)
    loader = Loaders(batch_size=7).batched(Pictures(5), batches)
    assert loader.batch_sampler is batches


def test_pinned_for_a_gpu_and_loaded_here_where_items_lie_there() -> None:
    loaders = Loaders(batch_size=2, num_workers=1, device="cuda:0")
    plain, there = loaders.whole(Pictures(4)), loaders.whole(Pictures(4, device="cuda:0"))
    assert (plain.pin_memory, plain.num_workers) == (True, 1)
    assert (there.pin_memory, there.num_workers) == (False, 0)
    assert not Loaders(batch_size=2).whole(Pictures(4)).pin_memory


@pytest.mark.parametrize("takes", [True, False])
def test_items_of_a_training_are_numbered_and_bad_unlabelled_ones_left_out(takes: bool, tmp_path: Path) -> None:
    for number in range(4):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    listed = [{"image": str(tmp_path / f"{number}.png"), "label": 0, "id": ""} for number in range(4)]
    unlabelled = [{**one, "label": NO_LABEL} for one in listed[2:]]
    data = DataList(("a", "b"), training=listed[:2], validation=[], test=[], unlabelled=unlabelled)
    chain = Compose([LoadImageOrSeriesd("image"), SliceStackd("image", 1)])
    found = training_items(data, chain, cache_dir=tmp_path / "cache", takes_unlabelled=takes)
    assert isinstance(found, TrainingItems)
    assert found.sizes == ((2, 1) if takes else (2, 0))
    assert (found.unlabelled is None) is not takes
    assert [found[place]["index"] for place in range(len(found))] == [0, 1, 2][: 2 + takes]
