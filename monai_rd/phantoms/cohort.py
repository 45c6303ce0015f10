"""Writing a phantom cohort, and a pool of unlabelled phantoms; each is written completely or not at all."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from monai_rd.phantoms import ct, derm, mr, us, xray

__all__ = ["MODALITIES", "POOL", "SPLIT", "is_phantom", "phantom_cohort", "phantom_pool"]

logger = logging.getLogger(__name__)

# Each module has: CLASS_NAMES; OTHER_FINDINGS, which occur in every class; SUFFIX of a study's file, "" for a folder;
# VERSION, to be increased with every change of the drawing or the header, so that older cohorts on disk are replaced;
# `draw_study(random, label)`; `write_study(path, label, seed, number)`.
MODALITIES = {"ct": ct, "mr": mr, "us": us, "xray": xray, "derm": derm}
# Number of studies in every cohort, for all modalities. The classes alternate.
SPLIT = {"training": 40, "validation": 40, "test": 160}
POOL = 400  # number of unlabelled studies
MARKER = "phantoms.json"


def phantom_cohort(directory: str | os.PathLike[str], modality: str = "ct", seed: int = 0) -> str:
    """Write the phantom cohort of a modality with a `labels.csv`; an existing cohort is reused.

    The same seed gives the same bytes. Every study has its own patient. The columns of the CSV are image (a file, or
    the folder of a series), label, patient and split. Writing is atomic: a killed run leaves no incomplete cohort.

    Args:
        directory: the folder in which the cohort's folder `phantoms_MODALITY_SEED` is created.
        modality: one of `MODALITIES`.
        seed: seed of the random generator.

    Returns:
        The path of the cohort's folder.

    Raises:
        ValueError: an unknown modality.
    """
    if modality not in MODALITIES:
        raise ValueError(f"there are no phantoms of modality '{modality}'; there are: {', '.join(MODALITIES)}")
    target = Path(directory) / f"phantoms_{modality}_{seed}"
    made = {"modality": modality, "version": MODALITIES[modality].VERSION, "seed": seed, "split": SPLIT}
    return _written(target, made, lambda folder: _write_cohort(folder, modality, seed))


def phantom_pool(cohort: str | os.PathLike[str]) -> str:
    """Write unlabelled phantoms of the same kinds, but of other patients, next to a cohort.

    Deterministic, atomic and reused if it exists, like `phantom_cohort`.

    Args:
        cohort: the folder of a phantom cohort.

    Returns:
        The path of the folder `COHORT_unlabelled`: one file or folder for each study, without any hint of its class.
    """
    told = json.loads((Path(cohort) / MARKER).read_text())
    modality, seed = told["modality"], told["seed"]
    made = {"modality": modality, "version": told["version"], "seed": seed, "pool": POOL}
    return _written(Path(f"{cohort}_unlabelled"), made, lambda folder: _write_pool(folder, modality, seed))


def _written(target: Path, made: Mapping[str, object], write: Callable[[Path], None]) -> str:
    """Write a folder completely or not at all; keep an existing complete one."""
    if _is_complete(target, made):
        return str(target)
    studies = sum(SPLIT.values()) if "split" in made else POOL
    logger.info("writing %d phantoms of modality '%s'", studies, made["modality"])
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process with the same ID
    try:
        unfinished.mkdir()
        write(unfinished)
        (unfinished / MARKER).write_text(json.dumps(made))
        if not _is_complete(target, made):  # unless another process was faster
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return str(target)


def is_phantom(directory: str | os.PathLike[str]) -> bool:
    """Whether `directory` holds a cohort that `phantom_cohort` wrote."""
    return (Path(directory) / MARKER).is_file()


def _write_cohort(folder: Path, modality: str, seed: int) -> None:
    kind, rows = MODALITIES[modality], []
    for number in range(sum(SPLIT.values())):
        split = next(name for name, end in zip(SPLIT, np.cumsum(list(SPLIT.values())), strict=True) if number < end)
        label = kind.CLASS_NAMES[number % len(kind.CLASS_NAMES)]
        name = f"study_{number:04d}{kind.SUFFIX}"
        kind.write_study(folder / name, label, seed, number)
        rows.append((name, label, f"PHANTOM-{number:04d}", split))
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "patient", "split"), *rows])


def _write_pool(folder: Path, modality: str, seed: int) -> None:
    kind, first = MODALITIES[modality], sum(SPLIT.values())
    for number in range(first, first + POOL):
        label = kind.CLASS_NAMES[number % len(kind.CLASS_NAMES)]
        kind.write_study(folder / f"study_{number:04d}{kind.SUFFIX}", label, seed, number)


def _is_complete(target: Path, made: Mapping[str, object]) -> bool:
    return (target / MARKER).is_file() and json.loads((target / MARKER).read_text()) == made
