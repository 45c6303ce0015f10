"""Student backbones by name: networks of torchvision, timm or MONAI without their classification heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_rd.nearest import did_you_mean
from monai_rd.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from monai_rd.networks.stages import timm_stages
from monai_rd.networks.strided import avoid_strided_pointwise
from monai_rd.networks.weights_file import load_strictly, read_weights

__all__ = ["STUDENTS", "Backbone", "build_backbone", "student_dims"]


@dataclass(frozen=True)
class Backbone:
    """A network without its classification head, and what is known of its input.

    Args:
        network: maps inputs `[B, C, ...]` to pooled features `[B, D]`; C is 3 in 2D and 1 in 3D.
        width: D.
        dims: 2 for images, 3 for volumes.
        mean: normalisation mean of each channel, for inputs in [0, 1].
        std: normalisation standard deviation of each channel.
        fixed_size: rows and columns in pixels, if the network takes only this size; else empty.
        patch: rows and columns must be multiples of this number of pixels.
        stages: paths of the modules whose outputs are the feature maps, from the input to the output.
        prefix: number of tokens before the grid's in a ViT (class and register tokens).
    """

    network: nn.Module
    width: int
    dims: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fixed_size: tuple[int, ...] = ()
    patch: int = 1
    stages: tuple[str, ...] = ()
    prefix: int = 0


@dataclass(frozen=True)
class _Named:
    """How to build a network of torchvision or MONAI, the path of its head (last layer linear), and its stages."""

    dims: int
    build: Callable[[], nn.Module]
    head: str
    stages: tuple[str, ...] = ()


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    return getattr(models, name)(weights=None)


def _monai(name: str, **arguments: Any) -> nn.Module:
    from monai.networks import nets

    return getattr(nets, name)(spatial_dims=3, **arguments)


_LAYERS = ("layer1", "layer2", "layer3", "layer4")

# The paper's three students (with exactly the parameter counts of its Table 6), then MONAI's for one-channel volumes.
STUDENTS = {
    "resnet18": _Named(2, partial(_torchvision, "resnet18"), "fc", _LAYERS),
    "mobilenet_v2": _Named(
        2,
        partial(_torchvision, "mobilenet_v2"),
        "classifier",
        ("features.3", "features.6", "features.13", "features.17"),
    ),
    "shufflenet_v2_x1_0": _Named(2, partial(_torchvision, "shufflenet_v2_x1_0"), "fc", ("stage2", "stage3", "stage4")),
    # Without the bias it equals MedicalNet's ResNet-10. MedicalNet's ResNet-18 has shortcuts that TorchScript cannot
    # compile.
    "resnet10_3d": _Named(3, partial(_monai, "resnet10", n_input_channels=1, bias_downsample=False), "fc", _LAYERS),
    "resnet18_3d": _Named(3, partial(_monai, "resnet18", n_input_channels=1), "fc", _LAYERS),
    "densenet121_3d": _Named(
        3,
        partial(_monai, "DenseNet121", in_channels=1, out_channels=2),
        "class_layers.out",
        # Read after the ReLU: it works in place on the output of the last normalisation.
        ("features.denseblock1", "features.denseblock2", "features.denseblock3", "class_layers.relu"),
    ),
    "efficientnet_b0_3d": _Named(
        3,
        partial(_monai, "EfficientNetBN", model_name="efficientnet-b0", pretrained=False, in_channels=1),
        "_fc",
        ("_blocks.1", "_blocks.2", "_blocks.4", "_blocks.6"),
    ),
}
_KNOWN = f"{', '.join(STUDENTS)}, timm:NAME"


def _timm_name(name: str) -> str | None:
    """Return NAME of a student "timm:NAME", or None for one of `STUDENTS`.

    Raises:
        ValueError: an unknown name.
    """
    if name in STUDENTS:
        return None
    library, _, timm_name = name.partition(":")
    if library != "timm":
        raise ValueError(f"unknown student '{name}'; known: {_KNOWN}{did_you_mean(name, STUDENTS)}")
    import timm

    if not timm.is_model(timm_name):
        raise ValueError(
            f"unknown student '{name}': timm {timm.__version__} has no such model, see timm.list_models(); "
            f"known: {_KNOWN}"
        )
    try:
        timm.models.get_pretrained_cfg(timm_name, allow_unregistered=False)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{timm_name.partition('.')[0]}.*"))
        raise ValueError(f"unknown student '{name}': {error} Known to timm {timm.__version__}: {tags}") from error
    return timm_name


def student_dims(name: str) -> int:
    """Return the spatial dimensions of a student's input, without building it: 2 for images and bags, 3 for volumes.

    Raises:
        ValueError: an unknown name.
    """
    return 2 if _timm_name(name) else STUDENTS[name].dims


def _headless(named: _Named) -> tuple[nn.Module, int]:
    """Build one of `STUDENTS` with random weights and the identity as head; return it and the head's input width."""
    network = named.build()
    parent, _, child = named.head.rpartition(".")
    owner = network.get_submodule(parent)
    head = owner.get_submodule(child)
    last = head[-1] if isinstance(head, nn.Sequential) else head
    if not isinstance(last, nn.Linear):
        raise TypeError(f"{type(network).__name__} has no linear head at '{named.head}'")
    setattr(owner, child, nn.Identity())
    if hasattr(network, "_dropout"):  # of EfficientNet; MobileNetV2's is part of its head: see `Student`
        network._dropout = nn.Identity()
        # Its last activation module also runs elsewhere, so the pooled map needs a module that runs only here.
        network._avg_pooling = nn.Sequential(nn.Identity(), network.get_submodule("_avg_pooling"))
    return network, last.in_features


