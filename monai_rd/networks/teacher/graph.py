"""Finding the feature map to read, and the maps before it, in the graph of an ONNX or TFLite network."""

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
    """One operation of the graph, with the names of its input and output tensors."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]


def is_channels_last(shape: Sequence[int], default: bool) -> bool:
    """Whether a 4-D activation is NHWC: two equal adjacent sides are rows and columns; else the format's default."""
    first, last = shape[2] == shape[3], shape[1] == shape[2]
    return default if first == last else last


def _is_map(shape: Sequence[int], channels_last: bool) -> bool:
    """Whether an activation is 4-D, with batch size 1 and more than one position."""
    if len(shape) != 4 or shape[0] != 1:
        return False
    rows, columns = shape[1:3] if is_channels_last(shape, channels_last) else shape[2:4]
    return rows * columns > 1


def _producers(nodes: Sequence[Node], image: str) -> dict[str, Node]:
    """The node that outputs each activation; tensors that do not depend on the image (weights) are left out."""
    producer: dict[str, Node] = {}
    for node in nodes:
        if image in node.inputs or any(name in producer for name in node.inputs):
            producer.update(dict.fromkeys(node.outputs, node))
    return producer


def _source(tensor: str, producer: Mapping[str, Node], passed: Sequence[str]) -> Node:
    """The node that outputs a tensor; nodes with an operator in `passed` are skipped towards the input."""
    source = producer[tensor]
    while source.operator in passed and source.inputs[0] in producer:
        source = producer[source.inputs[0]]
    return source


def choose_tensor(
    path: Path, nodes: Sequence[Node], image: str, shapes: Mapping[str, Sequence[int]], tap: str, channels_last: bool
) -> tuple[str, bool]:
    """Choose the tensor to read.

    Args:
        path: the file, for errors.
        nodes: the graph in the order of execution.
        image: name of the input.
        shapes: shapes of the activations for one image, where known.
        tap: "map", "vector" or the name of a tensor; see `OnnxBackbone`.
        channels_last: whether the format's default layout of maps is NHWC.

    Returns:
        The tensor's name, and whether its mean over positions is to be taken.

    Raises:
        ValueError: the graph has no such tensor, or its last map is part of an attention layer.
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
    """Find the last feature map of each stride, up to the tensor that is read.

    It is the last one in the order of execution; in a block that first expands the channels and then downsamples, this
    is the expanded map. The image, padded maps and activations of attention layers do not count. If the last 4-D
    activation belongs to an attention layer, there are no maps.

    Args:
        nodes: the graph in the order of execution.
        image: name of the input.
        shapes: shapes of the activations for one image, where known.
        tensor: name of the tensor that is read.
        size: rows and columns of the input, in pixels.
        channels_last: whether the format's default layout of maps is NHWC.

    Returns:
        For each stride (a power of two) the name of the map and its channels, in the order of execution.
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
