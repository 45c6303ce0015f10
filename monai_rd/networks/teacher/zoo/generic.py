"""Teachers by their timm or open_clip name, or from a folder; the library's own description becomes the entry."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from monai_rd.networks.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from monai_rd.networks.teacher.zoo.entry import Hub, TeacherEntry
from monai_rd.networks.teacher.zoo.hub import fetch
from monai_rd.networks.teacher.zoo.networks import build, reach

__all__ = ["FORMS", "generic_entry"]

logger = logging.getLogger(__name__)

FORMS = ("timm:NAME", "timm:hf-hub:ORG/NAME", "open_clip:NAME", "open_clip:hf-hub:ORG/NAME", "local-dir:FOLDER")

_UNKNOWN = "not stated: ask where the checkpoint comes from"
_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TEXT = {
    r"(text|text_decoder|transformer|token_embedding|ln_final)\.": "text tower",
    r"(positional_embedding|text_projection|logit_scale|logit_bias|attn_mask)": "text tower",
}


def generic_entry(name: str, arguments: Mapping[str, Any]) -> tuple[TeacherEntry, Path | None]:
    """Make the entry of a teacher with a generic name (one of `FORMS`).

    Args:
        name: the teacher's name.
        arguments: arguments of the network, which override those of its description.

    Returns:
        The entry, and for a folder the path of the weights in it (else None).

    Raises:
        OSError: the folder has no description or weights, or the description could not be downloaded.
        ValueError: an unknown name, an unreadable description, or a network without a feature map.
    """
    library, _, rest = name.partition(":")
    hub, folder = rest.removeprefix("hf-hub:"), None
    if library == "local-dir":
        folder = Path(rest)
        if (folder / "open_clip_config.json").is_file():
            entry = _open_clip_entry(name, _config(folder / "open_clip_config.json"), arguments)
            weights = _OPEN_CLIP_FILES
        elif (folder / "config.json").is_file():
            entry = _timm_folder_entry(name, _config(folder / "config.json"), arguments)
            weights = _TIMM_FILES
        else:
            raise FileNotFoundError(f"{folder}: neither config.json (timm) nor open_clip_config.json lies there")
        found = next((folder / file for file in (*weights, *_TIMM_FILES) if (folder / file).is_file()), None)
        if found is None:
            raise FileNotFoundError(f"{folder}: no weights lie there; looked for {', '.join(weights)}")
        return replace(entry, name=f"{library}:{folder.name}", source=folder.name), found
    if library == "timm" and hub == rest:
        return _timm_entry(name, rest, arguments), None
    if library == "open_clip" and hub == rest:
        import open_clip

        if rest not in open_clip.list_models():
            raise ValueError(
                f"open_clip {open_clip.__version__} has no model '{rest}'; see open_clip.list_models(). "
                "What is on the Hub is called open_clip:hf-hub:ORG/NAME"
            )
        logger.info("%s: the name does not say how it wants its images; CLIP's mean and std are assumed", name)
        return _open_clip_entry(name, {"model_cfg": open_clip.get_model_config(rest)}, arguments), None
    if hub.count("/") != 1:
        raise ValueError(f"'{name}': a model of the Hub is called hf-hub:ORG/NAME")
    config = _config(fetch(Hub(hub, "config.json" if library == "timm" else "open_clip_config.json"), name))
    describe, files = (_timm_folder_entry, _TIMM_FILES) if library == "timm" else (_open_clip_entry, _OPEN_CLIP_FILES)
    entry = describe(name, config, arguments)
    return replace(
        entry, source=f"https://huggingface.co/{hub}", hub=Hub(hub, files[0], alternatives=files[1:]), file=files[0]
    ), None


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"a {type(config).__name__}, not an object")
    except ValueError as error:
        raise ValueError(f"{path}: no description of a network ({error})") from error
    return config


def _timm_entry(name: str, model: str, arguments: Mapping[str, Any]) -> TeacherEntry:
    """Make the entry of a timm network by its name; the weights are those of the name's tag."""
    import timm

    if not timm.is_model(model):
        raise ValueError(f"timm {timm.__version__} has no model '{model}'; see timm.list_models()")
    config = timm.get_pretrained_cfg(model)
    described = config.to_dict() if config is not None else {}
    hub = described.get("hf_hub_id")
    entry = _timm_network_entry(name, model, described, arguments)
    return replace(
        entry,
        source=f"https://huggingface.co/{hub}" if hub else _UNKNOWN,
        hub=Hub(hub, _TIMM_FILES[0], alternatives=_TIMM_FILES[1:]) if hub else None,
    )


