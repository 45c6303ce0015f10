"""Shared parts of the export formats: the student with its last step, as a module and as a torch.export graph."""

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
    """A student with its last step (softmax or sigmoid): from image to calibrated probabilities `[B, classes]`.

    Args:
        student: the student, which returns calibrated logits.
        multi_label: use sigmoid instead of softmax.
    """

    def __init__(self, student: nn.Module, multi_label: bool = False) -> None:
        super().__init__()
        self.student, self.multi_label = student, multi_label

    def forward(self, image: Tensor) -> Tensor:
        """Return the probabilities of `image`, which is as for `Student.features`."""
        return class_probabilities(self.student(image), self.multi_label)


def predicted_labels(probabilities: Tensor, multi_label: bool) -> Tensor:
    """Return the most probable class `[B]`; multi-label: whether each class has at least 0.5, bool `[B, classes]`."""
    return probabilities >= 0.5 if multi_label else probabilities.argmax(dim=1)


def example(trained: TrainedBundle) -> Tensor:
    """Return an example input of two studies with three slices, or with volumes in three windows.

    No dynamic size is 1, as torch.export would treat it as fixed. The values are 0 because torch.export stores the
    example in the file, which should depend on the model only.
    """
    shape = trained.image_shape
    return torch.zeros(2, 3, *shape[1:])


def exported_program(trained: TrainedBundle, device: str = "cpu") -> torch.export.ExportedProgram:
    """Return the student with its last step as a torch.export graph, with dynamic numbers of studies and slices.

    Args:
        trained: the bundle.
        device: device of the graph; the bundle's own network is not moved.
    """
    free = torch.export.Dim.DYNAMIC
    shapes = {"image": {0: free, 1: free}}
    network = copy.deepcopy(Probabilities(trained.network, trained.multi_label)).eval().to(device)
    with torch.no_grad():
        return torch.export.export(network, (example(trained).to(device),), dynamic_shapes=shapes)


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Suppress the exporters' deprecation warnings and long log output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
