"""Random views that come again, whatever the process, the order and the transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import MapTransform, RandomizableTransform

from monai_rd.cache import feature_dataset
from monai_rd.cache.batches import ItemView
from tests.cache.filled_stores import ITEMS, TAP, VIEWS, dataset, transforms
from tests.methods.steps import tiny_teacher

pytestmark = pytest.mark.usefixtures("few_threads")


@pytest.mark.parametrize("workers", [0, 2])
def test_views_do_not_depend_on_process_order_or_place_in_the_list(images: list[Path], workers: int) -> None:
    from torch.utils.data import DataLoader

    from monai_rd.cache import ReplayedViews

    one, other = ReplayedViews(dataset(images), VIEWS, 7), ReplayedViews(dataset(images[::-1]), VIEWS, 7)
    for time in (0, 1):
        order: Any = [ItemView(index, time) for index in range(ITEMS)]
        loader: Any = DataLoader(other, batch_size=None, sampler=order, num_workers=workers)
        expected: list[Any] = [one[ItemView(index, time)] for index in (3, 1, 0, 4, 2)]
        by_index = {int(item["index"]): item["image"] for item in loader}
        assert len(by_index) == ITEMS
        for item in expected:
            assert torch.equal(by_index[ITEMS - 1 - item["index"]], item["image"])


def test_random_numbers_that_cannot_be_replayed_are_found(images: list[Path], tmp_path: Path) -> None:
    class Noise(MapTransform):
        def __call__(self, data: Any) -> Any:
            return {**data, "image": data["image"] + torch.rand(1) * 0.1}

    chain = transforms(more=[Noise("image")])
    taught: Any = feature_dataset(dataset(images, chain), tiny_teacher(), TAP, VIEWS, directory=tmp_path / "store")
    with pytest.raises(ValueError, match="draws random numbers that MONAI's set_random_state does not reach"):
        list(taught)


def test_a_transform_that_is_seeded_in_its_own_way_is_replayed(images: list[Path], tmp_path: Path) -> None:
    class Noise(RandomizableTransform, MapTransform):
        """Draws by PyTorch, as MONAI's contract allows."""

        def __init__(self) -> None:
            RandomizableTransform.__init__(self)
            MapTransform.__init__(self, "image")
            self.generator = torch.Generator()

        def set_random_state(self, seed: int | None = None, state: Any = None) -> Any:
            self.generator.manual_seed(seed or 0)
            return self

        def __call__(self, data: Any) -> Any:
            return {**data, "image": data["image"] + torch.rand(1, generator=self.generator) * 0.1}

    chain = transforms(more=[Noise()])
    taught: Any = feature_dataset(dataset(images, chain), tiny_teacher(), TAP, VIEWS, directory=tmp_path / "store")
    shown = set()
    for time in range(0, 4 * VIEWS, 2):
        shown |= {float(taught[ItemView(index, time)]["image"].sum()) for index in range(ITEMS)}
    assert len(shown) == ITEMS * VIEWS
