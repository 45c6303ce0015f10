"""Weights from files: read without running code, and loaded all or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from monai_rd.files import existing_file

__all__ = ["load_strictly", "read_weights"]

_COUNTER = "num_batches_tracked"  # BatchNorm's; older files lack it and nothing is computed from it


def read_weights(path: Path) -> dict[str, Any]:
    """Read a state dict; what wraps it ("state_dict", "model") and DDP's prefix are taken off.

    Args:
        path: `.safetensors`, or any other suffix for what `torch.save` wrote. No code of the file is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or it holds more than tensors.
    """
    path = existing_file(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged, or no safetensors file ({error}); get it again") from error
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused, as it is no plain state dict, and such a file can run any code. Ask its owner for a "
            "safetensors file"
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


def _shapes(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(v.shape) if isinstance(v, Tensor) else type(v).__name__ for key, v in weights.items()}


def load_strictly(
    network: nn.Module, weights: Mapping[str, Any], name: str, origin: str, ignored: Collection[str] = ()
) -> None:
    """Load every tensor of a network or none.

    Args:
        network: filled in place.
        weights: under the network's own keys.
        name: of the network, for the error.
        origin: where the weights come from, for the error.
        ignored: keys that the weights may hold beside the network's, as those of a head.

    Raises:
        ValueError: with the number of missing, unexpected and misshapen tensors and the first of each by name.
    """
    given = {key: value for key, value in weights.items() if key not in ignored}
    wanted, shapes = _shapes(network.state_dict()), _shapes(given)
    fitting = sum(shapes.get(key) == shape for key, shape in wanted.items())
    problems = {
        "missing": [key for key in wanted if key not in given and not key.endswith(_COUNTER)],
        "unexpected": [key for key in given if key not in wanted],
        "misshapen": [
            f"{key} {shapes[key]} instead of {shape}"
            for key, shape in wanted.items()
            if key in given and shapes[key] != shape
        ],
    }
    if any(problems.values()):
        message = f"{origin} does not fit {name}: {fitting} of {len(wanted)} tensors fit"
        for what, keys in problems.items():
            if keys:
                message += f"; {len(keys)} {what}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        raise ValueError(message)
    network.load_state_dict(given)
