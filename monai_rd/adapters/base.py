"""Definition of an adapter, and a teacher with an adapter: frozen except for some parameters and a linear head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from monai_rd.keyword_options import check_options
from monai_rd.losses import ClassificationLoss
from monai_rd.networks.bag import fold, unfold

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["AdaptedTeacher", "Adapter", "Fitted", "Phase", "Recipe", "one_phase"]


@dataclass(frozen=True)
class Recipe:
    """Training settings of an adapter; the learning rate has a linear warm-up and then a cosine decay to 0.

    Args:
        optimizer: "sgd" (momentum 0.9), "adam" or "adamw".
        learning_rate: the highest learning rate.
        batch: batch size that `learning_rate` is for; it is scaled in proportion to the actual batch size. None: it is
            not scaled.
        weight_decay: weight decay of the optimizer.
        warm_up: length of the warm-up: below 1 a share of all epochs, otherwise a number of epochs.

    Example:
        >>> from monai_rd.adapters import ADAPTERS, Recipe
        >>> ADAPTERS["linear_probe"].recipe == Recipe("adam", learning_rate=1e-3)
        True
    """

    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    batch: int | None = None
    weight_decay: float = 0.0
    warm_up: float = 0.0


class Fitted(NamedTuple):
    """A backbone with an adapter in it; only the adapter's parameters have `requires_grad`.

    Attributes:
        backbone: from preprocessed images to features; a module shares its frozen tensors with the teacher.
        channels: C, the number of channels of its features.
        kind: "map" or "vector", see `FrozenFoundationModel`.
    """

    backbone: nn.Module | Callable[[Tensor], Tensor]
    channels: int
    kind: Literal["map", "vector"]


class Phase(NamedTuple):
    """One phase of an adapter's training.

    Attributes:
        parameters: the parameters that it trains.
        loss: from logits and target to a scalar.
        start: called before the phase.
        start_epoch: called at the start of each of its epochs with the progress, from 0 in the first to 1 in the last.
    """

    parameters: list[nn.Parameter]
    loss: Callable[[Tensor, Tensor], Tensor]
    start: Callable[[], None] = lambda: None
    start_epoch: Callable[[float], None] = lambda progress: None


def one_phase(network: AdaptedTeacher, labels: Tensor, criterion: ClassificationLoss) -> list[Phase]:
    """Return a single phase that trains all trainable parameters with the criterion."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [Phase(parameters, criterion)]


