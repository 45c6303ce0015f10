"""Export of the deployed student: TorchScript, ONNX in float32 and int8, torch.export, TensorRT, Triton.

All formats but TorchScript include the last step, so they return calibrated `probabilities` `[B, classes]` for `image`:
bags of slices `[B, S, 3, H, W]` with dynamic B and S (a single image is a bag of one), or volumes `[B, 1, D, H, W]`
with dynamic B. TorchScript returns logits, as MONAI Deploy expects; the postprocessing in its inference.json converts
them to probabilities. No file contains a teacher, a path or a person's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monai_rd.export.int8 import write_int8
from monai_rd.export.onnx_file import load_onnx, write_onnx
from monai_rd.export.program import Classify, quiet_exporters
from monai_rd.export.tensorrt import load_tensorrt, write_tensorrt
from monai_rd.export.torch_export_file import load_torch_export, write_torch_export
from monai_rd.export.torchscript_file import load_torchscript, write_torchscript
from monai_rd.export.triton import load_triton, write_triton

if TYPE_CHECKING:
    from monai_rd.inference import TrainedBundle

__all__ = ["FORMATS", "Format", "check_formats", "export_formats"]


@dataclass(frozen=True)
class Format:
    """An export format.

    Args:
        file: name of the file or folder.
        write: writes a bundle's student to the file.
        load: returns a function from an image to probabilities that uses the file with the given number of threads
            (PyTorch's formats use PyTorch's own number).
        exact: the results equal PyTorch's up to rounding.
    """

    file: str
    write: Callable[[TrainedBundle, Path], None]
    load: Callable[[TrainedBundle, Path, int], Classify]
    exact: bool = True


def export_formats(trained: TrainedBundle, formats: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write a bundle's student in several formats.

    Args:
        trained: the bundle with the trained student.
        formats: names of `FORMATS`.
        folder: folder for the files.

    Returns:
        The written files by format.

    Raises:
        ValueError: an unknown format; for int8, the validation images of the training are not available; or a package
            that the format needs is missing.
    """
    check_formats(formats)
    files = {name: folder / FORMATS[name].file for name in formats}
    for name, path in files.items():
        with quiet_exporters():
            FORMATS[name].write(trained, path)
    return files


def check_formats(formats: Sequence[str]) -> None:
    """Check the names of formats.

    Raises:
        ValueError: a format is unknown, or there is none.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"unknown format '{', '.join(unknown)}'; there are {', '.join(FORMATS)}")


FORMATS = {
    "torchscript": Format("model.ts", write_torchscript, load_torchscript),
    "onnx": Format("model.onnx", write_onnx, load_onnx),
    "onnx-int8": Format("model_int8.onnx", write_int8, load_onnx, exact=False),
    "torch.export": Format("model.pt2", write_torch_export, load_torch_export),
    "triton": Format("triton", write_triton, load_triton),
    "tensorrt": Format("model_tensorrt.pt2", write_tensorrt, load_tensorrt),
}
