"""Random views of training items that can be repeated, so that teacher and student see the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
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

PROBE = "probe"  # name of the stored values by which a view is recognised

_PROBES = 256  # number of these values per view
_TOLERANCE = 2e-3  # for values in [0, 1]: rounding of half precision and of other machines


class ReplayedViews(Dataset):
    """A MONAI data set that shows each item in a fixed number of random views, which can be repeated exactly.

    For view k of an item, the random transforms are seeded by the seed, k and the content of the item's files. So it
    is the same in every run and process, and at any position in the list. Each time an item is shown, its next view is
    used; items start at different views. Once `store` is set, items have the teacher's features of the view as
    `teacher_features`, and every view is compared with the one that the teacher saw, at 256 of its values.

    A student can overfit to few views of few images. So with `new`, every second time an item is shown in a new view,
    for which there are no teacher features: its `teacher_features` are `UNSEEN`. All labelled items of a batch have
    been shown equally often, see `TrainingBatches`, so all or none of them have features.

    Args:
        dataset: items with `image` (one path or several), and a transform whose random parts are `Randomizable`.
        views: K, the number of views per item.
        seed: of the views.
        new: whether every second time a new view is shown.
        finish: from the stored features of a view and its item to the features that are shown; None shows them as they
            are.

    Attributes:
        keys: hash of the content of each item, see `item_key`.
        store: the teacher features of all views; None until they are computed.

    Raises:
        ValueError: K is below 1.
        UnreadableFileError: an item's files cannot be read.

    Example:
        >>> from monai.data import Dataset
        >>> from monai.transforms import Compose, RandGaussianNoised
        >>> from PIL import Image
        >>> from monai_rd.cache import ReplayedViews
        >>> from monai_rd.transforms import LoadImageOrSeriesd
        >>> Image.new("L", (32, 32)).save("a.png")
        >>> noise = Compose([LoadImageOrSeriesd("image"), RandGaussianNoised("image", prob=1)])
        >>> views = ReplayedViews(Dataset([{"image": "a.png"}], noise), views=2, seed=0)
        >>> first, second, again = (views.view(0, number)["image"] for number in (0, 1, 0))
        >>> bool((first == second).all()), bool((first == again).all())
        (False, True)
    """

    def __init__(
        self,
        dataset: Dataset,
        views: int,
        seed: int,
        new: bool = True,
        finish: Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Tensor]] | None = None,
    ) -> None:
        if views < 1:
            raise ValueError(f"there must be at least 1 view, got {views}")
        super().__init__(dataset.data, dataset.transform)
        self.dataset, self.views, self.seed, self.new, self.finish = dataset, views, seed, new, finish
        known: list[str] | None = getattr(dataset, "item_keys", None)
        self.keys = item_keys([item["image"] for item in dataset.data]) if known is None else known
        if "" in self.keys:
            raise UnreadableFileError(f"{self.keys.count('')} of the items have files that cannot be read any more.")
        self.device: torch.device = getattr(dataset, "device", torch.device("cpu"))
        self.store: FeatureStore | None = None
        self._random, self._seeded = _random_parts(dataset.transform)
        self._state = np.random.RandomState()

    def turn(self, index: int, time: int) -> int:
        """Return the number of the view for an item that was shown `time` times before; below K the teacher saw it."""
        taught, new = divmod(time, 2) if self.new else (time, 0)
        if new:
            return self.views + taught
        return (taught + int(self.keys[index][:8], 16)) % self.views

    def view(self, index: int, number: int) -> dict[str, Any]:
        """Return the item `index` in view `number`."""
        named = f"{self.seed} {number} {self.keys[index]}"
        self._state.seed(int.from_bytes(hashlib.sha256(named.encode()).digest()[:4], "big"))
        # All transforms draw from one state in the order in which they run; a state for each would be slow to make.
        for one in self._random:
            one.R = self._state  # set each time, because MONAI's loaders and other callers replace it
        for one in self._seeded:
            one.set_random_state(seed=int(self._state.randint(2**32, dtype=np.uint32)))
        item = self.dataset[index]
        assert isinstance(item, Mapping)
        return dict(item)

    def __getitem__(self, index: int | ItemView) -> Any:
        """Return an item in its next view; for a plain index, in the view that is shown first."""
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
        return {**item, TEACHER_FEATURES: features if self.finish is None else self.finish(features, item)}


def _random_parts(transform: Any) -> tuple[list[Randomizable], list[Randomizable]]:
    """Find the random transforms in a chain: those that use MONAI's state `R`, and those with their own seeding."""
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
    """Return 256 values spread evenly over a view, `[256]` in half precision on the CPU, by which it is recognised."""
    flat = image.as_subclass(Tensor).reshape(-1)
    return flat[_probe_places(len(flat))].half().cpu()


@cache
def _probe_places(values: int) -> Tensor:
    return torch.linspace(0, values - 1, _PROBES).long()


def refuse_another_view(image: Tensor, known: Tensor, key: str) -> None:
    """Raise if a view is not the one that the teacher saw.

    Args:
        image: the view.
        known: `probe` of the view that the teacher saw `[256]`.
        key: hash of the item's content, for the error message.

    Raises:
        ValueError: the views differ.
    """
    difference = float((probe(image).float() - known.float()).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(known.float().abs().max())):
        raise ValueError(
            f"the view of image sha256 {key[:12]} is not the one that the teacher saw (they differ by "
            f"{difference:.3g}): its file changed during the training, or a transform draws random numbers that "
            "MONAI's set_random_state does not reach. Mend it, or train with --feature_views 0"
        )
