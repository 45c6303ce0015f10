"""The deployed student as a file for other runtimes: TorchScript, ONNX in float32 and int8, torch.export, TensorRT.

ONNX and torch.export hold the student with its last step, so that they give calibrated `probabilities [B, classes]`
of `image`: bags of slices `[B, S, 3, H, W]`, B and S free (a single image is a bag of one), or volumes
`[B, 1, D, H, W]`, B free. TorchScript gives logits, as MONAI Deploy expects, whose postprocessing in the inference.json
inside makes probabilities of them. No file holds a teacher, a path or a name.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from monai_rd.deploy.manifest import manifest, network_metadata
from monai_rd.losses import class_probabilities

if TYPE_CHECKING:
    from monai_rd.deploy.trained import TrainedBundle

__all__ = ["FORMATS", "Format", "Probabilities", "export_formats"]

Run = Callable[[Tensor], Tensor]
OPSET = 20
CALIBRATION = 128  # validation images at most, for int8


class Probabilities(nn.Module):
    """A student with its last step: image to calibrated probabilities `[B, classes]`.

    Args:
        student: gives logits, calibrated.
        multi_label: sigmoid and not softmax.
    """

    def __init__(self, student: nn.Module, multi_label: bool = False) -> None:
        super().__init__()
        self.student, self.multi_label = student, multi_label

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities of `image`, see `Student.features`."""
        return class_probabilities(self.student(image), self.multi_label)


def taken_for(probabilities: Tensor, multi_label: bool) -> Tensor:
    """Labels: the most probable class `[B]`; of multi-label students each class from 0.5 on `[B, classes]`."""
    return probabilities >= 0.5 if multi_label else probabilities.argmax(dim=1)


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
    load: Callable[[TrainedBundle, Path, int], Run]
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
        with quietly():
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


def example(trained: TrainedBundle) -> Tensor:
    """An input of two studies of three slices, or of two volumes: sizes of 1 would be taken for fixed.

    Zeros, as torch.export keeps it in the file: one model makes one file.
    """
    shape = trained.image_shape
    return torch.zeros(2, 3, *shape[1:]) if trained.network.spatial_dims == 2 else torch.zeros(2, *shape)


def exported_program(trained: TrainedBundle, device: str = "cpu") -> torch.export.ExportedProgram:
    """The student with its last step as PyTorch's own graph, with free numbers of studies and slices.

    Args:
        trained: the bundle.
        device: where it computes; the bundle's own network stays where it is.
    """
    free = torch.export.Dim.DYNAMIC
    shapes = {"image": {0: free, 1: free} if trained.network.spatial_dims == 2 else {0: free}}
    network = copy.deepcopy(Probabilities(trained.network, trained.multi_label)).eval().to(device)
    with torch.no_grad():
        return torch.export.export(network, (example(trained).to(device),), dynamic_shapes=shapes)


def _write_torchscript(trained: TrainedBundle, path: Path) -> None:
    from monai.data import save_net_with_metadata

    scripted, stream = torch.jit.script(trained.network), io.BytesIO()
    extra = {"inference.json": trained.inference_json(), "manifest.json": _of_logits(manifest(trained))}
    files = {name: json.dumps(content).encode() for name, content in extra.items()}
    metadata = network_metadata(trained)
    save_net_with_metadata(scripted, stream, include_config_vals=False, meta_values=metadata, more_extra_files=files)
    # Without what only debuggers read, which names the folders of this machine; the first folder is the file's name.
    # And one model makes one file: no times, no number of this export, constants by their names and not by chance.
    with zipfile.ZipFile(stream) as made, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for entry in made.infolist():
            if not entry.filename.endswith((".debug_pkl", "serialization_id")):
                named = zipfile.ZipInfo(f"{path.stem}/{entry.filename.partition('/')[2]}")
                content = made.read(entry)
                file.writestr(named, _CONSTANTS.sub(_sorted, content) if named.filename.endswith(".py") else content)


