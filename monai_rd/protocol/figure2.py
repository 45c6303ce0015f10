"""Figure 2: the decision boundaries of the students and the fully tuned teacher, and their agreement.

On the plane through three test images (Somepalli et al., arXiv 2203.08124) every network predicts a class at each
point; the agreement of two networks is the share of points with the same class. It is a number between 0 and 1 for each
training and each triple, so its mean has an interval over both, as the tables' measures have over seeds and images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from monai_rd.adapters import load_adapted
from monai_rd.bundle import bundle_config, parse_overrides
from monai_rd.networks import DeployedStudent, Reads
from monai_rd.protocol.experiments import TABLES, Column, Experiment
from monai_rd.protocol.runs import Run
from monai_rd.protocol.statistics import compare, estimate
from monai_rd.protocol.tables import Grid, Report, estimate_text, p_text
from monai_rd.report.decision_plane import Plane, decision_plane, plot_planes
from monai_rd.teacher_image import teacher_image
from monai_rd.transforms import Sizes

__all__ = ["at_size", "figure_report", "planes_of"]

_TUNED = next(row for row in TABLES["figure2"].rows if row.adapter == "full")
_TEACHER = "tuned teacher"


def planes_of(
    experiment: Experiment,
    column: Column,
    out: Path,
    triples: int,
    resolution: int,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[list[Plane]], list[str]]:
    """Compute the planes of a column's networks: the fully tuned teacher, and the student of each row.

    Args:
        experiment: the grid of "figure2", with all runs finished.
        column: the column.
        out: the benchmark's folder.
        triples: number of planes; each passes through three test images that are drawn with its number as the seed.
        resolution: points along a side of a plane.
        progress: called with a text before each step.

    Returns:
        The planes by seed and triple, and the class names.

    Raises:
        ValueError: fewer than three test images can be read.
    """
    any_run = experiment.runs[experiment.rows[0], column, 0]
    config = _config(any_run, column)
    names, device = list(config.get_parsed_content("data").class_names), config.get_parsed_content("device")
    base, sizes = config.get_parsed_content("teacher_def"), config.get_parsed_content("sizes")
    images = _triples(config.get_parsed_content("test#dataset"), triples)
    found = []
    for seed in range(experiment.seeds):
        networks = _networks(experiment, column, seed, out, len(names), base, sizes, device)
        planes = []
        for number, triple in enumerate(images, start=1):
            progress(f"{column.student}, seed {seed}, plane {number} of {triples}")
            planes.append(decision_plane(networks, triple.to(device), resolution=resolution))
        found.append(planes)
    return found, names


def figure_report(
    experiment: Experiment,
    out: Path,
    triples: int,
    resolution: int,
    command: str,
    made: Mapping[str, str],
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Compute the planes of all columns, draw at most three of seed 0 (PNG and SVG), and make the report.

    Args:
        experiment: the grid of "figure2", with all runs finished.
        out: the benchmark's folder, where the pictures are written.
        triples: number of planes for each training.
        resolution: points along a side of a plane.
        command: the command that the user typed.
        made: versions of the software.
        progress: called with a text before each step.
    """
    rows, differences, records, pictures, figures = [], [], [], [], []
    for column in experiment.columns:
        planes, names = planes_of(experiment, column, out, triples, resolution, progress)
        stem = out / f"figure2_{Path(column.teacher).stem}_{column.student}".replace(":", "_")
        png, svg = plot_planes(planes[0][:3], stem, names)
        pictures += [png.name, svg.name]
        told = f"{column.teacher_name}, {column.student}: decision boundaries of the networks of seed 0."
        figures.append((svg, told))
        agreements = {row.name: _agreements(planes, row.name) for row in experiment.rows}
        texts = [column.teacher_name, column.student]
        for name, values in agreements.items():
            one = estimate(values)
            texts.append(estimate_text("agreement", one))
            numbers = {key: value for key, value in one.as_dict().items() if key not in ("by_seed", "n")}
            place = {"teacher": column.teacher_name, "student": column.student, "method": name}
            records.append({**place, **numbers, "seeds": experiment.seeds, "planes": triples})
        rows.append(texts)
        for other in ("ce", _TUNED.name):
            difference = compare(agreements["rd"], agreements[other])
            texts = [column.teacher_name, column.student, f"rd - {other}"]
            differences.append([*texts, estimate_text("agreement", difference.estimate, "+"), p_text(difference.p)])
    notes = [
        "Agreement with the fully tuned teacher, % of a plane's points: mean ± standard deviation over seeds [95 % "
        "interval over seeds and planes].",
        f"n = {experiment.seeds} seed{'s' * (experiment.seeds > 1)}, {triples} planes of {resolution} x {resolution} "
        "points through three test images each, drawn by their number.",
        "ce: the student alone. kd_full: the student that learnt by KD from this very teacher. rd: RD with the "
        "teacher as it was published.",
        f"Data: {experiment.data}.",
        f"Command: `{command}`",
        f"Made with: {', '.join(f'{key} {value}' for key, value in made.items())}.",
        f"Pictures: {', '.join(pictures)}.",
    ]
    header = ["teacher", "student", *(row.name for row in experiment.rows)]
    grids = [
        Grid("Agreement with the fully tuned teacher, %", header, rows),
        Grid("Differences, paired", ["teacher", "student", "difference", "agreement, %", "p"], differences),
    ]
    content = {"figure": "figure2", "command": command, "made_with": dict(made), "agreement": records}
    return Report("figure2", "Figure 2: Decision boundaries", grids, notes, content, records, figures)


