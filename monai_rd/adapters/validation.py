"""What a teacher that is being fitted is validated on: images, or their features if these do not change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from monai.data import DataLoader
from torch import Tensor, nn

from monai_rd.adapters.base import AdaptedTeacher
from monai_rd.teacher_image import teacher_image

__all__ = ["its_own", "validation_of"]


def validation_of(
    network: AdaptedTeacher, module: nn.Module, loader: DataLoader, device: torch.device, precision: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what MONAI's `SupervisedEvaluator` needs to know of loader and network.

    A backbone that is not trained runs in the first validation only. Its pooled features, C numbers an image, are kept
    on the device for the next ones.

    Args:
        network: the teacher that is being fitted.
        module: the same in its DistributedDataParallel wrapper, if it has one.
        loader: validation batches with `image` and `label`.
        device: of the network.
        precision: the evaluator's `amp` and `amp_kwargs`.
    """
    if network.trains_head_alone:
        features = _Features(network, loader, device, precision)
        return {"val_data_loader": features, "network": _Head(network), "prepare_batch": _as_it_is}
    return {"val_data_loader": loader, "network": module, "prepare_batch": its_own}


def its_own(
    batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **_: Any
) -> tuple[Tensor, Tensor]:
    """Return the images for the teacher and their labels on the device (MONAI's `prepare_batch`)."""
    label = torch.as_tensor(batch["label"]).as_subclass(Tensor)
    return teacher_image(batch).to(device, non_blocking=non_blocking), label.to(device, non_blocking=non_blocking)


def _as_it_is(batch: tuple[Tensor, Tensor], *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return batch


class _Features:
    """The validation batches as pooled features and labels on the device."""

    def __init__(
        self, network: AdaptedTeacher, loader: DataLoader, device: torch.device, precision: Mapping[str, Any]
    ) -> None:
        self._network, self._loader, self._device, self._precision = network, loader, device, precision
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self._kept:
            amp, options = self._precision["amp"], self._precision["amp_kwargs"]
            with torch.no_grad(), torch.autocast(self._device.type, enabled=amp, **options):
                batches = (its_own(batch, self._device) for batch in self._loader)
                self._kept = [(self._network.features(image), label) for image, label in batches]
        return iter(self._kept)


class _Head(nn.Module):
    """What follows the features of a teacher that is being fitted."""

    def __init__(self, network: AdaptedTeacher) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        return self.network.logits(features)
