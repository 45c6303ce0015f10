"""Writing a phantom cohort, and a pool of unlabelled phantoms; each is written completely or not at all."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from monai_rd.phantoms import ct, ct_3d, derm, mr, us, xray
from monai_rd.processes import cores

__all__ = ["MODALITIES", "POOL", "SPLIT", "VOLUMES", "is_phantom", "phantom_cohort", "phantom_pool"]

logger = logging.getLogger(__name__)

# Each module has: CLASS_NAMES; OTHER_FINDINGS, which occur in every class; SUFFIX of a study's file, "" for a folder;
# VERSION, to be increased with every change of the drawing or the header, so that older cohorts on disk are replaced;
# `draw_study(random, label)`; `write_study(path, label, seed, number)`.
MODALITIES = {"ct": ct, "mr": mr, "us": us, "xray": xray, "derm": derm}
VOLUMES = {"ct_3d": ct_3d}  # for 3D networks
_KINDS = MODALITIES | VOLUMES
# Number of studies in every cohort, for all modalities; volumes, which are larger, are fewer. The classes alternate.
SPLIT = {"training": 40, "validation": 40, "test": 160}
SPLIT_3D = {"training": 20, "validation": 20, "test": 60}
POOL, POOL_3D = 400, 60  # number of unlabelled studies
MARKER = "phantoms.json"


def phantom_cohort(
    directory: str | os.PathLike[str], modality: str = "ct", seed: int = 0, volumes: bool = False
) -> str:
    """Write the phantom cohort of a modality with a `labels.csv`; an existing cohort is reused.

    The same seed gives the same bytes. Every study has its own patient. The columns of the CSV are image (a file, or
    the folder of a series), label, patient and split. Writing is atomic: a killed run leaves no incomplete cohort.

    Args:
        directory: the folder in which the cohort's folder `phantoms_MODALITY_SEED` is created.
        modality: one of `MODALITIES`.
        seed: seed of the random generator.
        volumes: draw the modality's phantoms for 3D networks; only "ct" has some, others draw the same as for slices.

    Returns:
        The path of the cohort's folder.

    Raises:
        ValueError: an unknown modality.
    """
    if modality not in MODALITIES:
        raise ValueError(f"there are no phantoms of modality '{modality}'; there are: {', '.join(MODALITIES)}")
    if volumes and f"{modality}_3d" in VOLUMES:
        modality = f"{modality}_3d"
    target = Path(directory) / f"phantoms_{modality}_{seed}"
    split = SPLIT_3D if modality in VOLUMES else SPLIT
    made = {"modality": modality, "version": _KINDS[modality].VERSION, "seed": seed, "split": split}
    return _written(target, made, lambda folder: _write_cohort(folder, modality, seed, split))


def phantom_pool(cohort: str | os.PathLike[str]) -> str:
    """Write unlabelled phantoms of the same kinds, but of other patients, next to a cohort.

    Deterministic, atomic and reused if it exists, like `phantom_cohort`.

    Args:
        cohort: the folder of a phantom cohort.

    Returns:
        The path of the folder `COHORT_unlabelled`: one file or folder for each study, without any hint of its class.
    """
    told = json.loads((Path(cohort) / MARKER).read_text(encoding="utf-8"))
    modality, seed = told["modality"], told["seed"]
    numbers = range(first := sum(told["split"].values()), first + (POOL_3D if modality in VOLUMES else POOL))
    made = {"modality": modality, "version": told["version"], "seed": seed, "pool": len(numbers)}
    return _written(Path(f"{cohort}_unlabelled"), made, lambda folder: _write_studies(folder, modality, seed, numbers))


def _written(target: Path, made: Mapping[str, object], write: Callable[[Path], object]) -> str:
    """Write a folder completely or not at all; keep an existing complete one."""
    if _is_complete(target, made):
        return str(target)
    split = made.get("split")
    studies = sum(split.values()) if isinstance(split, Mapping) else made["pool"]
    logger.info("writing %d phantoms of modality '%s'", studies, made["modality"])
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process with the same ID
    try:
        unfinished.mkdir()
        write(unfinished)
        (unfinished / MARKER).write_text(json.dumps(made), encoding="utf-8")
        if not _is_complete(target, made):  # unless another process was faster
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return str(target)


def is_phantom(directory: str | os.PathLike[str]) -> bool:
    """Whether `directory` holds a cohort that `phantom_cohort` wrote."""
    return (Path(directory) / MARKER).is_file()


def _write_cohort(folder: Path, modality: str, seed: int, split: Mapping[str, int]) -> None:
    splits = [name for name, count in split.items() for _ in range(count)]
    rows = [
        (study, label, f"PHANTOM-{number:04d}", splits[number])
        for number, (study, label) in enumerate(_write_studies(folder, modality, seed, range(len(splits))))
    ]
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "label", "patient", "split"), *rows])


def _write_studies(folder: Path, modality: str, seed: int, numbers: range) -> list[tuple[str, str]]:
    """Draw and write studies, on all cores; return the file or folder and the label of each."""
    kind = _KINDS[modality]
    made = [(f"study_{n:04d}{kind.SUFFIX}", kind.CLASS_NAMES[n % len(kind.CLASS_NAMES)]) for n in numbers]

    def write(number: int, study: str, label: str) -> None:
        kind.write_study(folder / study, label, seed, number)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(write, numbers, *zip(*made, strict=True)))
    return made


def _is_complete(target: Path, made: Mapping[str, object]) -> bool:
    return (target / MARKER).is_file() and json.loads((target / MARKER).read_text(encoding="utf-8")) == made
