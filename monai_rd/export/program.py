"""What all export formats share: the student with its last step, as a module and as PyTorch's own graph."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from monai_rd.losses import class_probabilities

if TYPE_CHECKING:
    from monai_rd.inference import TrainedBundle

__all__ = ["Classify", "Probabilities", "example", "exported_program", "predicted_labels", "quiet_exporters"]

Classify = Callable[[Tensor], Tensor]  # an image to probabilities


class Probabilities(nn.Module):
    """A student with its last step: image to calibrated probabilities `[B, classes]`.

    Args:
        student: gives logits, calibrated.
        multi_label: sigmoid and not softmax.
    """

    def __init__(self, student: nn.Module, multi_label: bool = False) -> None:
        super().__init__()
        self.student, self.multi_label = student, multi_label

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities of `image`, see `Student.features`."""
        return class_probabilities(self.student(image), self.multi_label)


def predicted_labels(probabilities: Tensor, multi_label: bool) -> Tensor:
    """Labels: the most probable class `[B]`; of multi-label students each class from 0.5 on `[B, classes]`."""
    return probabilities >= 0.5 if multi_label else probabilities.argmax(dim=1)


def example(trained: TrainedBundle) -> Tensor:
    """An input of two studies of three slices, or of two volumes: sizes of 1 would be taken for fixed.

    Zeros, as torch.export keeps it in the file: one model makes one file.
    """
    shape = trained.image_shape
    return torch.zeros(2, 3, *shape[1:]) if trained.network.spatial_dims == 2 else torch.zeros(2, *shape)


def exported_program(trained: TrainedBundle, device: str = "cpu") -> torch.export.ExportedProgram:
    """The student with its last step as PyTorch's own graph, with free numbers of studies and slices.

    Args:
        trained: the bundle.
        device: where it computes; the bundle's own network stays where it is.
    """
    free = torch.export.Dim.DYNAMIC
    shapes = {"image": {0: free, 1: free} if trained.network.spatial_dims == 2 else {0: free}}
    network = copy.deepcopy(Probabilities(trained.network, trained.multi_label)).eval().to(device)
    with torch.no_grad():
        return torch.export.export(network, (example(trained).to(device),), dynamic_shapes=shapes)


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Exporters warn of their own future, and tell what they do, at length."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