def _timm_folder_entry(name: str, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> TeacherEntry:
    """Make the entry of a network that a timm `config.json` describes."""
    if "architecture" not in config:
        raise ValueError(f"'{name}': its config.json names no architecture of timm")
    described = config.get("pretrained_cfg", config)
    return _timm_network_entry(name, config["architecture"], described, {**config.get("model_args", {}), **arguments})


def _timm_network_entry(
    name: str, model: str, described: Mapping[str, Any], arguments: Mapping[str, Any]
) -> TeacherEntry:
    from timm.data import resolve_data_config

    wanted = {"num_classes": 0, **arguments}
    network = build(f"timm:{model}", wanted)
    config = resolve_data_config(pretrained_cfg=dict(described), model=network)
    preprocessing = Preprocessing(
        size=wanted.get("img_size") or tuple(config["input_size"][1:]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        channel_order="GRAY" if config["input_size"][0] == 1 else "RGB",
        interpolation="bicubic" if config["interpolation"] == "bicubic" else "bilinear",
    )
    heads = described.get("classifier") or ()
    licence = described.get("license") or _UNKNOWN
    return _with_measured_shape(
        TeacherEntry(
            name=name,
            builder=f"timm:{model}",
            arguments=wanted,
            preprocessing=preprocessing,
            channels=1,
            kind="map",
            licence=licence,
            source=_UNKNOWN,
            ignored={rf"{head}\.": "classifier" for head in ([heads] if isinstance(heads, str) else heads)},
            non_commercial="nc" in licence.lower().split("-"),
        ),
        network,
    )


def _open_clip_entry(name: str, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> TeacherEntry:
    """Make the entry of the image tower of a network that an `open_clip_config.json` describes."""
    model = config.get("model_cfg", config)
    if not isinstance(model.get("vision_cfg"), dict) or "embed_dim" not in model:
        raise ValueError(f"'{name}': its description has no image tower (model_cfg with embed_dim and vision_cfg)")
    images = config.get("preprocess_cfg", {})
    size = images.get("size") or model["vision_cfg"].get("image_size", 224)
    return _with_measured_shape(
        TeacherEntry(
            name=name,
            builder="open_clip:visual",
            arguments={key: model[key] for key in ("embed_dim", "vision_cfg", "quick_gelu") if key in model}
            | dict(arguments),
            preprocessing=Preprocessing(
                size=size if isinstance(size, int) else (size[0], size[1]),
                mean=tuple(images.get("mean", CLIP_MEAN)),
                std=tuple(images.get("std", CLIP_STD)),
                interpolation="bilinear" if images.get("interpolation") == "bilinear" else "bicubic",
            ),
            channels=1,
            kind="map",
            licence=_UNKNOWN,
            source=_UNKNOWN,
            renamed={r"^visual\.": ""},
            ignored=_TEXT,
        )
    )


def _with_measured_shape(entry: TeacherEntry, network: nn.Module | None = None) -> TeacherEntry:
    """Set an entry's channels and grid to those of its network's output; timm's `num_features` is wrong for some.

    Args:
        entry: its channels and grid are ignored.
        network: the network, if it is already built. It must not be used afterwards.
    """
    try:
        network = build(entry.builder, entry.arguments) if network is None else network
        channels, *grid = reach(network, entry.builder, entry.input_shape)
    except (AttributeError, RuntimeError, NotImplementedError, TypeError, AssertionError) as error:
        raise ValueError(f"'{entry.name}' has no feature map that can be read ({error})") from error
    return replace(entry, channels=channels, grid=tuple(grid))
