"""Loading teachers by name or file, and saving a teacher as a self-describing file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from monai_rd.files import atomic_path, existing_file, sha256
from monai_rd.licences import Origin
from monai_rd.nearest import did_you_mean
from monai_rd.networks.levels import Level
from monai_rd.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, VolumePreprocessing
from monai_rd.networks.teacher.blackbox import OnnxBackbone, TFLiteBackbone
from monai_rd.networks.teacher.foundation import FrozenFoundationModel
from monai_rd.networks.teacher.several import join_teachers
from monai_rd.networks.teacher.zoo.entries import TEACHERS
from monai_rd.networks.teacher.zoo.entry import TeacherEntry
from monai_rd.networks.teacher.zoo.generic import FORMS, generic_entry
from monai_rd.networks.teacher.zoo.hub import fetch
from monai_rd.networks.teacher.zoo.networks import TeacherBackbone, build, named_level
from monai_rd.networks.teacher.zoo.options import preprocessing_with_options
from monai_rd.networks.teacher.zoo.origin import WHAT, origin_of
from monai_rd.networks.teacher.zoo.weights import Coverage, load_strictly
from monai_rd.networks.weights_file import read_weights

__all__ = [
    "check_teacher_name",
    "in_order",
    "is_black_box",
    "is_shipped",
    "load_teacher",
    "open_teacher",
    "save_teacher",
    "teacher_names",
]

logger = logging.getLogger(__name__)

Options = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None

_METADATA_KEY = "monai_rd_teacher"
_STORED = ("builder", "arguments", "preprocessing", "channels", "kind", "licence", "source")
_STORED_IF_STATED = ("spacing", "window", "terms", "non_commercial")
_SHIPPED = Path(__file__).parents[1] / "weights"
_BLACK_BOXES = {".onnx": OnnxBackbone, ".tflite": TFLiteBackbone}
_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".torch")
_PREFIXES = tuple(sorted({f"{form.partition(':')[0]}:" for form in FORMS}))
_KNOWN = f"{', '.join((*TEACHERS, *FORMS))}, or a file: .onnx, .tflite, or .safetensors written by save_teacher"


def is_shipped(name: str) -> bool:
    """Whether the package contains the weights of a teacher of `TEACHERS`."""
    return (_SHIPPED / f"{name}.safetensors").is_file()


def is_black_box(name: str) -> bool:
    """Whether a teacher's name is an ONNX or TFLite file, which contains the whole network."""
    return not name.startswith(_PREFIXES) and Path(name).suffix in _BLACK_BOXES


def described_entry(path: Path) -> TeacherEntry | None:
    """Read the description that `save_teacher` stored in a safetensors file; None if there is none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or an invalid description.
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
        of_volumes = "axcodes" in values["preprocessing"]
        values["preprocessing"] = (VolumePreprocessing if of_volumes else Preprocessing).from_dict(
            values["preprocessing"]
        )
        return TeacherEntry(name=path.stem, **values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its description under '{_METADATA_KEY}' cannot be read ({error!r})") from error


def _load_black_box(path: Path, tap: str, options: Mapping[str, Any]) -> FrozenFoundationModel:
    backbone = _BLACK_BOXES[path.suffix](path, tap, _size_option(path.name, options))
    grey = backbone.image_channels == 1
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if backbone.integer:
        mean, std = (0.0,) * backbone.image_channels, (1.0,) * backbone.image_channels
        if {"mean", "std"} & set(options):
            raise ValueError(
                f"teacher_options of '{path.name}': it takes {backbone.dtype} pixels as they are, no mean and std"
            )
    else:
        mean, std = ((0.449,), (0.226,)) if grey else (IMAGENET_MEAN, IMAGENET_STD)
    assumed = Preprocessing(backbone.size, mean, std, channel_order="GRAY" if grey else "RGB")
    preprocessing = preprocessing_with_options(path.name, assumed, options)
    logger.info(
        "%s does not say how it wants its images; %s: %s, %d x %d, %s (others: --teacher_options)",
        path.name,
        "assumed, but for what was told" if options else "assumed",
        preprocessing.channel_order,
        *backbone.size,
        f"{backbone.dtype} pixels"
        if backbone.integer
        else f"mean {preprocessing.mean} and std {preprocessing.std} of values in [0, 1]",
    )
    return FrozenFoundationModel(
        backbone,
        channels=backbone.channels,
        kind=backbone.kind,
        preprocessing=preprocessing,
        name=path.name,
        origins=(Origin(WHAT, path.name, source="a file of the user", sha256=sha256(path)),),
    )


def _size_option(name: str, options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns that the options ask of an ONNX or TFLite file; None if they do not."""
    if "size" not in options:
        return None
    size = preprocessing_with_options(name, Preprocessing(None, (0.0,), (1.0,), "GRAY"), {"size": options["size"]}).size
    if size is None:
        raise ValueError(f"teacher_options of '{name}': a size is needed, as such a file takes images of one size")
    return (size, size) if isinstance(size, int) else size


