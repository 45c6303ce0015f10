"""ONNX in float32, written by PyTorch's exporter and run by ONNX Runtime."""

from __future__ import annotations

import importlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from monai_rd.export.manifest import manifest
from monai_rd.export.program import Classify, exported_program

if TYPE_CHECKING:
    from monai_rd.inference import TrainedBundle

__all__ = ["describe_onnx", "load_onnx", "needed", "onnx_model", "open_onnx", "write_onnx"]

OPSET = 20


@lru_cache(maxsize=1)  # the int8 export uses it again
def onnx_model(trained: TrainedBundle) -> bytes:
    """Return the student with its last step as an ONNX file (bytes) without metadata."""
    onnx = needed("onnx", "onnxscript")[0]
    program = torch.onnx.export(
        exported_program(trained),
        input_names=["image"],
        output_names=["probabilities"],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")  # stack traces, which name the folders of this machine
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        for name, dimension in zip(("batch", "slices"), value.type.tensor_type.shape.dim, strict=False):
            if dimension.dim_param:
                dimension.dim_param = name
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_onnx(trained: TrainedBundle, path: Path) -> None:
    """Write the student as ONNX in float32."""
    path.write_bytes(onnx_model(trained))
    describe_onnx(path, manifest(trained))


def describe_onnx(path: Path, described: dict[str, Any]) -> None:
    """Write a manifest to an ONNX file's metadata: one entry per key, with its value as JSON."""
    import onnx

    model = onnx.load(path)
    model.ClearField("metadata_props")
    for key, value in described.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(model, path)


def open_onnx(path: Path, threads: int = 0) -> Classify:
    """Return a function from an image to probabilities that runs an ONNX file on the CPU.

    Args:
        path: the ONNX file.
        threads: number of threads; 0 for one per core.
    """
    onnxruntime = needed("onnxruntime")[0]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    # If several runtimes take turns, idle threads must not spin: the others need the cores.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def load_onnx(trained: TrainedBundle, path: Path, threads: int) -> Classify:
    """Call `open_onnx`, with the signature of `Format.load`."""
    return open_onnx(path, threads)


def needed(*packages: str) -> list[Any]:
    """Import packages of the extra "onnx".

    Raises:
        ValueError: a package is not installed.
    """
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        raise ValueError(f"ONNX needs the package '{error.name}': pip install 'monai_rd[onnx]'") from error
