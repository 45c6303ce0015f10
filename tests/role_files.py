"""Studies of several roles as files: MR volumes as NIfTI, each sequence of another geometry, and two views as PNG."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

SEQUENCES = ("t1", "t1gd", "flair")


def write_sequences(folder: Path, number: int, present: tuple[str, ...] = SEQUENCES) -> dict[str, str]:
    """Write a study of a body with spots, bright in each sequence in its own way; return its file names by role."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {}
    for place, role in enumerate(present):
        at = SEQUENCES.index(role)
        shape, mm = (24 - 4 * at, 20 + 4 * at, 12 + 4 * at), (5.0 + at, 6.0 - at, 10.0 - 2 * at)
        grids = np.meshgrid(*(np.linspace(-1, 1, count) for count in shape), indexing="ij")
        inside = sum(grid**2 for grid in grids) < 0.6
        draw = np.random.default_rng(number)
        spots = sum(
            np.exp(
                -sum((grid - middle) ** 2 for grid, middle in zip(grids, draw.uniform(-0.6, 0.6, 3), strict=True)) * 15
            )
            for _ in range(12)
        )
        values = np.where(inside, 400 + 100 * at + 50 * (number % 2) + 600 * spots, 0).astype(np.int16)
        names[role] = f"{number}_{place}.nii.gz"
        nib.save(nib.Nifti1Image(values, np.diag([*mm, 1.0])), folder / names[role])
    return names


def write_views(folder: Path, number: int, present: tuple[str, ...] = ("pa", "lateral")) -> dict[str, str]:
    """Write two views of noise, of another shape each; return their file names by role."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {}
    for role in present:
        shape = (40, 30) if role == "pa" else (36, 44)
        seed = 10 * number + (role == "pa")
        values = np.random.default_rng(seed).integers(60 * (number % 2), 200, shape).astype(np.uint8)
        names[role] = f"{number}_{role}.png"
        Image.fromarray(values).save(folder / names[role])
    return names