def _file_kind(name: str, checkpoint: str | Path | None) -> str:
    """Suffix of a teacher's name that is a file; "" for any other name.

    Raises:
        ValueError: the name is a file, and a checkpoint was given in addition.
    """
    suffix = Path(name).suffix
    if name.startswith(_PREFIXES) or suffix not in (*_BLACK_BOXES, *_WEIGHTS):
        return ""
    if checkpoint is not None:
        raise ValueError(f"the teacher '{name}' is a file of its own: leave out the checkpoint {checkpoint}")
    return suffix


def teacher_names(text: str) -> list[str]:
    """Split a text into the teachers' names at its commas; the path of an existing file or folder is one name."""
    if "," not in text or Path(text.removeprefix("local-dir:")).exists():
        return [text]
    return [name.strip() for name in text.split(",")]


def check_teacher_name(name: str) -> None:
    """Raise if `load_teacher` would not find a teacher, without loading anything.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: an unknown name.
    """
    for one in teacher_names(name):
        if _file_kind(one, None):
            existing_file(Path(one))
        elif one not in TEACHERS and not one.startswith(_PREFIXES):
            raise ValueError(f"unknown teacher '{one}'; known: {_KNOWN}{did_you_mean(one, TEACHERS)}")


def in_order(
    names: Sequence[str], checkpoint: str | Path | None, options: Options
) -> list[tuple[str, str | None, Mapping[str, Any] | None]]:
    """Return the name, checkpoint and options of each of several teachers.

    Args:
        names: names of the teachers.
        checkpoint: files in this order, separated by commas, such as "a.pth,,c.pth" if the second has none; or None.
        options: a list of dictionaries in the same order; or None.

    Raises:
        ValueError: the number of checkpoints or options is not that of the teachers.
    """
    files = [file.strip() or None for file in str(checkpoint).split(",")] if checkpoint else [None] * len(names)
    if len(files) != len(names):
        raise ValueError(
            f"teacher_checkpoint names {len(files)} files for {len(names)} teachers: give them in the same order, "
            'nothing between two commas for one without a file, such as "a.pth,,c.pth"'
        )
    tables = [None] * len(names) if options is None else options
    if isinstance(tables, Mapping) or len(tables) != len(names):
        raise ValueError(
            f"teacher_options for {len(names)} teachers are a list of as many tables in the same order, such as "
            f'"[{", ".join(["{}"] * len(names))}]"'
        )
    return list(zip(names, files, tables, strict=True))


