"""What a teacher that is being fitted is shown: images, or their pooled features where these stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from monai.data import DataLoader, Dataset, list_data_collate
from torch import Tensor

from monai_rd.adapters.base import AdaptedTeacher
from monai_rd.adapters.cross_fit import loader_of
from monai_rd.networks.features import Reads
from monai_rd.teacher_features import TEACHER_FEATURES, stored_features
from monai_rd.teacher_image import teacher_image

if TYPE_CHECKING:
    from monai_rd.cache import ReplayedViews
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["its_own", "training_of", "validation_of"]


def its_own(
    batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **_: Any
) -> tuple[Tensor, Tensor]:
    """Return images for the teacher, or its features, and their labels on the device (MONAI's `prepare_batch`)."""
    features, label = stored_features(batch), torch.as_tensor(batch["label"]).as_subclass(Tensor)
    shown = teacher_image(batch) if features is None else features["pooled"]
    return shown.to(device, non_blocking=non_blocking), label.to(device, non_blocking=non_blocking)


class _StoredViews(Dataset):
    """The pooled features of training items in place of their images, in one of their stored views, drawn each time.

    Args:
        views: the items, with a store of pooled features.
    """

    def __init__(self, views: ReplayedViews) -> None:
        assert views.store is not None
        super().__init__(views.data)
        self._keys, self._count, self._store = views.keys, views.views, views.store
        self.transform_fingerprint = self._store.folder.name  # which all that decides on the features decides

    def __getitem__(self, index: int) -> Any:
        """Return `label` and `teacher_features` of an item."""
        number = int(torch.randint(self._count, ()))
        pooled = self._store.read(self._keys[index], number)["pooled"]
        return {"label": torch.as_tensor(self.data[index]["label"]), TEACHER_FEATURES: {"pooled": pooled}}


def training_of(
    teacher: FrozenFoundationModel, loader: DataLoader, store: Callable[[Dataset, Any, Reads], Dataset] | None
) -> DataLoader:
    """Return the batches that the head of a teacher is fitted to.

    Args:
        teacher: the frozen teacher.
        loader: training batches with `image` and `label`, from a MONAI data set.
        store: from data set, teacher and the features to read to the data set with stored features, which are computed
            where they are missing, see `cache.feature_dataset`.

    Returns:
        Batches of stored features; `loader` itself if there is no store.
    """
    found: Any = loader.dataset if store is None else store(loader.dataset, teacher, Reads(pooled=True))
    if found is loader.dataset:
        return loader
    return loader_of(_StoredViews(found), loader, collate_fn=list_data_collate, num_workers=0)


def validation_of(
    network: AdaptedTeacher, loader: DataLoader, device: torch.device, precision: Mapping[str, Any]
) -> Any:
    """Return the batches that a teacher is validated on.

    A backbone that is not trained runs in the first validation only. Its pooled features, C numbers an image, are kept
    on the device for the next ones.

    Args:
        network: the teacher that is being fitted.
        loader: validation batches with `image` and `label`.
        device: of the network.
        precision: the evaluator's `amp` and `amp_kwargs`.
    """
    return _Features(network, loader, device, precision) if network.trains_head_alone else loader


class _Features:
    """The validation batches with pooled features in place of images, on the device."""

    def __init__(
        self, network: AdaptedTeacher, loader: DataLoader, device: torch.device, precision: Mapping[str, Any]
    ) -> None:
        self._network, self._loader, self._device, self._precision = network, loader, device, precision
        self._kept: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self._kept:
            amp, options = self._precision["amp"], self._precision["amp_kwargs"]
            with torch.no_grad(), torch.autocast(self._device.type, enabled=amp, **options):
                batches = (its_own(batch, self._device) for batch in self._loader)
                self._kept = [
                    {TEACHER_FEATURES: {"pooled": self._network.features(image)}, "label": label}
                    for image, label in batches
                ]
        return iter(self._kept)
