"""Writing a phantom cohort and a pool of unlabelled phantoms: which studies they have, each whole or not at all."""

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

# Of each: CLASS_NAMES; OTHER_FINDINGS, which occur in every class; SUFFIX of a study's file, "" for a folder; VERSION,
# another one for every change of what is drawn or of its header: an older cohort on disk is then made anew;
# `draw_study(random, label)`; `write_study(path, label, seed, number)`.
MODALITIES = {"ct": ct, "mr": mr, "us": us, "xray": xray, "derm": derm}
# Studies of every cohort, whatever its modality. The classes take turns.
SPLIT = {"training": 40, "validation": 40, "test": 160}
POOL = 400  # of the unlabelled ones
MARKER = "phantoms.json"


def phantom_cohort(directory: str | os.PathLike[str], modality: str = "ct", seed: int = 0) -> str:
    """Write the phantom cohort of a modality with a `labels.csv`; a cohort that is already there is used as it is.

    Deterministic: one seed gives the same bytes. One patient a study; columns of the CSV: image (file, or folder of the
    series), label, patient, split. The writing is atomic: a killed run leaves no half cohort behind.

    Args:
        directory: where the cohort's folder `phantoms_MODALITY_SEED` is put.
        modality: one of `MODALITIES`.
        seed: of the random generator.

    Returns:
        Path of the cohort's folder.

    Raises:
        ValueError: an unknown modality.
    """
    if modality not in MODALITIES:
        raise ValueError(f"there are no phantoms of modality '{modality}'; there are: {', '.join(MODALITIES)}")
    target = Path(directory) / f"phantoms_{modality}_{seed}"
    made = {"modality": modality, "version": MODALITIES[modality].VERSION, "seed": seed, "split": SPLIT}
    return _written(target, made, lambda folder: _write_cohort(folder, modality, seed))


def phantom_pool(cohort: str | os.PathLike[str]) -> str:
    """Write unlabelled phantoms beside a cohort, of the same kinds and of other patients; in the same way.

    Args:
        cohort: the folder of a phantom cohort.

    Returns:
        Path of the folder `COHORT_unlabelled`, a file or folder a study and nothing that tells their classes.
    """
    told = json.loads((Path(cohort) / MARKER).read_text())
    modality, seed = told["modality"], told["seed"]
    made = {"modality": modality, "version": told["version"], "seed": seed, "pool": POOL}
    return _written(Path(f"{cohort}_unlabelled"), made, lambda folder: _write_pool(folder, modality, seed))


def _written(target: Path, made: Mapping[str, object], write: Callable[[Path], None]) -> str:
    """Write a folder, whole or not at all; one that is there as it should be is left as it is."""
    if _is_complete(target, made):
        return str(target)
    studies = sum(SPLIT.values()) if "split" in made else POOL
    logger.info("writing %d phantoms of modality '%s'", studies, made["modality"])
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)  # a killed process of the same number may have left one
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
    """Say whether `directory` holds a cohort that `phantom_cohort` wrote."""
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
