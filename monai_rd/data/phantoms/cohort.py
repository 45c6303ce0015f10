"""Writing a phantom cohort: which studies it has, its table of labels, and that it is there whole or not at all."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np

from monai_rd.data.phantoms import ct, derm, mr, us, xray

__all__ = ["MODALITIES", "SPLIT", "is_phantom", "phantom_cohort"]

logger = logging.getLogger(__name__)

# Of each: CLASS_NAMES; OTHER_FINDINGS, which occur in every class; SUFFIX of a study's file, "" for a folder; VERSION,
# another one for every change of what is drawn or of its header: an older cohort on disk is then made anew;
# `draw_study(random, label)`; `write_study(path, label, seed, number)`.
MODALITIES = {"ct": ct, "mr": mr, "us": us, "xray": xray, "derm": derm}
# Studies of every cohort, whatever its modality. The classes take turns.
SPLIT = {"training": 40, "validation": 40, "test": 160}
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
    if _is_complete(target, made):
        return str(target)
    logger.info("writing the phantom cohort of modality '%s': %d studies", modality, sum(SPLIT.values()))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)  # a killed process of the same number may have left one
    try:
        _write_cohort(unfinished, modality, seed)
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
    folder.mkdir()
    for number in range(sum(SPLIT.values())):
        split = next(name for name, end in zip(SPLIT, np.cumsum(list(SPLIT.values())), strict=True) if number < end)
        label = kind.CLASS_NAMES[number % len(kind.CLASS_NAMES)]
        name = f"study_{number:04d}{kind.SUFFIX}"
        kind.write_study(folder / name, label, seed, number)
        rows.append((name, label, f"PHANTOM-{number:04d}", split))
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "patient", "split"), *rows])


def _is_complete(target: Path, made: dict[str, object]) -> bool:
    return (target / MARKER).is_file() and json.loads((target / MARKER).read_text()) == made
