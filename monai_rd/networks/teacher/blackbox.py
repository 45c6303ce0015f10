"""Teachers in ONNX and TFLite files: inference only, because RD needs a teacher's features but not its gradients."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from monai_rd.files import existing_file
from monai_rd.networks.levels import Level, depth_at
from monai_rd.networks.teacher.graph import Node, choose_tensor, is_channels_last, maps_by_stride

__all__ = ["OnnxBackbone", "TFLiteBackbone"]

logger = logging.getLogger(__name__)

_DEFAULT_SIDE = 224  # pixels, for a file with a dynamic number of rows or columns
_DTYPES = ("float32", "float16", "uint8", "int8")


def _input_layout(
    path: Path, shape: Sequence[int | None], size: tuple[int, int] | None
) -> tuple[bool, int, tuple[int, int]]:
    """From an input's shape (None: dynamic) return whether it is NHWC, its channels, and its rows and columns."""
    if len(shape) == 4:
        for axis, spatial in ((1, shape[2:4]), (3, shape[1:3])):
            channels = shape[axis]
            if channels in (1, 3):
                rows, columns = (own or told for own, told in zip(spatial, size or (_DEFAULT_SIDE,) * 2, strict=True))
                if size is not None and (rows, columns) != size:
                    raise ValueError(f"{path.name} fixes the size of its images, {rows} x {columns}; asked was {size}")
                if size is None and None in spatial:
                    logger.info("%s leaves the image's size open: %d x %d is assumed", path, rows, columns)
                return axis == 3, channels, (rows, columns)
    raise ValueError(f"{path}: its input {list(shape)} is no image batch [B, C, H, W] or [B, H, W, C] with C = 1 or 3")


def _sha256(files: Sequence[Path], *words: str) -> str:
    digest = hashlib.sha256("\n".join(words).encode())
    for file in files:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


class _BlackBox(ABC):
    """Common base of the two formats: converts images to the network's input, and the tapped tensor to features.

    Attributes:
        image_channels: 3 or 1.
        size: rows and columns of the input, in pixels.
        integer: whether the input has integer pixel values; images are then given in [0, 1] without normalisation.
        kind: "map" or "vector", the kind of the features.
        channels: C of the features.
        tensor: name of the tapped tensor, from which the features are read.
    """

    kind: Literal["map", "vector"]
    channels_last: bool  # the format's default layout of maps is NHWC

    def __init__(self, path: Path, shape: Sequence[int | None], dtype: np.dtype, size: tuple[int, int] | None) -> None:
        if dtype.name not in _DTYPES:
            raise ValueError(f"{path}: its input is {dtype.name}; it must be one of {', '.join(_DTYPES)}")
        self.path = path
        self.dtype = dtype
        self.integer = dtype.kind in "iu"
        self.input_channels_last, self.image_channels, self.size = _input_layout(path, shape, size)
        self.batch = shape[0]  # None: any batch size
        self.tensor = ""
        self.pool = False

    def _input_shape(self, batch: int) -> list[int]:
        rows, columns = self.size
        channels = self.image_channels
        return [batch, rows, columns, channels] if self.input_channels_last else [batch, channels, rows, columns]

    def _choose(self, nodes: Sequence[Node], image: str, shapes: Mapping[str, Sequence[int]], tap: str) -> None:
        """Choose the tensor to read, and find the maps before it."""
        self.tensor, self.pool = choose_tensor(self.path, nodes, image, shapes, tap, self.channels_last)
        self._maps = maps_by_stride(nodes, image, shapes, self.tensor, self.size, self.channels_last)

    @abstractmethod
    def _run(self, array: np.ndarray, tensors: Sequence[str]) -> list[np.ndarray]:
        """Run one batch and return some tensors in the network's layout, dequantised if the file has the scales."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the file and of which features are read from it."""

    def _probe(self) -> None:
        """Run a black image to find the kind and the channels of the features."""
        features = self(torch.zeros(1, self.image_channels, *self.size))
        if features.dim() not in (2, 4) or len(features) != 1:
            raise ValueError(
                f"{self.path}: '{self.tensor}' has shape {list(features.shape)} for one image; "
                "a teacher's features are maps [B, C, h, w] or vectors [B, C]"
            )
        self.kind = "map" if features.dim() == 4 else "vector"
        self.channels = features.shape[1]
        pooled = ", averaged over its positions" if self.pool else ""
        tensor = self.tensor.split(";")[0]  # TFLite joins the names of all operations it fused
        logger.info("%s: features are '%s'%s, %s of %d", self.path.name, tensor, pooled, self.kind, self.channels)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The last feature map of each stride, up to the tapped tensor; see `maps_by_stride`."""
        noise = torch.rand(1, self.image_channels, *self.size, generator=torch.Generator().manual_seed(0))
        if not self.integer:
            noise = 4 * noise - 2  # about the range of a normalised image
        maps = self._tensors(noise, [self.tensor, *(name for name, _ in self._maps.values())])[1:]
        signed = [bool((seen < 0).any()) for seen in maps]
        return tuple(
            Level(name, channels, stride, depth_at(stride, max(self._maps)), negative)
            for (stride, (name, channels)), negative in zip(self._maps.items(), signed, strict=True)
        )

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the features of images, in float32 on the image's device.

        Args:
            image: `[B, C, H, W]` with the input's C, H, W; in [0, 1] if `integer`, else already normalised.

        Returns:
            Maps `[B, C, h, w]` or vectors `[B, C]`.
        """
        return self.read(image, ())[0]

    def read(self, image: Tensor, levels: Sequence[Level]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features (see `__call__`) and the maps `[B, C, h, w]` of some of `levels`, from the same pass."""
        features, *maps = self._tensors(image, [self.tensor, *(level.module for level in levels)])
        if features.dim() == 4 and (self.pool or features.shape[2:] == (1, 1)):
            features = features.mean(dim=(2, 3))
        return features, tuple(maps)

    def _tensors(self, image: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Run the network and return some of its tensors, maps as `[B, C, h, w]`."""
        pixels = image.detach().float()
        if self.integer:
            pixels = (pixels * 255).round_().clamp_(0, 255)
            pixels = pixels.to(torch.uint8) if self.dtype == np.uint8 else pixels.sub_(128).to(torch.int8)
        if self.input_channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        array = np.ascontiguousarray(pixels.cpu().numpy(), dtype=self.dtype)
        step = self.batch or len(array)
        wanted = list(dict.fromkeys(names))
        outputs: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
        for start in range(0, len(array), step):
            part = array[start : start + step]
            filled = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
            for name, values in zip(wanted, self._run(filled, wanted), strict=True):
                outputs[name].append(values[: len(part)])
        found = {name: self._to_torch(name, np.concatenate(parts)) for name, parts in outputs.items()}
        return [found[name].to(image.device) for name in names]

    def _to_torch(self, name: str, values: np.ndarray) -> Tensor:
        if values.dtype.kind != "f":
            raise ValueError(f"{self.path}: '{name}' holds {values.dtype}; name its dequantised form with tap=NAME")
        values = values.astype(np.float32)
        if values.ndim == 4 and is_channels_last(values.shape, self.channels_last):
            values = values.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(values))


