"""The published teachers: builder, checkpoint layout, preprocessing, channels, licence and source of each, as data."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from monai_rd.files import atomic_path, existing_file
from monai_rd.networks.blackbox import OnnxBackbone, TFLiteBackbone
from monai_rd.networks.foundation import FrozenFoundationModel, Preprocessing

__all__ = ["TEACHERS", "TeacherEntry", "load_teacher", "save_teacher"]

logger = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_METADATA_KEY = "monai_rd_teacher"
_SHIPPED = Path(__file__).parent / "weights"
_BLACK_BOXES = {".onnx": OnnxBackbone, ".tflite": TFLiteBackbone}
_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".torch")


@dataclass(frozen=True)
class TeacherEntry:
    """What has to be known of a teacher besides its weights.

    Args:
        name: how users call it.
        builder: the library and the network's name in it, such as "timm:densenet121".
        arguments: keyword arguments of the builder.
        preprocessing: how the network wants its images.
        channels: C of its features.
        kind: "map" gives the last feature map, "vector" its average over positions.
        licence: of the weights.
        source: where the weights are published.
        renamed: prefixes of the published keys and what the network calls them.
    """

    name: str
    builder: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing
    channels: int
    kind: Literal["map", "vector"]
    licence: str
    source: str
    renamed: dict[str, str] = field(default_factory=dict)


TEACHERS = {
    entry.name: entry
    for entry in (
        TeacherEntry(
            name="phantom_ct",
            builder="timm:resnet10t",
            arguments={"channels": [32, 64, 128, 256], "num_classes": 0, "global_pool": ""},
            preprocessing=Preprocessing(96, IMAGENET_MEAN, IMAGENET_STD),
            channels=256,
            kind="map",
            licence="Apache-2.0",
            source="shipped with monai_rd; trained on its synthetic phantoms, of no clinical use",
        ),
        *(
            TeacherEntry(
                name=f"phantom_{modality}",
                builder="timm:resnet10t",
                arguments={"channels": [24, 48, 96, 192], "num_classes": 0, "global_pool": ""},
                preprocessing=Preprocessing(96, IMAGENET_MEAN, IMAGENET_STD),
                channels=192,
                kind="map",
                licence="Apache-2.0",
                source="shipped with monai_rd; trained on its synthetic phantoms, of no clinical use",
            )
            for modality in ("mr", "us", "xray", "derm")
        ),
        TeacherEntry(
            name="radimagenet_densenet121",
            # timm's last normalisation ends in the ReLU that torchvision's classifier applies after `features`.
            builder="timm:densenet121",
            arguments={"num_classes": 0, "global_pool": ""},
            # The authors' code: (x - 127.5) * 2 / 255 on OpenCV's channel order.
            preprocessing=Preprocessing(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), channel_order="BGR"),
            channels=1024,
            kind="map",
            licence="MIT (code repository); the data set has its own terms at radimagenet.com",
            source="https://github.com/BMEII-AI/RadImageNet (RadImageNet_pytorch/DenseNet121.pt)",
            renamed={"backbone.0.": "features."},
        ),
    )
}

# One telling key of each published layout, for the error about a file that fits nothing.
_LAYOUTS = {
    "backbone.0.conv0.weight": "RadImageNet DenseNet121 (radimagenet_densenet121)",
    "backbone.7.2.bn3.weight": "RadImageNet ResNet50",
    "backbone.0.conv.weight": "RadImageNet InceptionV3",
    "attnpool.c_proj.weight": "PMC-CLIP, image encoder",
    "visual.attnpool.c_proj.weight": "PMC-CLIP, whole model",
    "neck.3.weight": "LVM-Med ViT (SAM image encoder)",
    "visual.trunk.cls_token": "BiomedCLIP (open_clip)",
    "conv_init.weight": "CT-FM (MONAI SegResEncoder)",
    "backbone.patch_embedding.position_embeddings": "BrainIAC (MONAI ViT)",
    "features.conv0.weight": "DenseNet of torchvision or timm",
    "layer4.0.bn1.weight": "ResNet of torchvision or timm",
    "blocks.0.attn.qkv.weight": "ViT of timm",
}


class _Timm(nn.Module):
    """A timm network read at its last feature map `[B, C, h, w]`, or at that map's average `[B, C]`."""

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, image: Tensor) -> Tensor:
        network: Any = self.network
        features = network.forward_features(image)
        if features.dim() == 3:
            rows, columns = network.patch_embed.grid_size
            patches = features[:, network.num_prefix_tokens :]
            features = patches.transpose(1, 2).unflatten(2, (rows, columns))
        elif getattr(network, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        return features.mean(dim=(2, 3)) if self.kind == "vector" else features


def _build(builder: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build the network that an entry's `builder` names, with random weights and without a network connection."""
    library, _, name = builder.partition(":")
    if library != "timm":
        raise ValueError(f"unknown builder '{builder}'; known: timm:NAME")
    import timm

    if not timm.is_model(name):
        raise ValueError(f"timm {timm.__version__} has no model '{name}'; see timm.list_models()")
    return timm.create_model(name, pretrained=False, **arguments)


def _timm_entry(name: str) -> tuple[TeacherEntry, nn.Module]:
    """Describe any timm network as timm itself does."""
    from timm.data import resolve_model_data_config

    arguments = {"num_classes": 0}
    network = _build(name, arguments)
    config = resolve_model_data_config(network)
    preprocessing = Preprocessing(
        size=tuple(config["input_size"][1:]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bicubic" if config["interpolation"] == "bicubic" else "bilinear",
    )
    channels = int(getattr(network, "num_features"))  # noqa: B009
    licence = source = "not known here: ask where the checkpoint comes from"
    return TeacherEntry(name, name, arguments, preprocessing, channels, "map", licence, source), network


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")


def _read_weights(path: Path) -> dict[str, Any]:
    """Read a state dict of tensors; wrappers and DDP's prefix are taken off. No code of the file is run."""
    path = existing_file(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged, or no safetensors file ({error}); get it again") from error
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        raise ValueError(
            f"{path}: refused. It needs more than plain weights ({reason.splitlines()[0].strip()}), and such a pickle "
            "can run any code. Ask its owner for a safetensors file or a plain state dict"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or no PyTorch checkpoint ({error}); get it again") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(weights, dict) and isinstance(weights.get(wrapper), dict):
            weights = weights[wrapper]
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise ValueError(f"{path}: holds no state dict but a {type(weights).__name__}")
    if weights and all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    return weights


def _renamed(key: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _load_strictly(network: nn.Module, weights: Mapping[str, Any], entry: TeacherEntry, origin: str) -> None:
    """Load every tensor or none.

    Args:
        network: what `entry.builder` built.
        weights: under the keys that `entry` publishes.
        entry: the teacher.
        origin: where the weights come from, for the error.

    Raises:
        ValueError: with the number of missing, unexpected and misshapen tensors and the first of each by name.
    """
    given = {_renamed(key, entry.renamed): value for key, value in weights.items()}
    wanted = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    shapes = {key: list(v.shape) if isinstance(v, Tensor) else type(v).__name__ for key, v in given.items()}
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in weights if _renamed(key, entry.renamed) not in wanted]
    misshapen = [key for key in wanted if key in given and shapes[key] != wanted[key]]
    if not (missing or unexpected or misshapen):
        network.load_state_dict(given)
        return
    fitting = len(wanted) - len(missing) - len(misshapen)
    message = f"{origin} does not fit {entry.name}: {fitting} of {len(wanted)} tensors fit"
    for what, keys in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("misshapen", [f"{key} {shapes[key]} instead of {wanted[key]}" for key in misshapen]),
    ):
        if keys:
            message += f"; {len(keys)} {what}: {_first(keys)}"
    layouts = [layout for key, layout in _LAYOUTS.items() if key in weights]
    if not fitting and layouts:
        message += f". The layout looks like {' or '.join(layouts)}"
    raise ValueError(message)


def _described(path: Path) -> TeacherEntry | None:
    """Read what a safetensors file says of itself; None if it says nothing.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or a description that is none.
    """
    path = existing_file(path)
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            described = (file.metadata() or {}).get(_METADATA_KEY)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, or no safetensors file ({error}); get it again") from error
    if described is None:
        return None
    try:
        values = json.loads(described)
        values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
        return TeacherEntry(name=path.stem, **values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its description under '{_METADATA_KEY}' cannot be read ({error!r})") from error


def _load_black_box(path: Path, tap: str) -> FrozenFoundationModel:
    backbone = _BLACK_BOXES[path.suffix](path, tap)
    grey = backbone.image_channels == 1
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if backbone.integer:
        mean, std = (0.0,) * backbone.image_channels, (1.0,) * backbone.image_channels
        assumed = f"{backbone.dtype} pixels"
    else:
        mean, std = ((0.449,), (0.226,)) if grey else (IMAGENET_MEAN, IMAGENET_STD)
        assumed = f"mean {mean} and std {std} of values in [0, 1]"
    preprocessing = Preprocessing(backbone.size, mean, std, channel_order="GRAY" if grey else "RGB")
    logger.info(
        "%s does not say how it wants its images; assumed: %s, %d x %d, %s (for others build FrozenFoundationModel)",
        path.name,
        preprocessing.channel_order,
        *backbone.size,
        assumed,
    )
    return FrozenFoundationModel(
        backbone, channels=backbone.channels, kind=backbone.kind, preprocessing=preprocessing, name=path.name
    )


def load_teacher(name: str, checkpoint: str | Path | None = None, tap: str = "map") -> FrozenFoundationModel:
    """Load a frozen teacher.

    Args:
        name: one of `TEACHERS`; "timm:NAME" for any timm network; a `.onnx` or `.tflite` file, which is a whole
            network; or a `.safetensors` file that `save_teacher` wrote.
        checkpoint: local file with the weights, where `name` does not bring them.
        tap: "map" for the last feature map, "vector" for its average over positions. Of an ONNX or TFLite file also the
            name of a tensor.

    Raises:
        FileNotFoundError: a file is not there.
        ImportError: an ONNX or TFLite file, and the package that runs it is not installed.
        ValueError: an unknown name or tap, a teacher without weights, or weights that are damaged, unsafe or do not
            fit.
    """
    known = f"{', '.join(TEACHERS)}, timm:NAME, or a file: .onnx, .tflite, or .safetensors written by save_teacher"
    path = Path(name)
    is_file = path.suffix in (*_BLACK_BOXES, *_WEIGHTS) and not name.startswith("timm:")
    if is_file and checkpoint is not None:
        raise ValueError(f"the teacher '{name}' is a file of its own: leave out the checkpoint {checkpoint}")
    if is_file and path.suffix in _BLACK_BOXES:
        return _load_black_box(path, tap)
    if tap not in ("map", "vector"):
        raise ValueError(
            f"tap must be 'map' or 'vector', not '{tap}'; only in ONNX and TFLite files can it name a tensor"
        )

    weights: Path | None = Path(checkpoint) if checkpoint is not None else None
    network: nn.Module | None = None
    entry: TeacherEntry | None
    if is_file:
        entry, weights = _described(path), path
        if entry is None:
            raise ValueError(
                f"{name}: weights alone do not say the architecture; use --teacher NAME --teacher_checkpoint {name}. "
                f"Known names: {known}"
            )
    elif name in TEACHERS:
        entry = TEACHERS[name]
        shipped = _SHIPPED / f"{name}.safetensors"
        if weights is None and shipped.is_file():
            entry, weights = _described(shipped) or entry, shipped
    elif name.startswith("timm:"):
        entry, network = _timm_entry(name)
    else:
        raise ValueError(f"unknown teacher '{name}'; known: {known}")
    if weights is None:
        raise ValueError(
            f"the teacher '{name}' needs a checkpoint (--teacher_checkpoint FILE): a random teacher teaches nothing. "
            f"Its source: {entry.source}"
        )
    network = network or _build(entry.builder, entry.arguments)
    _load_strictly(network, _read_weights(weights), entry, str(weights))
    logger.info("teacher '%s': %d tensors from %s", entry.name, len(network.state_dict()), weights.name)
    kind: Literal["map", "vector"] = "vector" if tap == "vector" else entry.kind
    return FrozenFoundationModel(
        _Timm(network, kind), channels=entry.channels, kind=kind, preprocessing=entry.preprocessing, name=entry.name
    )


def save_teacher(path: str | Path, backbone: nn.Module, entry: TeacherEntry) -> None:
    """Write a safetensors file that says by itself what it is, for `load_teacher(path)`.

    Weights are stored in half precision. The file appears whole or not at all.

    Args:
        path: a `.safetensors` file.
        backbone: the network that `entry.builder` builds, or the `backbone` of a loaded teacher.
        entry: its description; `name` and `renamed` are not stored.

    Raises:
        ValueError: another suffix, a network other than the entry's, or a weight beyond half precision's range.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a teacher is saved as .safetensors")
    network = backbone.network if isinstance(backbone, _Timm) else backbone
    weights = {
        key: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous().clone()
        for key, tensor in network.state_dict().items()
    }
    for key, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {key} has values that half precision cannot hold")
    rebuilt = _build(entry.builder, entry.arguments)
    _load_strictly(rebuilt, weights, replace(entry, renamed={}), f"{path} is not written: the backbone")
    described = {key: value for key, value in asdict(entry).items() if key not in ("name", "renamed")}
    with atomic_path(path) as beside:
        save_file(weights, beside, metadata={_METADATA_KEY: json.dumps(described, sort_keys=True)})
