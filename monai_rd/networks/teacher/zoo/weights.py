"""Loading published weights into a network: keys are translated, all tensors must fit, wrong files are recognised."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monai_rd.finite import refuse_not_finite
from monai_rd.networks.teacher.zoo.entry import TeacherEntry
from monai_rd.networks.teacher.zoo.networks import build
from monai_rd.networks.weights_file import GET_AGAIN, compare_shapes, shapes_of

__all__ = ["CONVERTERS", "Coverage", "load_strictly"]


@dataclass(frozen=True)
class Coverage:
    """Which of a file's tensors were loaded.

    Args:
        loaded: number of loaded tensors; all tensors of the network.
        ignored: number of tensors that were left out, by what they belong to.
    """

    loaded: int
    ignored: Mapping[str, int]

    def __str__(self) -> str:
        left = ", ".join(f"{count} of the {what}" for what, count in self.ignored.items())
        return f"{self.loaded} of {self.loaded} tensors" + (f"; left out by rule: {left}" if left else "")


Converted = tuple[dict[str, Any], Counter[str]]  # the weights, and how many were left out, by what they belong to


def _huggingface_vit(weights: dict[str, Any]) -> Converted:
    """Join `attn.q`, `attn.k`, `attn.v` to timm's `attn.qkv`; add the batch axis to position embeddings `[N, C]`.

    Incomplete triples are left unchanged, so that the strict loader reports them.
    """
    joined = dict(weights)
    for key in weights:
        if ".attn.q." in key:
            three = [key.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
            parts = [weights[name] for name in three if isinstance(weights.get(name), Tensor)]
            if len(parts) == 3 and len({part.shape for part in parts}) == 1:
                joined[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
                for name in three:
                    del joined[name]
    positions = joined.get("pos_embed")
    if isinstance(positions, Tensor) and positions.dim() == 2:
        joined["pos_embed"] = positions[None]
    return joined, Counter()


def _dinov3(weights: dict[str, Any]) -> Converted:
    """As `_huggingface_vit`; leave out what has no effect in Meta's DINOv3 files.

    These are the biases of queries, keys and values, which are all zero, and the periods of the position embedding,
    which timm computes. Other biases or periods stay, so that the strict loader reports them.
    """
    joined, left_out = _huggingface_vit(weights)
    for key in [key for key in joined if re.search(r"\.attn\.(qkv|q|v)\.bias$", key)]:
        if isinstance(joined[key], Tensor) and not joined[key].any():
            del joined[key]
            left_out["biases that are zero"] += 1
    periods = joined.get(_PERIODS)
    if isinstance(periods, Tensor) and periods.dim() == 1:
        computed = 100 ** (torch.arange(len(periods)) / len(periods))
        if torch.allclose(periods.float(), computed, rtol=0.01, atol=0):  # they may be rounded to bfloat16
            del joined[_PERIODS]
            left_out["position embedding, which is computed"] += 1
    return joined, left_out


def _deflated(weights: dict[str, Any]) -> Converted:
    """Sum kernels of volumes over their first axis, in float32: what they compute of a volume of equal slices."""
    flat = {
        key: value.float().sum(dim=2) if isinstance(value, Tensor) and value.dim() == 5 else value
        for key, value in weights.items()
    }
    return flat, Counter()


_PERIODS = "rope_embed.periods"
CONVERTERS: dict[str, Callable[[dict[str, Any]], Converted]] = {
    "deflated": _deflated,
    "dinov3": _dinov3,
    "huggingface_vit": _huggingface_vit,
}


def _renamed(key: str, entry: TeacherEntry) -> str:
    for pattern, replacement in entry.renamed.items():
        key = re.sub(pattern, replacement, key)
    return key


def _translated(weights: Mapping[str, Any], entry: TeacherEntry) -> tuple[dict[str, Any], dict[str, str], Counter[str]]:
    """Translate published keys to the network's keys.

    Returns:
        The weights by the network's keys; the published key of each; and the numbers of ignored tensors by what they
        belong to.

    Raises:
        ValueError: two tensors would get the same key.
    """
    given: dict[str, Any] = {}
    published: dict[str, str] = {}
    ignored: Counter[str] = Counter()
    for key, value in weights.items():
        what = next((what for pattern, what in entry.ignored.items() if re.match(pattern, key)), None)
        if what is not None:
            ignored[what] += 1
            continue
        name = _renamed(key, entry)
        if name in given:
            raise ValueError(f"{published[name]} and {key} would both become {name} of {entry.name}")
        given[name], published[name] = value, key
    if entry.converter:
        given, left_out = CONVERTERS[entry.converter](given)
        ignored += left_out
    return given, published, ignored


_layouts: dict[str, dict[str, Any]] = {}  # shapes of the networks that were built to recognise a file


def _layout(entry: TeacherEntry) -> dict[str, Any]:
    described = repr((entry.builder, entry.arguments))
    if described not in _layouts:
        _layouts[described] = shapes_of(build(entry.builder, entry.arguments).state_dict())
    return _layouts[described]


def _similar_entries(weights: Mapping[str, Any]) -> list[str]:
    """Names of the entries that share most tensors (by key and shape) with a file; empty if all share at most half."""
    from monai_rd.networks.teacher.zoo.entries import TEACHERS

    best: list[str] = []
    most = 0.5
    for entry in TEACHERS.values():
        if _known_wrong_file(weights, entry):
            continue
        try:
            given, wanted = shapes_of(_translated(weights, entry)[0]), _layout(entry)
        except ValueError:  # two tensors with the same key, or the installed library does not have this network
            continue
        share = sum(given.get(key) == shape for key, shape in wanted.items()) / max(len(wanted), len(given))
        if share > most:
            best, most = [entry.name], share
        elif best and share == most:
            best.append(entry.name)
    return best


def load_strictly(network: nn.Module, weights: Mapping[str, Any], entry: TeacherEntry, origin: str) -> Coverage:
    """Load all tensors of a network, converted to its own precision, or none and raise.

    Args:
        network: made by `entry.builder`; filled in place.
        weights: by their published keys.
        entry: the teacher's entry.
        origin: where the weights come from, for the error message.

    Returns:
        Which tensors were loaded and ignored.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen; the message has their numbers and first names, and
            what the file looks like.
        NotFiniteError: weights are infinite or not a number.
    """
    given, published, ignored = _translated(weights, entry)
    wanted, shapes = shapes_of(network.state_dict()), shapes_of(given)
    fitting, wrong = compare_shapes(wanted, shapes, published)
    lookalike = _known_wrong_file(weights, entry)
    if not (wrong or lookalike):
        refuse_not_finite({published.get(key, key): given[key] for key in wanted}, origin, GET_AGAIN)
        own = {key: given[key].to(tensor.dtype) for key, tensor in network.state_dict().items()}
        network.load_state_dict(own, assign=True)
        return Coverage(len(wanted), dict(ignored))
    verdict = "does not fit" if wrong else "is another file than that of"
    message = f"{origin} {verdict} {entry.name}: {fitting} of {len(wanted)} tensors fit{wrong}"
    others = [name for name in _similar_entries(weights) if name != entry.name] if fitting < len(wanted) / 2 else []
    if lookalike:
        message += f". It is {lookalike}"
    elif others:
        message += f". Its tensors are those of {' or '.join(others)}: --teacher {others[0]}"
    if entry.file:
        message += f". Wanted is {entry.file} of {entry.source}"
    raise ValueError(message)


def _known_wrong_file(weights: Mapping[str, Any], entry: TeacherEntry) -> str:
    """The description of a wrong file that an entry knows (`TeacherEntry.lookalikes`); "" if it is not such a file."""
    return next((what for key, what in entry.lookalikes.items() if any(re.match(key, k) for k in weights)), "")
