"""What the graph of a network in a file tells: which of its tensors is the feature map, and what maps lie before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Node", "choose_tensor", "is_channels_last", "maps_by_stride"]

_POOLING = ("GlobalAveragePool", "AveragePool", "ReduceMean", "AVERAGE_POOL_2D", "MEAN")
_ATTENTION = ("MatMul", "BATCH_MATMUL")
_REARRANGING = ("Transpose", "Reshape", "TRANSPOSE", "RESHAPE")
_ELEMENTWISE = ("Softmax", "Add", "Sub", "Mul", "Div", "SOFTMAX", "ADD", "SUB", "MUL", "DIV")
_PADDING = ("Pad", "PAD", "PADV2", "MIRROR_PAD")


class Node(NamedTuple):
    """One operation of the graph, and the names of the tensors that it takes and makes."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]


def is_channels_last(shape: Sequence[int], default: bool) -> bool:
    """Whether a 4-D activation is NHWC: two equal neighbours are rows and columns, else the format's default holds."""
    first, last = shape[2] == shape[3], shape[1] == shape[2]
    return default if first == last else last


def _is_map(shape: Sequence[int], channels_last: bool) -> bool:
    """Whether an activation is a batch of one of maps with more than one position."""
    if len(shape) != 4 or shape[0] != 1:
        return False
    rows, columns = shape[1:3] if is_channels_last(shape, channels_last) else shape[2:4]
    return rows * columns > 1


def _producers(nodes: Sequence[Node], image: str) -> dict[str, Node]:
    """The node that makes each tensor, of those that depend on the image: weights are no activations."""
    producer: dict[str, Node] = {}
    for node in nodes:
        if image in node.inputs or any(name in producer for name in node.inputs):
            producer.update(dict.fromkeys(node.outputs, node))
    return producer


def _source(tensor: str, producer: Mapping[str, Node], passed: Sequence[str]) -> Node:
    """The node that a tensor comes from, looking through operators that are passed over."""
    source = producer[tensor]
    while source.operator in passed and source.inputs[0] in producer:
        source = producer[source.inputs[0]]
    return source


def choose_tensor(
    path: Path, nodes: Sequence[Node], image: str, shapes: Mapping[str, Sequence[int]], tap: str, channels_last: bool
) -> tuple[str, bool]:
    """Find the tensor to read.

    Args:
        path: the file, for errors.
        nodes: the graph in the order of execution.
        image: name of the input.
        shapes: of the activations of one image, where known.
        tap: "map", "vector" or the name of a tensor.
        channels_last: how the format lays out its maps.

    Returns:
        The tensor's name, and whether it is a map whose mean is wanted.

    Raises:
        ValueError: the graph has no such tensor, or its last map is part of an attention.
    """
    producer = _producers(nodes, image)
    if tap not in ("map", "vector"):
        if tap not in producer:
            raise ValueError(
                f"{path}: no activation is named '{tap}'; the last ones are: {', '.join(list(producer)[-5:])}"
            )
        return tap, False
    maps = [name for name in producer if _is_map(shapes.get(name, ()), channels_last)]
    if not maps:
        raise ValueError(
            f"{path}: no activation is a map [B, C, h, w]; name the tensor to read with tap=NAME, "
            f"the last ones are: {', '.join(list(producer)[-5:])}"
        )
    if _source(maps[-1], producer, _REARRANGING).operator in _ATTENTION:
        raise ValueError(
            f"{path}: the last 4-D activation, '{maps[-1]}', belongs to an attention and is no feature map; "
            f"name the tensor to read with tap=NAME, the last ones are: {', '.join(list(producer)[-5:])}"
        )
    if tap == "map":
        return maps[-1], False
    shape = shapes[maps[-1]]
    channels = shape[3] if is_channels_last(shape, channels_last) else shape[1]
    for node in nodes:
        if node.operator in _POOLING and maps[-1] in node.inputs:
            pooled = shapes.get(node.outputs[0], ())
            if len(pooled) in (2, 4) and int(np.prod(pooled)) == channels:
                return node.outputs[0], False
    return maps[-1], True


def maps_by_stride(
    nodes: Sequence[Node],
    image: str,
    shapes: Mapping[str, Sequence[int]],
    tensor: str,
    size: tuple[int, int],
    channels_last: bool,
) -> dict[int, tuple[str, int]]:
    """Find the last map of each stride up to the tensor that is read.

    That map is whatever the graph computes last at this stride: where a block first expands its channels and then
    halves the map, it is the expansion. The image itself, padded maps and parts of an attention are none; a network
    whose last 4-D activation belongs to an attention has none at all.

    Args:
        nodes: the graph in the order of execution.
        image: name of the input.
        shapes: of the activations of one image, where known.
        tensor: that is read.
        size: rows and columns of the input.
        channels_last: how the format lays out its maps.

    Returns:
        The tensor's name and its channels for each stride, a power of two, in the order of execution.
    """
    producer = _producers(nodes, image)
    names = list(producer)
    maps = [name for name in names[: names.index(tensor) + 1] if _is_map(shapes.get(name, ()), channels_last)]

    def attends(name: str, passed: Sequence[str]) -> bool:
        source = _source(name, producer, passed)
        return source.operator in _ATTENTION and all(operand in producer for operand in source.inputs[:2])

    if not maps or attends(maps[-1], _REARRANGING):
        return {}
    found: dict[int, tuple[str, int]] = {}
    for name in maps:
        shape = shapes[name]
        last = is_channels_last(shape, channels_last)
        scales = [side / own for side, own in zip(size, shape[1:3] if last else shape[2:4], strict=True)]
        if producer[name].operator in _PADDING or attends(name, _REARRANGING + _ELEMENTWISE):
            continue
        stride = 2 ** round(math.log2(math.prod(scales)) / 2)
        if max(scales) < 1.5 * min(scales) and stride > 1:
            found[stride] = (name, shape[3] if last else shape[1])
    return found