def open_teacher(
    name: str,
    checkpoint: str | Path | None = None,
    tap: str = "map",
    arguments: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[FrozenFoundationModel, TeacherEntry, Coverage]:
    """`load_teacher` for all but ONNX and TFLite files; also returns the entry and which tensors were loaded."""
    is_weights = _file_kind(name, checkpoint) in _WEIGHTS
    arguments, options = dict(arguments or {}), dict(options or {})
    weights: Path | None = Path(checkpoint) if checkpoint is not None else None
    entry: TeacherEntry | None
    if is_weights:
        weights = Path(name)
        entry = described_entry(weights)
        if entry is None:
            raise ValueError(
                f"{name}: weights alone do not say the architecture; use --teacher NAME --teacher_checkpoint {name}. "
                f"Known names: {_KNOWN}"
            )
    elif name in TEACHERS:
        entry = TEACHERS[name]
        if weights is None and is_shipped(name):
            weights = _SHIPPED / f"{name}.safetensors"
            entry = described_entry(weights) or entry
    elif name.startswith(_PREFIXES):
        entry, beside = generic_entry(name, arguments)
        arguments, weights = {}, weights or beside
    else:
        raise ValueError(f"unknown teacher '{name}'; known: {_KNOWN}{did_you_mean(name, TEACHERS)}")
    entry = replace(
        entry,
        arguments={**entry.arguments, **arguments},
        preprocessing=preprocessing_with_options(entry.name, entry.preprocessing, options),
    )
    logger.info("teacher '%s': licence: %s; source: %s", entry.name, entry.conditions, entry.source)
    given = is_weights or checkpoint is not None
    if weights is None:
        if entry.hub is None:
            raise ValueError(
                f"the teacher '{name}' needs a checkpoint (--teacher_checkpoint FILE): a random teacher teaches "
                f"nothing. Get {entry.file or 'it'} by hand: {entry.source}"
            )
        weights = fetch(entry.hub, entry.name)
    tensors = read_weights(weights)
    network = _build(entry, of_another_size="size" in options)
    coverage = load_strictly(network, tensors, entry, str(weights))
    logger.info("teacher '%s', %s: %s", entry.name, weights.name, coverage)
    if entry.window is not None and entry.centre_and_width is not None:
        logger.info(
            "teacher '%s': in CT, 0 is %g HU and 1 is %g HU: --windows \"[[%g, %g]]\" (centre, width)",
            entry.name,
            *entry.window,
            *entry.centre_and_width,
        )
    kind: Literal["map", "vector"] = "vector" if tap == "vector" else entry.kind
    level: Level | None = None
    if tap not in ("map", "vector"):
        image = entry.preprocessing(_noise(entry, entry.input_shape[1:]))
        level, kind = named_level(network, entry, tap.removeprefix("network."), image), "map"
    teacher = FrozenFoundationModel(
        TeacherBackbone(network, entry.builder, kind, level),
        channels=entry.channels if level is None else level.channels,
        kind=kind,
        preprocessing=entry.preprocessing,
        name=entry.name,
        origins=(origin_of(name, entry, weights, given),),
    )
    if "size" in options:
        _try_size(teacher, entry)
    return teacher, entry, coverage


def _build(entry: TeacherEntry, of_another_size: bool) -> nn.Module:
    """Build an entry's network; with `of_another_size`, a timm ViT accepts images of other sizes than in training."""
    if of_another_size and entry.builder.startswith("timm:"):
        with suppress(ValueError):  # other families have no such argument
            return build(entry.builder, {**entry.arguments, "dynamic_img_size": True})
    return build(entry.builder, entry.arguments)


def _noise(entry: TeacherEntry, sides: Sequence[int]) -> Tensor:
    """A random image or volume in [0, 1], before the teacher's preprocessing."""
    channels = 3 if entry.preprocessing.spatial_dims == 2 else 1
    return torch.rand(1, channels, *sides, generator=torch.Generator().manual_seed(0))


def _try_size(teacher: FrozenFoundationModel, entry: TeacherEntry) -> None:
    """Run a teacher once on an image of the requested size; if any size was requested (None), on one of 160 pixels.

    Raises:
        ValueError: the teacher does not accept such images.
    """
    size = entry.preprocessing.size
    try:
        teacher(_noise(entry, (160,) * teacher.spatial_dims if size is None else entry.input_shape[1:]))
    except (AssertionError, RuntimeError, ValueError) as error:
        asked = "any size" if size is None else f"size {size}"
        raise ValueError(f"teacher_options of '{entry.name}': it does not take images of {asked} ({error})") from error


def load_teacher(
    name: str,
    checkpoint: str | Path | None = None,
    tap: str = "map",
    options: Options = None,
    **arguments: Any,
) -> FrozenFoundationModel:
    """Load a frozen teacher, or several teachers joined into one.

    Args:
        name: one of `TEACHERS`; "timm:NAME", "timm:hf-hub:ORG/NAME", "open_clip:NAME", "open_clip:hf-hub:ORG/NAME" or
            "local-dir:FOLDER" for any timm network or open_clip image tower; a `.onnx` or `.tflite` file with a whole
            network; or a `.safetensors` file that `save_teacher` wrote. Several teachers are separated by commas, and
            must be passed to `monai_rd.adapters.standardise` before use.
        checkpoint: local file with the weights. Default: the shipped weights, those in the folder, or a download. For
            several teachers, files in the same order, such as "a.pth,,c.pth".
        tap: "map" for the last feature map, "vector" for its mean over positions; or the name of a module whose output
            is a feature map, such as "layer3" (for an ONNX or TFLite file, the name of a tensor).
        options: changes to the teacher's preprocessing: fields of `Preprocessing` (`VolumePreprocessing` for a teacher
            of volumes) by name; may also contain `tap`. For several teachers, a list in the same order.
        **arguments: arguments of the network that override those of its entry, such as `final_relu=False` for
            radimagenet_densenet121.

    Raises:
        OSError: a file does not exist or could not be downloaded.
        ImportError: the package that runs ONNX or TFLite files is not installed.
        ValueError: an unknown name, tap, option or argument; no weights; weights that are damaged, unsafe, changed
            since their first download, or do not fit; teachers of images and of volumes together.
    """
    names = teacher_names(name)
    if len(names) > 1:
        if arguments:
            raise ValueError(f"several teachers take no arguments of one network: {', '.join(arguments)}")
        return join_teachers([load_teacher(*one[:2], tap, one[2]) for one in in_order(names, checkpoint, options)])
    if options is not None and not isinstance(options, Mapping):
        ((_, _, options),) = in_order(names, None, options)
    told = dict(options or {})
    tap = told.pop("tap", tap)
    if not isinstance(tap, str):
        raise ValueError(f"teacher_options of '{name}': tap must be 'map', 'vector' or a name, not {tap!r}")
    if _file_kind(name, checkpoint) in _BLACK_BOXES:
        if arguments:
            raise ValueError(f"the teacher '{name}' is a whole network: it takes no {', '.join(arguments)}")
        return _load_black_box(Path(name), tap, told)
    return open_teacher(name, checkpoint, tap, arguments, told)[0]


def save_teacher(path: str | Path, backbone: nn.Module, entry: TeacherEntry) -> None:
    """Write a teacher to a self-describing safetensors file, for `load_teacher(path)`.

    Weights are stored in half precision. The file is written atomically.

    Args:
        path: a `.safetensors` file.
        backbone: the network that `entry.builder` builds, or the `backbone` of a loaded teacher.
        entry: its description. The file stores what is needed for loading, the licence and the source.

    Raises:
        ValueError: another suffix, a network that is not the entry's, or weights beyond the range of half precision.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a teacher is saved as .safetensors")
    network = backbone.network if isinstance(backbone, TeacherBackbone) else backbone
    weights = {
        key: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous().clone()
        for key, tensor in network.state_dict().items()
    }
    for key, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {key} has values that half precision cannot hold")
    plain = replace(entry, renamed={}, ignored={}, converter="", lookalikes={}, file="")
    load_strictly(build(entry.builder, entry.arguments), weights, plain, f"{path} is not written: the backbone")
    stated = {key for key in _STORED_IF_STATED if getattr(entry, key) not in (None, "", False)}
    described = {key: value for key, value in asdict(entry).items() if key in {*_STORED, *stated}}
    described["preprocessing"] = entry.preprocessing.to_dict()
    with atomic_path(path) as beside:
        save_file(weights, beside, metadata={_METADATA_KEY: json.dumps(described, sort_keys=True)})
