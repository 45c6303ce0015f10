"""Random views of training items that can be shown again, so that teacher and student see the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Randomizable
from torch import Tensor

from monai_rd.cache.batches import ItemView
from monai_rd.cache.file_hashes import item_keys
from monai_rd.errors import UnreadableFileError
from monai_rd.teacher_features import TEACHER_FEATURES, UNSEEN
from monai_rd.teacher_image import TEACHER_IMAGE

if TYPE_CHECKING:
    from monai_rd.cache.feature_store import FeatureStore

__all__ = ["PROBE", "ReplayedViews", "probe", "refuse_another_view"]

PROBE = "probe"  # the part of a store that views are known by

_PROBES = 256  # values of a view that are kept to know it by
_TOLERANCE = 2e-3  # of a value in [0, 1]: half precision, and another machine's rounding


class ReplayedViews(Dataset):
    """A MONAI data set whose items are seen in a fixed number of random views.

    View k of an item is what the data set's random transforms make of it after they were seeded with a number that
    follows from the seed, k and the content of the item's files; so it is the same in every run, in every process, and
    wherever the item stands in the list. Each time an item is shown, the next of its views has its turn; the items
    start at different ones. Once `store` is set, items bring what the teacher made of the view, as `teacher_features`,
    and every view is compared with the one that the teacher was shown, at 256 of its values.

    Few views of few images are soon known by heart. So every second time an item is shown in a new view, which no
    teacher saw; its `teacher_features` are `UNSEEN`. All labelled items of a batch are shown for the same time, see
    `TrainingBatches`.

    Args:
        dataset: items with `image`, a path or several, and a transform whose random parts are `Randomizable`.
        views: K, how many views an item has.
        seed: of the views.
        new: whether every second time shows a new view.

    Attributes:
        keys: what the items are, see `item_key`.
        store: holds the features of all views; None until they are computed.

    Raises:
        ValueError: K below 1.
        UnreadableFileError: an item's files cannot be read.
    """

    def __init__(self, dataset: Dataset, views: int, seed: int, new: bool = True) -> None:
        if views < 1:
            raise ValueError(f"there must be at least 1 view, got {views}")
        super().__init__(dataset.data, dataset.transform)
        self.dataset, self.views, self.seed, self.new = dataset, views, seed, new
        known: list[str] | None = getattr(dataset, "item_keys", None)
        self.keys = item_keys([item["image"] for item in dataset.data]) if known is None else known
        if "" in self.keys:
            raise UnreadableFileError(f"{self.keys.count('')} of the items have files that cannot be read any more.")
        self.device: torch.device = getattr(dataset, "device", torch.device("cpu"))
        self.store: FeatureStore | None = None
        self._random, self._seeded = _random_parts(dataset.transform)
        self._state = np.random.RandomState()

    def turn(self, index: int, time: int) -> int:
        """The view in which an item is shown that was shown `time` times before: below K the teacher saw it."""
        taught, new = divmod(time, 2) if self.new else (time, 0)
        if new:
            return self.views + taught
        return (taught + int(self.keys[index][:8], 16)) % self.views

    def view(self, index: int, number: int) -> dict[str, Any]:
        """The item `index` in view `number`."""
        named = f"{self.seed} {number} {self.keys[index]}"
        self._state.seed(int.from_bytes(hashlib.sha256(named.encode()).digest()[:4], "big"))
        # All draw from one state in the order in which they run: making a state for each costs more than they do.
        for one in self._random:
            one.R = self._state  # anew each time: MONAI's loaders and whoever seeds the data set put others there
        for one in self._seeded:
            one.set_random_state(seed=int(self._state.randint(2**32, dtype=np.uint32)))
        item = self.dataset[index]
        assert isinstance(item, Mapping)
        return dict(item)

    def __getitem__(self, index: int | ItemView) -> Any:
        """An item in the view whose turn it is; one asked for by its place alone, as it is shown first."""
        place, time = index if isinstance(index, ItemView) else (index, 0)
        number = self.turn(place, time)
        item = self.view(place, number)
        if self.store is None:
            return item
        item.pop(TEACHER_IMAGE, None)
        if number >= self.views:
            return {**item, TEACHER_FEATURES: UNSEEN}
        features = self.store.read(self.keys[place], number)
        refuse_another_view(item["image"], features.pop(PROBE), self.keys[place])
        return {**item, TEACHER_FEATURES: features}


def _random_parts(transform: Any) -> tuple[list[Randomizable], list[Randomizable]]:
    """What draws random numbers in a chain: by its `R`, as MONAI's transforms do, or seeded in a way of its own."""
    plain: list[Randomizable] = []
    own: list[Randomizable] = []
    seen: set[int] = set()
    waiting = [transform]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (list, tuple)):
            waiting += one
        elif isinstance(one, Mapping):
            waiting += one.values()
        elif hasattr(one, "__dict__") and not isinstance(one, (type, ModuleType, FunctionType)):
            if isinstance(one, Randomizable):
                of_monai = type(one).set_random_state.__module__.startswith("monai.")
                (plain if of_monai else own).append(one)
            waiting += vars(one).values()
    return plain, own


def probe(image: Tensor) -> Tensor:
    """Values spread over a view, in half precision and on the CPU, to know it by `[256]`."""
    flat = image.as_subclass(Tensor).reshape(-1)
    return flat[_probe_places(len(flat))].half().cpu()


@cache
def _probe_places(values: int) -> Tensor:
    return torch.linspace(0, values - 1, _PROBES).long()


def refuse_another_view(image: Tensor, known: Tensor, key: str) -> None:
    """Check that a view is the one that the teacher saw.

    Raises:
        ValueError: it is not.
    """
    difference = float((probe(image).float() - known.float()).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(known.float().abs().max())):
        raise ValueError(
            f"the view of image sha256 {key[:12]} is not the one that the teacher saw (they differ by "
            f"{difference:.3g}): its file changed during the training, or a transform draws random numbers that "
            "MONAI's set_random_state does not reach. Mend it, or train with --feature_views 0"
        )
