"""Weights from files: read without running code, and loaded all or not at all."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from monai_rd.files import existing_file
from monai_rd.finite import refuse_not_finite

__all__ = ["GET_AGAIN", "compare_shapes", "load_strictly", "read_weights", "shapes_of"]

GET_AGAIN = "its training has diverged, or the file is damaged; get it again"
_WRAPPERS = ("state_dict", "model", "net", "teacher")
_COUNTER = "num_batches_tracked"  # BatchNorm's; older files lack it and nothing is computed from it


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a state dict of tensors; wrappers and DDP's prefix are taken off. No code of the file is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, needs code, or holds no state dict.
    """
    path = existing_file(path)
    _refuse_text(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged, or no safetensors file ({error}); get it again") from error
    try:
        # MAE's training script keeps its options in the checkpoint: a record of plain values, which runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        raise ValueError(
            f"{path}: refused. It needs more than plain weights ({reason.splitlines()[0].strip()}), and such a pickle "
            "can run any code. Ask its owner for a safetensors file or a plain state dict"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = f"{type(error).__name__} {str(error).partition('. ')[0]}".strip()
        raise ValueError(f"{path}: damaged, or no PyTorch checkpoint ({reason}); get it again") from error
    for wrapper in _WRAPPERS:
        if isinstance(weights, dict) and isinstance(weights.get(wrapper), dict):
            weights = weights[wrapper]
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise ValueError(f"{path}: holds no state dict but a {type(weights).__name__}")
    if weights and all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    return weights


def _refuse_text(path: Path) -> None:
    """Refuse what a failed download leaves under the name of a file of weights.

    Raises:
        ValueError: the file begins as a text.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    if head and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        what = "a text or web page, and no weights: get it again"
        if head.startswith(b"version https://git-lfs"):
            what = "a pointer of Git LFS, and no weights: fetch what it points to (git lfs pull)"
        raise ValueError(f"{path}: {what}")


def shapes_of(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Shape of each tensor by its key; of what is no tensor the name of its type."""
    return {key: list(v.shape) if isinstance(v, Tensor) else type(v).__name__ for key, v in weights.items()}


def compare_shapes(
    wanted: Mapping[str, Any], given: Mapping[str, Any], published: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Compare the shapes of a network's tensors with those that are given.

    Args:
        wanted: of the network.
        given: of a file, under the network's names.
        published: names that tensors of the file have in the file, where they are others.

    Returns:
        How many fit, and the number of missing, unexpected and misshapen tensors with the first of each by name: "" if
        there are none.
    """
    problems = {
        "missing": [key for key in wanted if key not in given],
        "unexpected": [(published or {}).get(key, key) for key in given if key not in wanted],
        "misshapen": [
            f"{key} {given[key]} instead of {shape}"
            for key, shape in wanted.items()
            if key in given and given[key] != shape
        ],
    }
    wrong = "".join(
        f"; {len(keys)} {what}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for what, keys in problems.items()
        if keys
    )
    return sum(key in given and given[key] == shape for key, shape in wanted.items()), wrong


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
        NotFiniteError: weights that are infinite or not a number.
    """
    given = {key: value for key, value in weights.items() if key not in ignored}
    wanted = shapes_of(network.state_dict())
    needed = {key: shape for key, shape in wanted.items() if key in given or not key.endswith(_COUNTER)}
    fitting, wrong = compare_shapes(needed, shapes_of(given))
    if wrong:
        raise ValueError(f"{origin} does not fit {name}: {fitting} of {len(wanted)} tensors fit{wrong}")
    refuse_not_finite(given, origin, GET_AGAIN)
    network.load_state_dict(given)
