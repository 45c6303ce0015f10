"""What an adapter is, and a teacher that wears one: frozen but for a few parameters and a linear head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from monai_rd.losses import ClassificationLoss
from monai_rd.networks.bag import fold, unfold

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["AdaptedTeacher", "Adapter", "Fitted", "Phase", "Recipe", "one_phase"]


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained: the learning rate follows a cosine to 0, after a linear warm-up.

    Args:
        optimizer: "sgd" (momentum 0.9), "adam" or "adamw".
        learning_rate: the highest.
        batch: the batch that it belongs to and is scaled from in proportion; None for all.
        weight_decay: of the optimizer.
        warm_up: share of the epochs; from 1 on, how many of them.
    """

    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    batch: int | None = None
    weight_decay: float = 0.0
    warm_up: float = 0.0


class Fitted(NamedTuple):
    """A backbone with an adapter in it: the parameters that take a gradient are the adapter's.

    Attributes:
        backbone: prepared images to features; a module shares its frozen tensors with the teacher.
        channels: C of its features.
        kind: "map" or "vector".
    """

    backbone: nn.Module | Callable[[Tensor], Tensor]
    channels: int
    kind: Literal["map", "vector"]


class Phase(NamedTuple):
    """A part of the training.

    Attributes:
        parameters: what it trains.
        loss: of logits and target, a scalar.
        start: called before it begins.
        start_epoch: called at the start of its epochs with their progress, from 0 in the first to 1 in the last.
    """

    parameters: list[nn.Parameter]
    loss: Callable[[Tensor, Tensor], Tensor]
    start: Callable[[], None] = lambda: None
    start_epoch: Callable[[float], None] = lambda progress: None


def one_phase(network: AdaptedTeacher, labels: Tensor, multi_label: bool) -> list[Phase]:
    """Train everything at once on the cross entropy of either kind of labels."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [Phase(parameters, ClassificationLoss(multi_label))]


def linear_head(channels: int, num_classes: int) -> nn.Linear:
    """A linear layer with small weights."""
    head = nn.Linear(channels, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


@dataclass(frozen=True)
class Adapter:
    """A way to fit a teacher to a task.

    Args:
        name: how users call it.
        fit: from the teacher and the adapter's options to the adapted backbone.
        recipe: how it is trained.
        head: from channels and classes to the head, a linear layer.
        normalised: features are normalised over the batch before the head in training, which becomes part of the head.
        phases: of the training, from the network, the labels of the training list and whether they are multi-label.
    """

    name: str
    fit: Callable[..., Fitted]
    recipe: Recipe
    head: Callable[[int, int], nn.Linear] = linear_head
    normalised: bool = False
    phases: Callable[[AdaptedTeacher, Tensor, bool], list[Phase]] = one_phase


class _Standardisation(nn.BatchNorm1d):
    """Batch normalisation without parameters, whose running statistics begin as those of the first batches.

    PyTorch's begin as 0 and 1, which take long to fade where features vary little.
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
    """A teacher that can be fitted to a task: images as the teacher takes them to logits.

    The parameters that take a gradient are the adapter's and the head's. What is frozen stays in eval mode whatever
    `train()` is told. The teacher itself is left as it is: its frozen tensors are shared, not copied, so both move
    together to another device.

    Args:
        teacher: the frozen teacher.
        adapter: the way.
        num_classes: of the task.
        options: of the adapter.

    Raises:
        ValueError: an unknown option, or a teacher that the adapter does not fit.
    """

    def __init__(
        self, teacher: FrozenFoundationModel, adapter: Adapter, num_classes: int, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        known = list(inspect.signature(adapter.fit).parameters)[1:]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise ValueError(f"the adapter '{adapter.name}' has no option {', '.join(unknown)}; it has: {known}")
        self.adapter, self.options, self.num_classes = adapter, dict(options), num_classes
        self.name, self.preprocessing = f"{teacher.name}+{adapter.name}", teacher.preprocessing
        self.backbone, self.channels, self.kind = adapter.fit(teacher, **options)
        self.norm = _Standardisation(self.channels) if adapter.normalised else None
        self.head = adapter.head(self.channels, num_classes)
        named = self.backbone.named_parameters() if isinstance(self.backbone, nn.Module) else ()
        self._trained = [name for name, parameter in named if parameter.requires_grad]
        self.train()

    def train(self, mode: bool = True) -> AdaptedTeacher:
        """Put what is trained into training mode, and only that."""
        super().train(mode)
        if isinstance(self.backbone, nn.Module):
            _train_what_is_trained(self.backbone, mode)
        return self

    def features(self, image: Tensor) -> Tensor:
        """Features pooled over positions and slices `[B, C]`.

        Args:
            image: `[B, 3, H, W]` or bags `[B, S, 3, H, W]` in [0, 1]; of a teacher of volumes `[B, 1, D, H, W]`.
        """
        image = image.as_subclass(Tensor)
        images, slices = fold(image) if self.preprocessing.spatial_dims == 2 else (image, 1)
        inputs = self.preprocessing(images)
        if isinstance(self.backbone, nn.Module):
            inputs = inputs.to(next((p.dtype for p in self.backbone.parameters()), inputs.dtype))
        features = self.backbone(inputs)
        if self.kind == "map":
            features = features.flatten(2).mean(dim=2)
        return unfold(features, slices).mean(dim=1).to(self.head.weight.dtype)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, classes]`.

        Raises:
            ValueError: a batch of one in training, of an adapter that normalises over the batch.
        """
        features = self.features(image)
        if self.norm is not None:
            if self.training and len(features) == 1:
                raise ValueError(
                    f"the adapter '{self.adapter.name}' normalises over the batch: use a --batch_size of 2 or more"
                )
            features = self.norm(features)
        return self.head(features)

    @torch.no_grad()
    def folded_head(self) -> nn.Linear:
        """The head with the normalisation before it, as one linear layer of the pooled features."""
        head = self.adapter.head(self.channels, self.num_classes).to(self.head.weight)
        head.load_state_dict(self.head.state_dict())
        if self.norm is not None and self.norm.running_mean is not None and self.norm.running_var is not None:
            head.weight.mul_((self.norm.running_var + self.norm.eps).rsqrt())
            head.bias.sub_(head.weight @ self.norm.running_mean)
        return head

    def adapter_state(self) -> dict[str, Tensor]:
        """The tensors of the backbone that its training changes; of full fine-tuning all."""
        if not isinstance(self.backbone, nn.Module) or not self._trained:
            return {}
        state = self.backbone.state_dict()
        frozen = len(self._trained) < len(list(self.backbone.parameters()))
        return {name: state[name] for name in self._trained} if frozen else state

    def frozen(self, head: nn.Linear | None = None) -> FrozenFoundationModel:
        """The teacher for good: frozen, with the head on its pooled features.

        Args:
            head: None for the own one.
        """
        from monai_rd.networks import FrozenFoundationModel

        return FrozenFoundationModel(
            self.backbone,
            channels=self.channels,
            kind=self.kind,
            preprocessing=self.preprocessing,
            name=self.name,
            head=self.folded_head() if head is None else head,
        )


def _train_what_is_trained(module: nn.Module, mode: bool) -> None:
    """Set the mode of the modules that hold nothing frozen; all others go to eval."""
    parameters = list(module.parameters())
    if parameters and all(parameter.requires_grad for parameter in parameters):
        module.train(mode)
        return
    module.training = False
    for child in module.children():
        _train_what_is_trained(child, mode)
