"""The deployed student as a file for other runtimes: TorchScript, ONNX in float32 and int8, torch.export, TensorRT.

ONNX and torch.export hold the student with its last step, so that they give calibrated `probabilities [B, classes]`
of `image`: bags of slices `[B, S, 3, H, W]`, B and S free (a single image is a bag of one), or volumes
`[B, 1, D, H, W]`, B free. TorchScript gives logits, as MONAI Deploy expects, whose postprocessing in the inference.json
inside makes probabilities of them. No file holds a teacher, a path or a name.
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

if TYPE_CHECKING:
    from monai_rd.inference import TrainedBundle

__all__ = ["FORMATS", "Format", "check_formats", "export_formats"]


@dataclass(frozen=True)
class Format:
    """A format.

    Args:
        file: name of its file.
        write: makes the file of a bundle.
        load: gives what turns an image into probabilities by the file, with so many threads (of PyTorch's forms those
            are PyTorch's own).
        exact: computes as PyTorch does, up to rounding.
    """

    file: str
    write: Callable[[TrainedBundle, Path], None]
    load: Callable[[TrainedBundle, Path, int], Classify]
    exact: bool = True


def export_formats(trained: TrainedBundle, formats: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write a bundle's student in some formats; gives the files by format.

    Raises:
        ValueError: an unknown format; for int8, no validation images of the training's data; or a package
            is missing that the format needs.
    """
    check_formats(formats)
    files = {name: folder / FORMATS[name].file for name in formats}
    for name, path in files.items():
        with quiet_exporters():
            FORMATS[name].write(trained, path)
    return files


def check_formats(formats: Sequence[str]) -> None:
    """Refuse unknown formats.

    Raises:
        ValueError: one is unknown, or none was given.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"unknown format '{', '.join(unknown)}'; there are {', '.join(FORMATS)}")


FORMATS = {
    "torchscript": Format("model.ts", write_torchscript, load_torchscript),
    "onnx": Format("model.onnx", write_onnx, load_onnx),
    "onnx-int8": Format("model_int8.onnx", write_int8, load_onnx, exact=False),
    "torch.export": Format("model.pt2", write_torch_export, load_torch_export),
    "tensorrt": Format("model_tensorrt.pt2", write_tensorrt, load_tensorrt),
}
