"""What the variants of a training step share: student, method, batches, precision, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from torch import Tensor

from monai_rd.bundle import default_workers
from monai_rd.methods import build_method
from monai_rd.methods.rd import ReprogrammingDistillation
from monai_rd.networks import FrozenFoundationModel, Student, for_training
from monai_rd.transforms import bag_collate

__all__ = ["Turn", "Work", "optimizer"]

# Constant weights, so that every step is the first epoch's.
RD = {"alpha": (1.0, 1.0), "beta": (1.0, 1.0)}

Turn = Callable[[], object]


@dataclass
class Work:
    """What all variants share."""

    student: str
    teacher: FrozenFoundationModel | None
    device: torch.device
    amp: bool
    batch: int
    step_only: bool
    grid: int

    def network(self) -> Student:
        """The student, with the same random weights for everybody."""
        torch.manual_seed(0)
        return for_training(Student(self.student)).to(self.device)

    def method(self, network: Student) -> ReprogrammingDistillation:
        """RD with phi, with the same random weights for everybody."""
        torch.manual_seed(0)
        method = build_method("rd", network, self.teacher, [0, 1], {**RD, "grid": self.grid})
        assert isinstance(method, ReprogrammingDistillation)
        return method.to(self.device)

    def loader(self, dataset: Dataset) -> Iterable[dict[str, Any]]:
        """The batches of an epoch, as the bundles load them, or ready on the device."""
        cuda = self.device.type == "cuda"
        loader = DataLoader(
            dataset,
            batch_size=self.batch,
            shuffle=True,
            drop_last=True,
            num_workers=0 if self.step_only else default_workers(self.device),
            pin_memory=cuda and not self.step_only,
            collate_fn=bag_collate,
        )
        return [_moved(batch, self.device) for batch in loader] if self.step_only else loader

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of those that do not go through MONAI's trainer."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def optimizer(groups: Any) -> torch.optim.Optimizer:
    """The bundles' optimizer."""
    return torch.optim.AdamW(groups, lr=1e-3, fused=True)
