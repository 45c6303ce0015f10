"""torch.export: the student with its last step as PyTorch's own graph, which no Python code is needed for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from monai_rd.export.manifest import manifest
from monai_rd.export.program import Classify, exported_program

if TYPE_CHECKING:
    from monai_rd.inference import TrainedBundle

__all__ = ["load_torch_export", "write_torch_export"]


def write_torch_export(trained: TrainedBundle, path: Path) -> None:
    """Write the student as a torch.export file."""
    program = exported_program(trained)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names the folders of this machine
    torch.export.save(program, path, extra_files={"manifest.json": json.dumps(manifest(trained))})


def load_torch_export(trained: TrainedBundle, path: Path, threads: int) -> Classify:
    """What turns an image into probabilities by such a file; the number of threads is PyTorch's own."""
    program = torch.export.load(path).module()
    return lambda image: program(image)