def linear_head(channels: int, num_classes: int) -> nn.Linear:
    """Return a linear layer with small random weights (standard deviation 0.01) and zero biases."""
    head = nn.Linear(channels, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


@dataclass(frozen=True)
class Adapter:
    """A way to fit a teacher to a task.

    Args:
        name: its name for users.
        fit: function from the teacher and the adapter's options (keyword arguments) to the adapted backbone.
        recipe: how it is trained.
        head: function from the numbers of channels and classes to the head, a linear layer.
        normalised: normalise features over the batch before the head; after training this is merged into the head.
        phases: function from the network, the labels of the training list and the criterion to the phases of the
            training.

    Example:
        An adapter that trains the biases of the teacher.

        >>> import copy
        >>> from monai_rd.adapters import AdaptedTeacher, Adapter, Recipe
        >>> from monai_rd.adapters.base import Fitted
        >>> from monai_rd.networks import load_teacher
        >>> def fit(teacher):
        ...     backbone = copy.deepcopy(teacher.backbone)
        ...     for name, parameter in backbone.named_parameters():
        ...         parameter.requires_grad_(name.endswith("bias"))
        ...     return Fitted(backbone, teacher.channels, teacher.kind)
        >>> biases = Adapter("biases", fit, Recipe("adam", 1e-3))
        >>> AdaptedTeacher(load_teacher("phantom_ct"), biases, num_classes=2, options={}).name
        'phantom_ct+biases'
    """

    name: str
    fit: Callable[..., Fitted]
    recipe: Recipe
    head: Callable[[int, int], nn.Linear] = linear_head
    normalised: bool = False
    phases: Callable[[AdaptedTeacher, Tensor, ClassificationLoss], list[Phase]] = one_phase


class _Standardisation(nn.BatchNorm1d):
    """Batch normalisation without parameters, whose running statistics start as the mean over the first batches.

    PyTorch's start at 0 and 1, which bias the statistics for long if features vary little.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False)
        self._batches = 0

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self._batches += 1
            self.momentum = max(0.1, 1 / self._batches)
        return super().forward(features)


class AdaptedTeacher(nn.Module):
    """A teacher with an adapter and a linear head that can be trained on a task; it maps images to logits.

    Only the parameters of the adapter and the head are trained. Frozen modules stay in eval mode even after `train()`.
    The teacher itself is not changed: its frozen tensors are shared, not copied, so both move to another device
    together.

    Args:
        teacher: the frozen teacher.
        adapter: the adapter.
        num_classes: number of classes of the task.
        options: options of the adapter.

    Raises:
        ValueError: an unknown option, one with a value of a wrong type, or a teacher that the adapter does not support.

    Example:
        >>> import torch
        >>> from monai_rd.adapters import build_adapter
        >>> from monai_rd.networks import load_teacher
        >>> network = build_adapter("linear_probe", load_teacher("phantom_ct"), num_classes=2)  # an AdaptedTeacher
        >>> network(torch.rand(4, 3, 64, 64)).shape
        torch.Size([4, 2])
        >>> [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        ['head.weight', 'head.bias']
        >>> network.frozen().name
        'phantom_ct+linear_probe'
    """

    def __init__(
        self, teacher: FrozenFoundationModel, adapter: Adapter, num_classes: int, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        known = list(inspect.signature(adapter.fit).parameters)[1:]
        check_options(f"the adapter '{adapter.name}'", adapter.fit, known, options)
        self.adapter, self.options, self.num_classes = adapter, dict(options), num_classes
        self.name, self.preprocessing = f"{teacher.name}+{adapter.name}", teacher.preprocessing
        self.backbone, self.channels, self.kind = adapter.fit(teacher, **options)
        self.norm = _Standardisation(self.channels) if adapter.normalised else None
        self.head = adapter.head(self.channels, num_classes)
        named = self.backbone.named_parameters() if isinstance(self.backbone, nn.Module) else ()
        self._trained = [name for name, parameter in named if parameter.requires_grad]
        self._probes = teacher.name if self.trains_head_alone and self.backbone is teacher.backbone else ""
        self.train()

    def train(self, mode: bool = True) -> AdaptedTeacher:
        """Set training mode for the trained modules only; frozen modules stay in eval mode."""
        super().train(mode)
        if isinstance(self.backbone, nn.Module):
            _train_what_is_trained(self.backbone, mode)
        return self

    def features(self, image: Tensor) -> Tensor:
        """Return features pooled over positions and slices `[B, C]`.

        Args:
            image: `[B, 3, H, W]` or bags `[B, S, 3, H, W]` in [0, 1]; for a teacher of volumes `[B, S, D, H, W]`.
        """
        image = image.as_subclass(Tensor)
        images, slices = fold(image, self.preprocessing.spatial_dims)
        inputs = self.preprocessing(images)
        if isinstance(self.backbone, nn.Module):
            inputs = inputs.to(next((p.dtype for p in self.backbone.parameters()), inputs.dtype))
        features = self.backbone(inputs)
        if self.kind == "map":
            features = features.flatten(2).mean(dim=2)
        return unfold(features, slices).mean(dim=1).to(self.head.weight.dtype)

    def forward(self, shown: Tensor) -> Tensor:
        """Return logits `[B, classes]`.

        Args:
            shown: images as `features` takes them, or what it returned of them.

        Raises:
            ValueError: a batch of one in training mode, with an adapter that normalises over the batch.
        """
        features = shown.to(self.head.weight.dtype) if shown.dim() == 2 else self.features(shown)
        return self.logits(features)

    def logits(self, features: Tensor) -> Tensor:
        """Return logits `[B, classes]` of features that `features` returned.

        Raises:
            ValueError: see `forward`.
        """
        if self.norm is not None:
            if self.training and len(features) == 1:
                raise ValueError(
                    f"the adapter '{self.adapter.name}' normalises over the batch: use a --batch_size of 2 or more"
                )
            features = self.norm(features)
        return self.head(features)

    @torch.no_grad()
    def folded_head(self) -> nn.Linear:
        """Return the head merged with the normalisation before it, as one linear layer on the pooled features."""
        head = self.adapter.head(self.channels, self.num_classes).to(self.head.weight)
        head.load_state_dict(self.head.state_dict())
        if self.norm is not None and self.norm.running_mean is not None and self.norm.running_var is not None:
            head.weight.mul_((self.norm.running_var + self.norm.eps).rsqrt())
            head.bias.sub_(head.weight @ self.norm.running_mean)
        return head

    @property
    def trains_head_alone(self) -> bool:
        """Whether no tensor of the backbone is trained, so that an image's features stay as they are."""
        return not self._trained

    def adapter_state(self) -> dict[str, Tensor]:
        """Return the backbone's tensors that are trained; for full fine-tuning its whole state dict."""
        if not isinstance(self.backbone, nn.Module) or not self._trained:
            return {}
        state = self.backbone.state_dict()
        frozen = len(self._trained) < len(list(self.backbone.parameters()))
        return {name: state[name] for name in self._trained} if frozen else state

    def frozen(self, head: nn.Linear | None = None) -> FrozenFoundationModel:
        """Return the fitted teacher, frozen, with the head on its pooled features.

        Args:
            head: None for the network's own merged head.
        """
        from monai_rd.networks import FrozenFoundationModel

        return FrozenFoundationModel(
            self.backbone,
            channels=self.channels,
            kind=self.kind,
            preprocessing=self.preprocessing,
            name=self.name,
            head=self.folded_head() if head is None else head,
            probes=self._probes,
        )


def _train_what_is_trained(module: nn.Module, mode: bool) -> None:
    """Set the mode of modules whose parameters are all trained; all other modules are set to eval mode."""
    parameters = list(module.parameters())
    if parameters and all(parameter.requires_grad for parameter in parameters):
        module.train(mode)
        return
    module.training = False
    for child in module.children():
        _train_what_is_trained(child, mode)
