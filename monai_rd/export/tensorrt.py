"""The student compiled by Torch-TensorRT; the file works only on the kind of NVIDIA GPU it was compiled on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from monai_rd.export.manifest import manifest
from monai_rd.export.program import Classify, exported_program

if TYPE_CHECKING:
    from monai_rd.inference import TrainedBundle

__all__ = ["load_tensorrt", "write_tensorrt"]

STUDIES, SLICES, WINDOWS = 8, 64, 8  # largest batch, for which memory is reserved


def write_tensorrt(trained: TrainedBundle, path: Path) -> None:
    """Write a torch.export file whose layers are a TensorRT engine, in float32.

    Raises:
        ValueError: there is no CUDA device, or torch-tensorrt is not installed.
    """
    torch_tensorrt = _needed()
    shape = trained.image_shape
    slices = (1, SLICES if trained.network.spatial_dims == 2 else WINDOWS)
    least, most = ((studies, first, *shape[1:]) for studies, first in zip((1, STUDIES), slices, strict=True))
    sizes = torch_tensorrt.Input(
        min_shape=least, opt_shape=(1, *shape), max_shape=most, dtype=torch.float32, name="image"
    )
    compiled = torch_tensorrt.dynamo.compile(exported_program(trained, "cuda"), arg_inputs=[sizes], disable_tf32=True)
    described = {"manifest.json": json.dumps(manifest(trained))}
    torch_tensorrt.save(compiled, str(path), arg_inputs=[sizes], extra_files=described)


def load_tensorrt(trained: TrainedBundle, path: Path, threads: int) -> Classify:
    """Return a function from an image to probabilities that runs such a file on the GPU.

    Raises:
        ValueError: there is no CUDA device, or torch-tensorrt is not installed.
    """
    _needed()  # registers the operators in the file
    run = torch.export.load(path).module()
    return lambda image: run(image.cuda()).cpu()


def _needed() -> Any:
    if not torch.cuda.is_available():
        raise ValueError("TensorRT needs an NVIDIA GPU, and makes a file for GPUs of its kind: export there")
    try:
        import torch_tensorrt
    except ImportError as error:
        raise ValueError(f"TensorRT needs the package '{error.name}': pip install torch-tensorrt") from error
    return torch_tensorrt
