"""Students: lightweight classifiers of images, bags of slices or volumes in [0, 1]."""

# No "from __future__ import annotations": TorchScript reads the class's annotations and does not accept strings.
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monai_rd.finite import refuse_not_finite
from monai_rd.networks.bag import fold, unfold
from monai_rd.networks.levels import Level, Levels, find_levels, last_map
from monai_rd.networks.small_maps import leave_small_maps_to_torch, multiply_small_maps
from monai_rd.networks.student.backbones import STUDENTS, build_backbone, student_dims

__all__ = ["STUDENTS", "DeployedStudent", "Student", "for_training", "student_dims"]


def _forget_cached_biases(student: nn.Module, _: Any) -> None:
    """Clear the attention biases that LeViT, TinyViT and others cache in eval mode; new weights make them outdated."""
    for module in student.modules():
        cache = getattr(module, "attention_bias_cache", None)
        if isinstance(cache, dict):
            cache.clear()


def _refuse_not_finite(student: "Student", _: Any) -> None:
    """Refuse weights that are not finite, whether from a file, a checkpoint or a federated learning server."""
    remedy = "the training that made them has diverged; train again, with a smaller --learning_rate"
    refuse_not_finite(student.state_dict(), f"the weights of the student '{student.name}'", remedy)


class Student(nn.Module):
    """A lightweight network: a backbone and a linear classifier.

    The classifier is g of arXiv 2407.06504, Fig. 2, which RD also applies to the reprogrammed teacher features. The
    student is what `models/model.pt` holds and what is deployed. It normalises its input itself. A 2D student
    takes a study as a bag of slices and averages the slices' features; a single image is a bag of one slice. A 3D
    student takes a study as a volume, in one window or several, and averages the windows' features.

    Args:
        name: one of `STUDENTS` (three 2D networks of torchvision, as in the paper, and four 3D networks of MONAI), or
            "timm:NAME" for any timm classifier. A dropout layer before the head is left out: g is one linear layer.
        num_classes: number of classes, at least 2.
        weights: initial weights of the backbone. None: random, as in the paper. "imagenet": those that torchvision or
            timm publish. Or a local file. The normalisation of the input depends on `name` alone, not on the weights,
            so a trained student is rebuilt without them.

    Attributes:
        backbone: maps the normalised input to features `[B, D]`.
        classifier: g, `nn.Linear(D, num_classes)`.
        feature_dim: D, the width of the pooled features (512, 1280, 1024 for the paper's three).
        spatial_dims: 2 or 3.
        fixed_size: rows and columns in pixels if the network takes only this size, else empty.
        patch: rows and columns must be multiples of this number of pixels.
        stages: paths in `backbone` of the modules whose outputs are its feature maps; see `levels`.
        prefix: number of tokens before the grid's in a ViT (class and register tokens).
        temperature: divides the logits, for calibrated probabilities (Guo et al. 2017, arXiv 1706.04599). It is 1 in
            training and fitted on the validation set at the end. It is part of the state dict and of every export.

    Raises:
        ValueError: an unknown name, fewer than 2 classes, or weights that are damaged, unsafe or do not fit.
        OSError: the weights do not exist or could not be downloaded.

    Example:
        Two studies, each a bag of four slices.

        >>> import torch
        >>> from monai_rd.networks import Student
        >>> student = Student("shufflenet_v2_x1_0", num_classes=3).eval()
        >>> studies = torch.rand(2, 4, 3, 64, 64)
        >>> student.features(studies).shape, student(studies).shape
        (torch.Size([2, 1024]), torch.Size([2, 3]))
    """

    # TorchScript must neither compile these properties nor evaluate them: each evaluation runs the backbone.
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
        # Constants, not results of the training: not in the state dict.
        shape = (1, -1) + (1,) * built.dims
        self.register_buffer("mean", torch.tensor(built.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(built.std).view(shape), persistent=False)
        self.register_buffer("temperature", torch.ones(()))
        self.register_load_state_dict_post_hook(_forget_cached_biases)
        self.register_load_state_dict_post_hook(_refuse_not_finite)

    def features(self, image: Tensor) -> Tensor:
        """Return features `[B, D]`: the mean of the slices' features; input as for `slice_features`."""
        return self.slice_features(image).mean(dim=1)

    def slice_features(self, image: Tensor) -> Tensor:
        """Return the features of every slice or window, `[B, S, D]`; S is 1 for single images.

        Args:
            image: values in [0, 1]. 2D: images `[B, 3, H, W]` or bags of S slices `[B, S, 3, H, W]`. 3D: volumes in S
                windows `[B, S, D, H, W]` (usually one), each side at least 32 voxels.

        Raises:
            ValueError: a wrong shape, or an image size that the network cannot take.
        """
        if self.spatial_dims == 3:
            if image.dim() != 5 or min(image.shape[2:]) < 32:  # halved five times
                raise ValueError(
                    f"'{self.name}' takes volumes [B, W, D, H, W'] of at least 32 x 32 x 32, got {list(image.shape)}"
                )
            images, slices = fold(image, 3)
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
        """Return logits `[..., num_classes]` of features `[..., D]`, divided by the temperature."""
        return self.classifier(features) / self.temperature

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[B, num_classes]`, divided by the temperature; input as for `slice_features`."""
        return self.logits(self.features(image))

    @property
    def levels(self) -> Levels:
        """The feature maps at the end of the backbone's stages; empty if none are known.

        Each access runs the backbone once on noise, because a method may have changed it.
        """
        found = find_levels(self.backbone, self.stages, self._noise(), self.prefix) if self.stages else ()
        return Levels.of(f"student '{self.name}'", found)

    @property
    def last_map(self) -> Level | None:
        """The feature map whose mean over positions is f_s; None if the student pools in another way."""
        return last_map(self.backbone, self._noise())

    def _noise(self) -> Tensor:
        """Return a random image or volume for the backbone, without changing the global random state."""
        side = 224 // self.patch * self.patch
        shape = (1, 1, 64, 64, 64) if self.spatial_dims == 3 else (1, 3, *(self.fixed_size or (side, side)))
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.mean.device)

    def deployed(self) -> "Student":
        """Return a copy for inference: in eval mode, with the training branches fused (FastViT, RepViT, ...).

        Its outputs are the same up to rounding. Its state dict may have other keys; `model.pt` has those of training.
        """
        from timm.utils import reparameterize_model

        copied = deepcopy(self).eval()
        leave_small_maps_to_torch(copied)
        reparameterize_model(copied.backbone, inplace=True)
        return copied


def for_training(network: Student) -> Student:
    """Set a student up for a fast training, in place: the same results up to rounding.

    It gets the channels-last memory format, unless it has depthwise convolutions of volumes, which are slower in it on
    a CPU (EfficientNet-B0: 2.4 times, bfloat16 2.1), and computes small maps as `multiply_small_maps` says.
    """
    if any(isinstance(one, nn.Conv3d) and one.groups > 1 for one in network.modules()):
        return network
    multiply_small_maps(network)
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    return network.to(memory_format=formats[network.spatial_dims])


class DeployedStudent(Student):
    """A student for inference and export, with the training branches fused as by `Student.deployed`.

    Args:
        name: see `Student`.
        num_classes: see `Student`.

    Raises:
        ValueError: see `Student`.

    Example:
        It loads the weights of a trained student.

        >>> import torch
        >>> from monai_rd.networks import DeployedStudent, Student
        >>> trained, deployed = Student("resnet18").eval(), DeployedStudent("resnet18").eval()
        >>> deployed.load_state_dict(trained.state_dict())
        <All keys matched successfully>
        >>> image = torch.rand(1, 3, 64, 64)
        >>> torch.allclose(trained(image), deployed(image), atol=1e-4)
        True
    """

    levels, last_map = Student.levels, Student.last_map  # TorchScript ignores only a class's own properties

    def __init__(self, name: str = "resnet18", num_classes: int = 2) -> None:
        from timm.utils import reparameterize_model

        super().__init__(name, num_classes)
        reparameterize_model(self.backbone, inplace=True)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a student's state dict: of a trained `Student`, or of a deployed one.

        Raises:
            RuntimeError: the state dict is of another network; see `torch.nn.Module.load_state_dict`.
        """
        if state_dict.keys() != self.state_dict().keys():
            trained = Student(self.name, self.classifier.out_features)
            trained.load_state_dict(state_dict)
            state_dict = trained.deployed().state_dict()
        return super().load_state_dict(state_dict, strict, assign)
