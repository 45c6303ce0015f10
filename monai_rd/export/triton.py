"""A model repository for NVIDIA's Triton Inference Server, which runs the ONNX file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_rd.export.manifest import manifest
from monai_rd.export.onnx_file import open_onnx, write_onnx
from monai_rd.export.program import Classify
from monai_rd.text import printable

if TYPE_CHECKING:
    from monai_rd.inference import TrainedBundle

__all__ = ["load_triton", "write_triton"]

_STUDIES = 8  # in a batch at most
_CONFIGURATION = """\
# What to do with an image before it is sent, and what the answer means: manifest.json.
name: "{name}"
backend: "onnxruntime"
max_batch_size: {studies}
input [
  {{
    name: "{input}"
    data_type: TYPE_FP32
    dims: [ {input_dims} ]
  }}
]
output [
  {{
    name: "{output}"
    data_type: TYPE_FP32
    dims: [ {output_dims} ]
    label_filename: "labels.txt"
  }}
]
dynamic_batching {{ }}
instance_group [
  {{
    count: 1
    kind: KIND_AUTO
  }}
]
"""


def write_triton(trained: TrainedBundle, path: Path) -> None:
    """Write a model repository: a folder `path` with a folder of the model.

    It has `config.pbtxt`, the names of the classes in `labels.txt`, the manifest as `manifest.json`, and the student as
    `1/model.onnx`. Studies of the same number of slices are put together in batches of 8 at most.
    """
    described = manifest(trained)
    model = _model(trained, path)
    (model / "1").mkdir(parents=True)
    write_onnx(trained, model / "1" / "model.onnx")
    given, answer = described["input"], described["output"]
    configuration = _CONFIGURATION.format(
        name=model.name,
        studies=_STUDIES,
        input=given["name"],
        input_dims=_dims(given["shape"]),
        output=answer["name"],
        output_dims=_dims(answer["shape"]),
    )
    labels = "".join(f"{printable(name)}\n" for name in answer["class_names"])
    texts = {"config.pbtxt": configuration, "labels.txt": labels, "manifest.json": json.dumps(described, indent=1)}
    for name, text in texts.items():
        (model / name).write_text(text, encoding="utf-8", newline="")


def load_triton(trained: TrainedBundle, path: Path, threads: int) -> Classify:
    """Return a function from an image to probabilities that runs the repository's ONNX file."""
    return open_onnx(_model(trained, path) / "1" / "model.onnx", threads)


def _model(trained: TrainedBundle, path: Path) -> Path:
    return path / re.sub("[^a-z0-9]+", "_", trained.metadata["name"].lower()).strip("_")


def _dims(shape: list[Any]) -> str:
    """Return a shape without its first axis, the batch, as Triton writes it."""
    return ", ".join("-1" if isinstance(length, str) else str(length) for length in shape[1:])
