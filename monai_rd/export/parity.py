"""Comparison of exported students with PyTorch on real images: probabilities, labels and speed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.table import Table
from torch import Tensor

from monai_rd.export.formats import FORMATS
from monai_rd.export.program import Classify, Probabilities, predicted_labels, quiet_exporters
from monai_rd.files import size_in_words
from monai_rd.inference import TrainedBundle

__all__ = ["TOLERANCE", "Parity", "parity", "parity_table"]

TOLERANCE = 1e-4  # difference of a probability, for the formats in float32
IMAGES = 256  # compared at most
ROUNDS = 15


@dataclass(frozen=True)
class Parity:
    """Result of the comparison for one format.

    Args:
        difference: largest difference of a probability from PyTorch's.
        agreement: share of images (multi-label: of pairs of image and class) with the same label.
        images: number of images.
        seconds: median latency of one study in seconds, measured in turns with the other formats.
        size: file size in bytes; 0 for PyTorch itself.
    """

    difference: float
    agreement: float
    images: int
    seconds: float
    size: int


def parity(trained: TrainedBundle, files: Mapping[str, Path], images: Iterable[Tensor]) -> dict[str, Parity]:
    """Compare exported files with PyTorch.

    Args:
        trained: the bundle.
        files: exported files by format.
        images: images as the network takes them, in batches of one; the first is used for the latency.

    Returns:
        The result for each format; the first is "PyTorch".
    """
    threads = torch.get_num_threads()
    runs: dict[str, Classify] = {"PyTorch": Probabilities(trained.network, trained.multi_label).eval()}
    with quiet_exporters():
        runs |= {name: FORMATS[name].load(trained, path, threads) for name, path in files.items()}
    answers: dict[str, list[Tensor]] = {name: [] for name in runs}
    first: Tensor | None = None
    with torch.inference_mode():
        for image in images:
            first = image if first is None else first
            for name, run in runs.items():
                answers[name].append(run(image))
        assert first is not None, "no image"
        seconds = latencies(runs, first)
    expected = torch.cat(answers["PyTorch"])

    def label(probabilities: Tensor) -> Tensor:
        return predicted_labels(probabilities, trained.multi_label)

    return {
        name: Parity(
            difference=float((found - expected).abs().max()),
            agreement=float((label(found) == label(expected)).float().mean()),
            images=len(expected),
            seconds=median(seconds[name]),
            size=_size(files[name]) if name in files else 0,
        )
        for name, found in ((name, torch.cat(one)) for name, one in answers.items())
    }


def _size(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    return sum(one.stat().st_size for one in (path, *path.rglob("*")) if one.is_file())


def latencies(runs: Mapping[str, Classify], image: Tensor, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Measure the seconds per round for each format; all take turns, after a warm-up round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run(image)
            if number:
                taken[name].append(time.perf_counter() - began)
    return taken


def parity_table(found: Mapping[str, Parity], title: str) -> Table:
    """Return the results as a table for the console."""
    table = Table(title=title, title_justify="left")
    for column in ("format", "size", "largest difference", "same label", "ms a study (median)"):
        table.add_column(column, justify="left" if column == "format" else "right")
    for name, one in found.items():
        same = (f"{one.difference:.1e}", f"{one.agreement:.1%}") if one.size else ("", "")
        size = size_in_words(one.size) if one.size else ""
        table.add_row(name, size, *same, f"{1000 * one.seconds:.3g}")
    return table
