"""Lightweight students by name: image or volume in [0, 1] to logits, with `features` and the shared `classifier`."""

# No "from __future__ import annotations": TorchScript reads the class's annotations and knows no strings.
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monai_rd.finite import refuse_not_finite
from monai_rd.networks.bag import fold, unfold
from monai_rd.networks.levels import Level, Levels, find_levels, last_map
from monai_rd.networks.student.backbones import STUDENTS, build_backbone, student_dims

__all__ = ["STUDENTS", "DeployedStudent", "Student", "channels_last", "student_dims"]


def _forget_cached_biases(student: nn.Module, _: Any) -> None:
    """Drop what LeViT, TinyViT and others computed of their old weights in eval mode and keep."""
    for module in student.modules():
        cache = getattr(module, "attention_bias_cache", None)
        if isinstance(cache, dict):
            cache.clear()


def _refuse_not_finite(student: "Student", _: Any) -> None:
    """Whatever fills a student: a file, a checkpoint, a server of a federation."""
    remedy = "the training that made them has diverged; train again, with a smaller --learning_rate"
    refuse_not_finite(student.state_dict(), f"the weights of the student '{student.name}'", remedy)


class Student(nn.Module):
    """A lightweight network with the classifier g that RD shares between both paths (arXiv 2407.06504, Fig. 2).

    It is what `models/model.pt` holds and what is deployed. It normalises its input itself, so that every consumer
    feeds the project's one intensity definition. A 2D student takes a study as a bag of slices: slices are folded into
    the batch and their features averaged, so a single image is a bag of one. A 3D student takes it as a volume.

    Args:
        name: one of `STUDENTS`, the paper's three by torchvision and four for volumes by MONAI; or "timm:NAME", any
            timm classifier. A dropout before the head is left out, because g is a single linear layer that also reads
            the reprogrammed teacher's features.
        num_classes: number of classes, at least 2.
        weights: of the backbone. None: random, as in the paper's preset. "imagenet": those torchvision or timm publish.
            Or a local file with them. They change nothing of how the input is normalised, which `name` decides alone,
            so that a trained student is rebuilt without them.

    Attributes:
        backbone: the normalised input to features `[B, D]`.
        classifier: g, `nn.Linear(D, num_classes)`.
        feature_dim: D, the width of the pooled features (512, 1280, 1024 for the paper's three).
        spatial_dims: 2 or 3.
        fixed_size: rows and columns if no other image size works, else empty.
        patch: what rows and columns must be multiples of.
        stages: paths in `backbone` of the modules whose outputs are its feature maps; see `levels`.
        prefix: tokens before those of the grid, of a ViT.
        temperature: what the logits are divided by, so that their softmax can be taken for probabilities (Guo et al.
            2017, arXiv 1706.04599); 1 while the student is trained, fitted on the validation set at the end. It is in
            the state dict, and so in everything that is exported.

    Raises:
        ValueError: an unknown name, fewer than 2 classes, or weights that are damaged, unsafe or do not fit.
        OSError: weights that are not there or could not be downloaded.
    """

    # TorchScript neither compiles these nor asks for their values, each of which is a run of the backbone.
    __jit_unused_properties__: ClassVar[list[str]] = ["levels", "last_map"]
    __jit_ignored_attributes__: ClassVar[list[str]] = __jit_unused_properties__

    mean: Tensor
    std: Tensor
    temperature: Tensor
    fixed_size: list[int]
    stages: list[str]

    def __init__(self, name: str = "resnet18", num_classes: int = 2, weights: str | Path | None = None) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        built = build_backbone(name, weights)
        self.name = name
        self.backbone, self.feature_dim = built.network, built.width
        self.spatial_dims, self.fixed_size, self.patch = built.dims, list(built.fixed_size), built.patch
        self.stages, self.prefix = list(built.stages), built.prefix
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        # Constants of the code, not of the training: not in the state dict.
        shape = (1, -1) + (1,) * built.dims
        self.register_buffer("mean", torch.tensor(built.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(built.std).view(shape), persistent=False)
        self.register_buffer("temperature", torch.ones(()))
        self.register_load_state_dict_post_hook(_forget_cached_biases)
        self.register_load_state_dict_post_hook(_refuse_not_finite)

    def features(self, image: Tensor) -> Tensor:
        """Features `[B, D]` of what `slice_features` takes: the mean of the slices' features."""
        return self.slice_features(image).mean(dim=1)

    def slice_features(self, image: Tensor) -> Tensor:
        """Features of every slice `[B, S, D]`; an image and a volume are one.

        Args:
            image: values in [0, 1]. 2D: images `[B, 3, H, W]` or bags of S slices `[B, S, 3, H, W]`. 3D: volumes
                `[B, 1, D, H, W]`, each side at least 32.

        Raises:
            ValueError: another shape, or an image size that the network cannot take.
        """
        if self.spatial_dims == 3:
            if image.dim() != 5 or image.shape[1] != 1 or min(image.shape[2:]) < 32:  # halved five times
                raise ValueError(
                    f"'{self.name}' takes volumes [B, 1, D, H, W] of at least 32 x 32 x 32, got {list(image.shape)}"
                )
            images, slices = image, 1
        else:
            images, slices = fold(image)
            if images.shape[1] != 3:
                raise ValueError(f"images have 3 channels, got {list(image.shape)}")
            if len(self.fixed_size) > 0 and list(images.shape[2:]) != self.fixed_size:
                raise ValueError(
                    f"'{self.name}' takes images of {self.fixed_size} pixels only, got {list(images.shape[2:])}: "
                    f"set image_size to {self.fixed_size[0]}, or take another student"
                )
            if images.shape[2] % self.patch != 0 or images.shape[3] % self.patch != 0:
                raise ValueError(
                    f"'{self.name}' cuts images into patches of {self.patch} x {self.patch}, got "
                    f"{list(images.shape[2:])} pixels: set image_size to a multiple of {self.patch}"
                )
        return unfold(self.backbone((images - self.mean) / self.std), slices)

    def logits(self, features: Tensor) -> Tensor:
        """Logits `[..., num_classes]` of features `[..., D]`, calibrated where the student is."""
        return self.classifier(features) / self.temperature

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of what `features` takes, calibrated where the student is."""
        return self.logits(self.features(image))

    @property
    def levels(self) -> Levels:
        """The maps inside the backbone at the end of each of its stages; empty where none are known.

        They are found at every question, by one run on noise: a method may have changed the backbone.
        """
        found = find_levels(self.backbone, self.stages, self._noise(), self.prefix) if self.stages else ()
        return Levels.of(f"student '{self.name}'", found)

    @property
    def last_map(self) -> Level | None:
        """The map whose mean over positions is f_s; None of a student that pools in another way."""
        return last_map(self.backbone, self._noise())

    def _noise(self) -> Tensor:
        """An image or volume for the backbone; the global random state is left alone."""
        side = 224 // self.patch * self.patch
        shape = (1, 1, 64, 64, 64) if self.spatial_dims == 3 else (1, 3, *(self.fixed_size or (side, side)))
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.mean.device)

    def deployed(self) -> "Student":
        """Return a copy for inference: in eval mode, the training form's branches fused (FastViT, RepViT, ...).

        It computes the same up to rounding. Its state dict may have other keys: `model.pt` keeps the training form.
        """
        from timm.utils import reparameterize_model

        copied = deepcopy(self).eval()
        reparameterize_model(copied.backbone, inplace=True)
        return copied


def channels_last(network: Student) -> Student:
    """Lay the weights of convolutions out with the channels last, in place: their results are the same, and sooner."""
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    return network.to(memory_format=formats[network.spatial_dims])


class DeployedStudent(Student):
    """A student for inference and export: in the form of `Student.deployed`, filled from a training's `model.pt`.

    Args:
        name: see `Student`.
        num_classes: see `Student`.

    Raises:
        ValueError: see `Student`.
    """

    levels, last_map = Student.levels, Student.last_map  # TorchScript ignores a class's own properties alone

    def __init__(self, name: str = "resnet18", num_classes: int = 2) -> None:
        from timm.utils import reparameterize_model

        super().__init__(name, num_classes)
        reparameterize_model(self.backbone, inplace=True)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a student's state dict, in the form it was trained in or in this one.

        Raises:
            RuntimeError: it is another network's; see `torch.nn.Module.load_state_dict`.
        """
        if state_dict.keys() != self.state_dict().keys():
            trained = Student(self.name, self.classifier.out_features)
            trained.load_state_dict(state_dict)
            state_dict = trained.deployed().state_dict()
        return super().load_state_dict(state_dict, strict, assign)