class OnnxBackbone(_BlackBox):
    """A network in an ONNX file, run by onnxruntime on CUDA if its build supports it, else on the CPU.

    Args:
        path: the `.onnx` file. External weight files are found in its folder.
        tap: the tensor to read: "map" for the last 4-D activation with more than one position; "vector" for the output
            of the pooling after it (its mean over positions if the graph has no pooling); or the name of a tensor.
        size: rows and columns of the images in pixels, if they are dynamic in the file.

    Raises:
        FileNotFoundError: no such file.
        ImportError: onnx or onnxruntime is not installed.
        ValueError: the file is not an ONNX file, its input is not an image batch of this size, or it has no such
            tensor.
    """

    channels_last = False

    def __init__(self, path: str | Path, tap: str = "map", size: tuple[int, int] | None = None) -> None:
        path = existing_file(path)
        try:
            import onnx
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"teacher '{path}': ONNX files need onnx and onnxruntime: pip install onnx onnxruntime"
            ) from error
        try:
            model = onnx.load(str(path), load_external_data=False)
        except Exception as error:  # protobuf's own DecodeError is not public
            raise ValueError(f"{path}: not an ONNX file, or damaged ({error})") from error
        graph = model.graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        if len(inputs) != 1:
            raise ValueError(f"{path}: a teacher has one input, the image; this network has {len(inputs)}")
        image = inputs[0].type.tensor_type
        shape = [dim.dim_value or None for dim in image.shape.dim]
        super().__init__(path, shape, onnx.helper.tensor_dtype_to_np_dtype(image.elem_type), size)
        beside = {e.value for tensor in graph.initializer for e in tensor.external_data if e.key == "location"}
        self.files = [path, *(path.parent / location for location in sorted(beside))]
        self._input = inputs[0].name
        nodes = [Node(node.op_type, list(node.input), list(node.output)) for node in graph.node]
        # Static shape inference fails on computed reshapes, so all activations are computed once to get their shapes.
        names = [name for node in nodes for name in node.outputs if name]
        batch = self.batch or 1
        seen = self._open(model, names).run(names, {self._input: np.zeros(self._input_shape(batch), self.dtype)})
        shapes = {
            name: [1, *value.shape[1:]]
            for name, value in zip(names, seen, strict=True)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape[:1] == (batch,)
        }
        self._choose(nodes, self._input, shapes, tap)
        self._outputs = [self.tensor]
        self._session = self._open(model, self._outputs)
        self._probe()

    def _open(self, model: Any, outputs: list[str]) -> Any:
        """Open a session whose outputs are these tensors."""
        import onnx
        import onnxruntime

        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        del tapped.graph.output[:]
        tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.path.parent))
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        try:
            return onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=providers)
        except Exception as error:  # onnxruntime's errors share no public base class
            raise ValueError(f"{self.path}: onnxruntime cannot run it ({error})") from error

    def _run(self, array: np.ndarray, tensors: Sequence[str]) -> list[np.ndarray]:
        if more := [name for name in tensors if name not in self._outputs]:
            import onnx

            self._outputs += more
            self._session = self._open(onnx.load(str(self.path), load_external_data=False), self._outputs)
        return self._session.run(tensors, {self._input: array})

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the file, of its external weight files and of which features are read from it."""
        return _sha256(self.files, self.tensor, str(self.pool))


class TFLiteBackbone(_BlackBox):
    """A network in a TFLite file, quantised or not, run by LiteRT on the CPU.

    Images are run one at a time unless the file fixes a larger batch size. For an 8-bit MobileNetV2 this was as fast as
    a resized batch on one core and faster on two, and most files do not support resizing.

    Args:
        path: the `.tflite` file.
        tap: see `OnnxBackbone`.
        size: see `OnnxBackbone`.

    Raises:
        FileNotFoundError: no such file.
        ImportError: ai_edge_litert is not installed.
        ValueError: the file is not a TFLite file, its input is not an image batch of this size, or it has no such
            tensor.
    """

    channels_last = True

    def __init__(self, path: str | Path, tap: str = "map", size: tuple[int, int] | None = None) -> None:
        path = existing_file(path)
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ImportError(
                f"teacher '{path}': TFLite files need ai_edge_litert: pip install ai-edge-litert"
            ) from error
        try:
            with warnings.catch_warnings():
                # LiteRT warns that keeping all tensors costs memory, but inner tensors can only be read this way.
                warnings.simplefilter("ignore", UserWarning)
                self._interpreter = Interpreter(
                    str(path), num_threads=min(4, os.cpu_count() or 1), experimental_preserve_all_tensors=True
                )
            inputs = self._interpreter.get_input_details()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: not a TFLite file, or damaged ({error})") from error
        if len(inputs) != 1:
            raise ValueError(f"{path}: a teacher has one input, the image; this network has {len(inputs)}")
        signature = [int(length) if length > 0 else None for length in inputs[0]["shape_signature"]]
        super().__init__(path, signature, np.dtype(inputs[0]["dtype"]), size)
        self.batch = self.batch or 1
        self._input = inputs[0]["index"]
        self._interpreter.resize_tensor_input(self._input, self._input_shape(self.batch))
        self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._input, np.zeros(self._input_shape(self.batch), self.dtype))
        self._interpreter.invoke()  # dynamic shapes are known only after a run
        details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}
        times = Counter(detail["name"] for detail in details.values())
        names = {i: d["name"] if times[d["name"]] == 1 else f"{d['name']}:{i}" for i, d in details.items()}
        self._choose(
            [
                Node(
                    node["op_name"],
                    [names[index] for index in node["inputs"] if index in names],
                    [names[index] for index in node["outputs"] if index in names],
                )
                for node in self._interpreter._get_ops_details()
                if node["op_name"] != "DELEGATE"  # repeats the nodes that an accelerator runs
            ],
            names[self._input],
            {
                names[index]: [1, *map(int, detail["shape"][1:])]
                for index, detail in details.items()
                if list(detail["shape"][:1]) == [self.batch]
            },
            tap,
        )
        self._details: dict[str, Mapping[str, Any]] = {names[index]: detail for index, detail in details.items()}
        self._probe()

    def _run(self, array: np.ndarray, tensors: Sequence[str]) -> list[np.ndarray]:
        self._interpreter.set_tensor(self._input, array)
        self._interpreter.invoke()
        return [self._value(self._details[name]) for name in tensors]

    def _value(self, detail: Mapping[str, Any]) -> np.ndarray:
        values = self._interpreter.get_tensor(detail["index"])
        scale, zero_point = detail["quantization"]
        return (values.astype(np.float32) - zero_point) * scale if scale else values

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the file and of which features are read from it."""
        return _sha256([self.path], self.tensor, str(self.pool))