def _timm_headless(name: str, pretrained: bool) -> Any:
    """Build a timm network without its head, for images of any size if the family supports it."""
    import timm

    create = partial(timm.create_model, name, pretrained=pretrained, num_classes=0)
    if not timm.models.get_pretrained_cfg(name).fixed_input_size:
        return create()
    try:
        return create(dynamic_img_size=True)
    except TypeError:  # this family has no such argument
        return create()


@torch.no_grad()
def _probe(network: nn.Module, size: Sequence[int]) -> Tensor:
    """Run a network on a black image in eval mode, then set it back to training mode."""
    network.eval()
    try:
        return network(torch.zeros(1, 3, *size))
    finally:
        network.train()


def _timm_backbone(name: str, pretrained: bool) -> Backbone:
    """Build a timm network, and test its feature width and input size, which timm describes wrongly for some networks.

    Raises:
        ValueError: the network is not a classifier of images with 3 channels.
    """
    import timm

    config = timm.models.get_pretrained_cfg(name)
    network = _timm_headless(name, pretrained)
    avoid_strided_pointwise(network)
    channels, *size = config.input_size
    if channels != 3:
        raise ValueError(f"timm:{name} takes {channels} channels, a student takes 3")
    # timm's `num_features` is not the output width of networks with a convolution between pooling and head.
    features = _probe(network, size)
    if features.dim() != 2:
        raise ValueError(f"timm:{name} gives {list(features.shape)} without its head, not [B, D]: no classifier?")
    fixed: tuple[int, ...] = ()
    patch = 1
    if getattr(network, "dynamic_img_size", False):
        patch = network.patch_embed.patch_size[0]
    elif config.fixed_input_size:
        try:  # timm marks some networks as fixed that are not
            _probe(network, [side // 2 for side in size])
        except (AssertionError, RuntimeError, ValueError):
            fixed = tuple(size)
    stages, prefix = timm_stages(network)
    return Backbone(network, features.shape[1], 2, tuple(config.mean), tuple(config.std), fixed, patch, stages, prefix)


def _imagenet(name: str, timm_name: str | None) -> Backbone:
    """Build a 2D network with the ImageNet weights of its library, which that library downloads.

    Raises:
        ValueError: no weights are published.
        OSError: the download failed.
    """
    if timm_name is None and STUDENTS[name].dims == 3:
        raise ValueError(f"there are no ImageNet weights for '{name}', which takes volumes: give a file, or none")
    if timm_name is None:
        from torchvision import models

        published = models.get_model_weights(name)["IMAGENET1K_V1"]
        source = published.url
    else:
        import timm

        config = timm.models.get_pretrained_cfg(timm_name)
        if not config.has_weights:
            raise ValueError(f"timm publishes no weights for '{timm_name}': give a file, or none")
        source = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
    try:
        if timm_name is not None:
            return _timm_backbone(timm_name, pretrained=True)
        weights = published.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"the published weights of '{name}' could not be downloaded ({reason}). Without a network fetch them "
            f"elsewhere from {source} and give the file (.safetensors, .pt or .pth) instead of 'imagenet'"
        ) from error
    backbone = build_backbone(name)
    _fill(backbone.network, name, weights, source)
    return backbone


def _fill(network: nn.Module, name: str, weights: dict[str, Any], origin: str) -> None:
    """Load published weights; tensors of the head are allowed, and known by building the network with its head."""
    with torch.random.fork_rng(devices=[]):
        timm_name = _timm_name(name)
        if timm_name is None:
            full = STUDENTS[name].build()
        else:
            import timm

            full = timm.create_model(timm_name, pretrained=False)
    load_strictly(network, weights, name, origin, ignored=full.state_dict().keys() - network.state_dict().keys())


def build_backbone(name: str, weights: str | Path | None = None) -> Backbone:
    """Build the backbone of a student by name.

    Args:
        name: one of `STUDENTS`, or "timm:NAME".
        weights: None for random weights; "imagenet" for the published weights of torchvision (IMAGENET1K_V1) or timm
            (of the tag in the name, else timm's default tag); or a file with the backbone's tensors by the library's
            keys, with or without the head.

    Raises:
        ValueError: an unknown name, no published weights, or a file that is damaged, unsafe or does not fit.
        OSError: the file does not exist, or the weights could not be downloaded.
    """
    timm_name = _timm_name(name)
    if weights == "imagenet":
        return _imagenet(name, timm_name)
    if timm_name is not None:
        backbone = _timm_backbone(timm_name, pretrained=False)
    else:
        named = STUDENTS[name]
        network, width = _headless(named)
        # There are no published statistics for one-channel volumes: [0, 1] is mapped to [-1, 1].
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if named.dims == 2 else ((0.5,), (0.5,))
        backbone = Backbone(network, width, named.dims, mean, std, stages=named.stages)
    if weights is not None:
        _fill(backbone.network, name, read_weights(Path(weights)), str(weights))
    return backbone