_CONSTANTS = re.compile(rb"(?m)(?:^ +\w+ : Final\[.*\n)+")


def _sorted(lines: re.Match[bytes]) -> bytes:
    return b"".join(sorted(lines[0].splitlines(keepends=True)))


def _of_logits(described: dict[str, Any]) -> dict[str, Any]:
    """What is different where the last step is not inside."""
    output = described["output"]
    activation = f"{output['activation'].partition(',')[0]}, to be applied"
    return {**described, "output": {**output, "name": "logits", "activation": activation}}


def _load_torchscript(trained: TrainedBundle, path: Path, threads: int) -> Run:
    network = torch.jit.load(str(path)).eval()
    return lambda image: class_probabilities(network(image), trained.multi_label)


def _write_torch_export(trained: TrainedBundle, path: Path) -> None:
    program = exported_program(trained)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names the folders of this machine
    torch.export.save(program, path, extra_files={"manifest.json": json.dumps(manifest(trained))})


def _load_torch_export(trained: TrainedBundle, path: Path, threads: int) -> Run:
    run: Run = torch.export.load(path).module()
    return run


@lru_cache(maxsize=1)  # int8 is made of it
def _onnx_model(trained: TrainedBundle) -> bytes:
    onnx = _needed("onnx", "onnxscript")[0]
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


def _write_onnx(trained: TrainedBundle, path: Path) -> None:
    path.write_bytes(_onnx_model(trained))
    _describe_onnx(path, manifest(trained))


def _describe_onnx(path: Path, described: dict[str, Any]) -> None:
    """Put a manifest into an ONNX file's metadata: each key of it, its value as JSON."""
    import onnx

    model = onnx.load(path)
    model.ClearField("metadata_props")
    for key, value in described.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(model, path)


def open_onnx(path: Path, threads: int = 0) -> Run:
    """What turns an image into probabilities by an ONNX file on the CPU; 0 threads: one a core."""
    onnxruntime = _needed("onnxruntime")[0]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    # Where several take turns, its threads must not wait actively: the others need the cores.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _load_onnx(trained: TrainedBundle, path: Path, threads: int) -> Run:
    return open_onnx(path, threads)


def _write_int8(trained: TrainedBundle, path: Path) -> None:
    from monai_rd.deploy.int8 import quantise

    _needed("onnx", "onnxruntime", "onnxscript")
    if trained.of_other_data:
        raise ValueError("int8 is calibrated on validation images of the training's data: give -- --dataset_dir DIR")
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "float32.onnx"
        whole.write_bytes(_onnx_model(trained))
        images = list(trained.images("validation", most=CALIBRATION))
        how = quantise(whole, path, images)
    _describe_onnx(path, {**manifest(trained), "int8": how})


def _needed(*packages: str) -> list[Any]:
    """Import packages of the extra "onnx".

    Raises:
        ValueError: one is not installed.
    """
    import importlib

    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        raise ValueError(f"ONNX needs the package '{error.name}': pip install 'monai_rd[onnx]'") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Exporters warn of their own future, and tell what they do, at length."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _write_tensorrt(trained: TrainedBundle, path: Path) -> None:
    from monai_rd.deploy.tensorrt import write_tensorrt

    write_tensorrt(trained, path)


def _load_tensorrt(trained: TrainedBundle, path: Path, threads: int) -> Run:
    from monai_rd.deploy.tensorrt import load_tensorrt

    return load_tensorrt(trained, path, threads)


FORMATS = {
    "torchscript": Format("model.ts", _write_torchscript, _load_torchscript),
    "onnx": Format("model.onnx", _write_onnx, _load_onnx),
    "onnx-int8": Format("model_int8.onnx", _write_int8, _load_onnx, exact=False),
    "torch.export": Format("model.pt2", _write_torch_export, _load_torch_export),
    "tensorrt": Format("model_tensorrt.pt2", _write_tensorrt, _load_tensorrt),
}
