"""Saving and loading fitted teachers: the file has the adapter's tensors and the head, without the frozen teacher."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from monai_rd.adapters.base import AdaptedTeacher
from monai_rd.adapters.registry import build_adapter
from monai_rd.files import atomic_path, existing_file
from monai_rd.finite import refuse_not_finite
from monai_rd.networks.weights_file import compare_shapes, shapes_of

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["load_adapted", "read_description", "save_adapted"]

_KEY = "monai_rd_adapter"
_DESCRIBED = {"base", "fingerprint", "adapter", "options", "num_classes", "run"}


def save_adapted(path: str | Path, network: AdaptedTeacher, base: FrozenFoundationModel, run: str = "") -> None:
    """Save the tensors that the training changed; the file is written completely or not at all.

    Args:
        path: a `.safetensors` file.
        network: the fitted teacher.
        base: the frozen teacher that it was built from.
        run: identifier of the training, to recognise the file later.
    """
    tensors = {f"backbone.{name}": tensor for name, tensor in network.adapter_state().items()}
    tensors |= {f"head.{name}": tensor for name, tensor in network.folded_head().state_dict().items()}
    described = {
        "base": base.name,
        "fingerprint": base.fingerprint(),
        "adapter": network.adapter.name,
        "options": network.options,
        "num_classes": network.num_classes,
        "run": run,
    }
    with atomic_path(Path(path)) as beside:
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            beside,
            metadata={_KEY: json.dumps(described, sort_keys=True)},
        )


def read_description(path: str | Path) -> dict[str, Any]:
    """Read the description in a file of `save_adapted`: base, fingerprint, adapter, options, num_classes, run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or was not written by `save_adapted`.
    """
    try:
        with safe_open(existing_file(path), "pt") as file:
            described = json.loads((file.metadata() or {}).get(_KEY, "null"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: damaged, or no safetensors file ({error})") from error
    if not isinstance(described, dict) or described.keys() != _DESCRIBED:
        raise ValueError(f"{path}: not a teacher that was fitted to a task by monai_rd.adapters")
    return described


@torch.no_grad()
def load_adapted(path: str | Path, base: FrozenFoundationModel) -> FrozenFoundationModel:
    """Load a fitted teacher, frozen, with its head, on the device of its base.

    Args:
        path: a file written by `save_adapted` or `tuned_teacher`.
        base: the frozen teacher that it was built from.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is of another kind, or belongs to another base.
    """
    described = read_description(path)
    if described["fingerprint"] != base.fingerprint():
        raise ValueError(
            f"{path} was made of the teacher '{described['base']}' with other weights or preprocessing than those of "
            f"'{base.name}' given here: load the teacher that it was made of"
        )
    network = build_adapter(described["adapter"], base, described["num_classes"], **described["options"])
    tensors = load_file(path)
    head = network.folded_head()
    wanted = {f"backbone.{name}": tensor for name, tensor in network.adapter_state().items()}
    wanted |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    _, wrong = compare_shapes(shapes_of(wanted), shapes_of(tensors))
    if wrong:
        raise ValueError(f"{path} does not fit the adapter '{described['adapter']}'{wrong}")
    refuse_not_finite(tensors, str(path), "its tuning has diverged, or the file is damaged; remove it and tune again")
    for name, tensor in wanted.items():  # the tensors of a state dict are those of the module
        tensor.copy_(tensors[name])
    return _beside(network.frozen(head), base)


def _beside(teacher: FrozenFoundationModel, base: FrozenFoundationModel) -> FrozenFoundationModel:
    """Move a fitted teacher to the device of its base."""
    if isinstance(base.backbone, nn.Module):
        like = next(chain(base.backbone.parameters(), base.backbone.buffers()), None)
        return teacher if like is None else teacher.to(like.device)
    return teacher
