"""TorchScript: the student up to its logits, with the files that MONAI Deploy and MONAI Label need inside."""

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
    # Without debug files, which contain folder names of this machine; the first folder is the file's name. The same
    # model always gives the same file: no times, no serialization id, and constants sorted by name.
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
    """Change the manifest's output to logits, as the last step is not included."""
    output = described["output"]
    activation = f"{output['activation'].partition(',')[0]}, to be applied"
    return {**described, "output": {**output, "name": "logits", "activation": activation}}


def load_torchscript(trained: TrainedBundle, path: Path, threads: int) -> Classify:
    """Return a function from an image to probabilities that runs such a file; PyTorch sets the number of threads."""
    network = torch.jit.load(str(path)).eval()
    return lambda image: class_probabilities(network(image), trained.multi_label)
