"""Building the network of a zoo entry, and reading its features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from monai_rd.nearest import did_you_mean
from monai_rd.networks.levels import Level, LevelReader, find_levels
from monai_rd.networks.stages import monai_stages, open_clip_stages, timm_stages
from monai_rd.networks.strided import avoid_strided_pointwise
from monai_rd.networks.teacher.zoo import architectures
from monai_rd.networks.teacher.zoo.entry import TeacherEntry

__all__ = ["TeacherBackbone", "build", "named_level", "reach"]


class _NoInitialisation(TorchFunctionMode):
    """Skips in-place operations on parameters and their parts (initialisation); the values come from a file later."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        target = args[0] if args else (kwargs or {}).get("tensor")  # torch.nn.init passes it by name
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.startswith(("__", "requires"))
        if in_place and any(isinstance(one, nn.Parameter) for one in (target, getattr(target, "_base", None))):
            return target
        return func(*args, **(kwargs or {}))


def build(builder: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build the network of an entry's `builder`; its parameters are uninitialised, its buffers are initialised.

    Args:
        builder: "timm:NAME", "open_clip:visual" (an image tower), "monai:NAME", or "monai_rd:NAME" for a class of
            `monai_rd.networks.teacher.zoo.architectures`.
        arguments: of the constructor; for open_clip `embed_dim`, `vision_cfg` and `quick_gelu`. timm's `mlp_layer` may
            be the name of one of its layers, such as "SwiGLUPacked". In addition, for timm: `layer_norm_eps`;
            `final_relu=False`, which removes the last ReLU of a DenseNet; `neck=False`, which removes SAM's neck.

    Raises:
        ValueError: an unknown builder, name or argument.
    """
    library, _, name = builder.partition(":")
    if library not in _BUILDERS:
        raise ValueError(f"unknown builder '{builder}'; known: {', '.join(f'{known}:NAME' for known in _BUILDERS)}")
    with _NoInitialisation():
        try:
            network = _BUILDERS[library](name, dict(arguments))
        except TypeError as error:
            raise ValueError(f"'{builder}' cannot be built with {dict(arguments)}: {error}") from error
    avoid_strided_pointwise(network)  # the adapter `full` trains it
    return network.eval()


_MLPS = ("Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked")  # of timm.layers


def _timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ValueError(f"timm {timm.__version__} has no model '{name}'; see timm.list_models()")
    eps = arguments.pop("layer_norm_eps", None)
    final_relu, neck = arguments.pop("final_relu", True), arguments.pop("neck", True)
    if isinstance(mlp := arguments.get("mlp_layer"), str):
        if mlp not in _MLPS:
            raise ValueError(f"mlp_layer must be one of {', '.join(_MLPS)}, not '{mlp}'")
        arguments["mlp_layer"] = getattr(timm.layers, mlp)
    network: Any = timm.create_model(name, pretrained=False, **arguments)
    if eps is not None:
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps
    if not final_relu:
        network.features.norm5.act = nn.Identity()
    if not neck:
        network.neck = nn.Identity()
    return network


def _open_clip(name: str, arguments: dict[str, Any]) -> nn.Module:
    from open_clip.model import _build_vision_tower

    if name != "visual":
        raise ValueError(f"unknown builder 'open_clip:{name}'; known: open_clip:visual")
    vision = {**arguments.pop("vision_cfg"), "timm_model_pretrained": False}
    return _build_vision_tower(vision_cfg=vision, **arguments)


def _monai(name: str, arguments: dict[str, Any]) -> nn.Module:
    from monai.networks.nets import ViT
    from monai.networks.nets.segresnet_ds import SegResEncoder
    from monai.networks.nets.swin_unetr import SwinTransformer

    classes = {"SegResEncoder": SegResEncoder, "SwinTransformer": SwinTransformer, "ViT": ViT}
    if name not in classes:
        raise ValueError(f"unknown builder 'monai:{name}'; known: {', '.join(f'monai:{known}' for known in classes)}")
    network = classes[name](**arguments)
    if name == "ViT":  # since MONAI 1.4 every block has a normalisation for cross-attention, which is not used
        for block in network.blocks:
            block.norm_cross_attn = nn.Identity()
    return network


def _monai_rd(name: str, arguments: dict[str, Any]) -> nn.Module:
    if name not in architectures.__all__:
        known = ", ".join(f"monai_rd:{known}" for known in architectures.__all__)
        raise ValueError(f"unknown builder 'monai_rd:{name}'; known: {known}")
    return getattr(architectures, name)(**arguments)


def _read_timm(network: Any, image: Tensor) -> Tensor:
    features = network.forward_features(image)
    if features.dim() == 3:
        patches = features[:, network.num_prefix_tokens :]
        grid = network.patch_embed.dynamic_feat_size(image.shape[2:])
        return patches.transpose(1, 2).unflatten(2, grid)
    return features.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else features


def _read_open_clip(network: Any, image: Tensor) -> Tensor:
    read = network.forward_intermediates(
        image, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NCHW"
    )
    return read["image_intermediates"][-1]


def _read_monai(network: Any, image: Tensor) -> Tensor:
    output = network(image)
    if isinstance(output, list):  # a pyramid
        return output[-1]
    tokens = output[0]
    strides = network.patch_embedding.patch_embeddings.stride
    return tokens.transpose(1, 2).unflatten(
        2, [n // stride for n, stride in zip(image.shape[2:], strides, strict=True)]
    )


def _read_monai_rd(network: Any, image: Tensor) -> Tensor:
    return network(image)


_BUILDERS: dict[str, Callable[[str, dict[str, Any]], nn.Module]] = {
    "timm": _timm,
    "open_clip": _open_clip,
    "monai": _monai,
    "monai_rd": _monai_rd,
}
_READERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "timm": _read_timm,
    "open_clip": _read_open_clip,
    "monai": _read_monai,
    "monai_rd": _read_monai_rd,
}


def _monai_rd_stages(network: Any) -> tuple[tuple[str, ...], int]:
    return network.stages, network.prefix


_STAGES: dict[str, Callable[[nn.Module], tuple[tuple[str, ...], int]]] = {
    "timm": timm_stages,
    "open_clip": open_clip_stages,
    "monai": monai_stages,
    "monai_rd": _monai_rd_stages,
}


class TeacherBackbone(nn.Module):
    """A network whose output is a feature map `[B, C, ...]` or its mean over positions `[B, C]`.

    Args:
        network: made by `build`.
        builder: the builder of `network`.
        kind: "map" for the last feature map, "vector" for its mean over positions.
        tap: the level of `network` to read instead of the last feature map; None for the last one.

    Attributes:
        stages: paths of the modules whose outputs are its feature maps; see `FrozenFoundationModel.levels`.
        prefix: number of tokens before the grid's in a ViT (class and register tokens).
    """

    def __init__(
        self, network: nn.Module, builder: str, kind: Literal["map", "vector"], tap: Level | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.kind, self.tap = kind, tap
        library = builder.partition(":")[0]
        self._read = _READERS[library]
        stages, self.prefix = _STAGES[library](network)
        self.stages = tuple(f"network.{stage}" for stage in stages)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the features of preprocessed images `[B, C, H, W]` or volumes `[B, 1, D, H, W]`."""
        if self.tap is not None:
            with LevelReader(self.network, [self.tap]) as reader:
                self.network(image)
                return reader.take()[0]
        features = self._read(self.network, image)
        return features.flatten(2).mean(dim=2) if self.kind == "vector" else features


def reach(network: nn.Module, builder: str, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape `(C, ...)` of the feature map, without computing it.

    Args:
        network: made by `build`. It is moved to the meta device and must not be used afterwards.
        builder: the builder of `network`.
        input_shape: shape of one image, `(channels, ...)`.
    """
    with torch.no_grad():
        return tuple(
            TeacherBackbone(network, builder, "map").to("meta")(torch.empty(1, *input_shape, device="meta")).shape[1:]
        )


def named_level(network: nn.Module, entry: TeacherEntry, module: str, image: Tensor) -> Level:
    """Return the level of a network at a module.

    Args:
        network: made by `build` for the entry, with its weights loaded.
        entry: the teacher's entry.
        module: path of the module, such as "layer3" or "blocks.8".
        image: a batch of one preprocessed image.

    Raises:
        ValueError: there is no such module, or its output is not a feature map.
    """
    stages, prefix = _STAGES[entry.builder.partition(":")[0]](network)
    known = dict(network.named_modules())
    found = find_levels(network, [module], image, prefix) if module in known else ()
    if not found:
        wrong = "no feature map [B, C, h, w]" if module in known else "nothing in the network"
        raise ValueError(
            f"teacher_options of '{entry.name}': tap '{module}' is {wrong}: it is map, vector, or a module such as "
            f"{', '.join(stages)}{did_you_mean(module, known)}"
        )
    return found[0]
