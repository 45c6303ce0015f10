"""TorchScript: the student's logits, with what MONAI Deploy and MONAI Label need to know inside."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from monai_rd.export.manifest import manifest, network_metadata
from monai_rd.export.program import Classify
from monai_rd.losses import class_probabilities

if TYPE_CHECKING:
    from monai_rd.inference import TrainedBundle

__all__ = ["load_torchscript", "write_torchscript"]


def write_torchscript(trained: TrainedBundle, path: Path) -> None:
    """Write the student as TorchScript."""
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


def load_torchscript(trained: TrainedBundle, path: Path, threads: int) -> Classify:
    """What turns an image into probabilities by such a file; the number of threads is PyTorch's own."""
    network = torch.jit.load(str(path)).eval()
    return lambda image: class_probabilities(network(image), trained.multi_label)
