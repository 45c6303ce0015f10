"""Lightweight students by name: image in [0, 1] to logits, with `features` and the shared `classifier` named."""

# No "from __future__ import annotations": TorchScript reads the class's annotations and knows no strings.
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from monai_rd.networks.bag import fold, unfold

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STUDENTS", "Student"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# torchvision's name -> where that network keeps its last linear layer. These are the paper's three students: its
# Table 6 gives exactly their parameter counts.
STUDENTS = {"resnet18": "fc", "mobilenet_v2": "classifier", "shufflenet_v2_x1_0": "fc"}


def _headless(name: str) -> tuple[nn.Module, int]:
    """Build torchvision's network, random and without its head: image to pooled features, and their width."""
    from torchvision import models

    builder: Callable[..., nn.Module] = getattr(models, name)
    backbone = builder(weights=None)
    head = getattr(backbone, STUDENTS[name])
    last = head[-1] if isinstance(head, nn.Sequential) else head
    setattr(backbone, STUDENTS[name], nn.Identity())
    if not isinstance(last, nn.Linear):
        raise TypeError(f"torchvision's {name} has no linear head at '{STUDENTS[name]}'")
    return backbone, last.in_features


class Student(nn.Module):
    """A lightweight network with the classifier g that RD shares between both paths (arXiv 2407.06504, Fig. 2).

    It is what `models/model.pt` holds and what is deployed. It normalises its input itself, so that every consumer
    feeds the project's one intensity definition. A study is a bag of slices: slices are folded into the batch and their
    features averaged, so a single image is a bag of one.

    Args:
        name: one of `STUDENTS`; torchvision's network with random weights. MobileNetV2's dropout before its head is
            left out, because g is a single linear layer that also reads the reprogrammed teacher's features.
        num_classes: number of classes, at least 2.

    Attributes:
        feature_dim: D, the width of the pooled features (512, 1280, 1024 for the three).

    Raises:
        ValueError: an unknown name, or fewer than 2 classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str = "resnet18", num_classes: int = 2) -> None:
        super().__init__()
        if name not in STUDENTS:
            raise ValueError(f"unknown student '{name}'; known: {', '.join(STUDENTS)}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.backbone, self.feature_dim = _headless(name)
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        # Constants of the code, not of the training: not in the state dict.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def features(self, image: Tensor) -> Tensor:
        """Features `[B, D]` of images `[B, 3, H, W]` or bags `[B, S, 3, H, W]`, values in [0, 1]."""
        images, slices = fold(image)
        return unfold(self.backbone((images - self.mean) / self.std), slices).mean(dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of images `[B, 3, H, W]` or bags `[B, S, 3, H, W]`, values in [0, 1]."""
        return self.classifier(self.features(image))
