"""torch.export: the student with its last step as a PyTorch graph, which does not need the student's Python code."""

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
        node.meta.pop("stack_trace", None)  # it contains folder names of this machine
    torch.export.save(program, path, extra_files={"manifest.json": json.dumps(manifest(trained))})


def load_torch_export(trained: TrainedBundle, path: Path, threads: int) -> Classify:
    """Return a function from an image to probabilities that runs such a file; PyTorch sets the number of threads."""
    program = torch.export.load(path).module()
    return lambda image: program(image)