def _config(run: Run, column: Column) -> Any:
    overrides = {**parse_overrides(run.words), "student": column.student, "teacher": column.teacher}
    # Only the test images are needed: no unlabelled ones are searched for or drawn.
    return bundle_config(run.bundle, {**overrides, "dataset_dir": run.dataset_dir, "unlabelled": None})


def _triples(dataset: Any, count: int) -> list[Tensor]:
    """Three different test images `[3, ...]` for each number, each at the larger of the sizes of student and teacher.

    Images that cannot be read are skipped.
    """
    drawn = []
    for number in range(count):
        chosen: list[Tensor] = []
        for index in np.random.default_rng(number).permutation(len(dataset)):
            item = dataset[int(index)]
            if not item.get("problem"):
                both = torch.as_tensor(item["image"]).as_subclass(Tensor), teacher_image(item)
                chosen.append(max(both, key=Tensor.numel))
            if len(chosen) == 3:
                break
        if len(chosen) < 3:
            raise ValueError(f"a plane goes through three test images; {len(chosen)} can be read")
        drawn.append(torch.stack(chosen))
    return drawn


def _networks(
    experiment: Experiment,
    column: Column,
    seed: int,
    out: Path,
    classes: int,
    base: Any,
    sizes: Sizes,
    device: torch.device,
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the networks, the tuned teacher first; each resizes the images of the plane to its own size."""
    tuned_by = experiment.runs[_TUNED, column, seed]
    teacher = load_adapted(tuned_by.folder(out) / "teacher_full.safetensors", base).to(device)

    def tuned(image: Tensor) -> Tensor:
        return teacher.read(image, Reads(logits=True)).logits

    networks: dict[str, Callable[[Tensor], Tensor]] = {_TEACHER: at_size(tuned, sizes.teacher or sizes.student)}
    for row in experiment.rows:
        state = experiment.runs[row, column, seed].folder(out) / "models" / "model.pt"
        student = DeployedStudent(column.student, classes)
        student.load_state_dict(torch.load(state, map_location="cpu", weights_only=True))
        networks[row.name] = at_size(student.to(device).eval(), sizes.student)
    return networks


def at_size(network: Callable[[Tensor], Tensor], size: list[int]) -> Callable[[Tensor], Tensor]:
    """Wrap a network so that it resizes images of any size to its own input size.

    Args:
        network: bags `[B, S, 3, H, W]`, or volumes `[B, 1, D, H, W]`, to logits.
        size: `[H, W]`, or `[D, H, W]`.
    """

    def resized(image: Tensor) -> Tensor:
        if list(image.shape[-len(size) :]) == size:
            return network(image)
        if len(size) == 3:
            return network(functional.interpolate(image, size, mode="trilinear"))
        slices = functional.interpolate(image.flatten(0, 1), size, mode="bilinear", antialias=True)
        return network(slices.unflatten(0, image.shape[:2]))

    return resized


def _agreements(planes: list[list[Plane]], name: str) -> np.ndarray:
    return np.array([[plane.agreement(_TEACHER, name) for plane in of_seed] for of_seed in planes])
