"""Reading weights from files safely (no code is run) and loading them strictly (all tensors or none)."""

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
_WRAPPERS = ("state_dict", "model", "net", "teacher", "network_weights")
_COUNTER = "num_batches_tracked"  # of BatchNorm: missing in older files, and not needed for inference


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a state dict from a .safetensors file or a PyTorch checkpoint, without running code from the file.

    Nesting under a key such as "state_dict" or "model" and DDP's prefix "module." are removed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, would need code to be run, or holds no state dict.
    """
    path = existing_file(path)
    _refuse_text(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged, or no safetensors file ({error}); get it again") from error
    try:
        # MAE's training script stores its options in the checkpoint as a Namespace of plain values, which is safe.
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
    """Refuse a text file, such as the web page or Git LFS pointer that a failed download leaves.

    Raises:
        ValueError: the file begins with text.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    if head and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        what = "a text or web page, and no weights: get it again"
        if head.startswith(b"version https://git-lfs"):
            what = "a pointer of Git LFS, and no weights: fetch what it points to (git lfs pull)"
        raise ValueError(f"{path}: {what}")


def shapes_of(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shape of each tensor by its key; for other values the name of their type."""
    return {key: list(v.shape) if isinstance(v, Tensor) else type(v).__name__ for key, v in weights.items()}


def compare_shapes(
    wanted: Mapping[str, Any], given: Mapping[str, Any], published: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Compare the shapes of a network's tensors with those of a file.

    Args:
        wanted: shapes of the network, by key.
        given: shapes of the file, by the network's keys.
        published: the file's own key of each tensor, where it differs from the network's.

    Returns:
        How many tensors fit; and a text with the numbers and first names of the missing, unexpected and misshapen
        ones, "" if there are none.
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
    """Load all tensors of a network, or none and raise.

    Args:
        network: filled in place.
        weights: by the network's keys.
        name: the network's name, for the error message.
        origin: where the weights come from, for the error message.
        ignored: keys of `weights` that are allowed but not loaded, such as those of a head.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen; the message has their numbers and first names.
        NotFiniteError: weights are infinite or not a number.
    """
    given = {key: value for key, value in weights.items() if key not in ignored}
    wanted = shapes_of(network.state_dict())
    needed = {key: shape for key, shape in wanted.items() if key in given or not key.endswith(_COUNTER)}
    fitting, wrong = compare_shapes(needed, shapes_of(given))
    if wrong:
        raise ValueError(f"{origin} does not fit {name}: {fitting} of {len(wanted)} tensors fit{wrong}")
    refuse_not_finite(given, origin, GET_AGAIN)
    network.load_state_dict(given)
