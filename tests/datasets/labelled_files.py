"""Pictures, DICOM series and the sheets that label them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from tests.dicom_files import make_series

KEY = b"0123456789abcdef" * 2


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value % 256, np.uint8)).save(path)
    return path


def table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def labelled(number: int) -> str:
    return "covid" if number % 4 == 0 else "clear"


def rows_of(count: int = 40) -> list[tuple[str, ...]]:
    return [("image", "label"), *((f"{n:02d}.png", labelled(n)) for n in range(count))]


def names(items: list[dict]) -> list[str]:
    return [Path(item["image"]).name for item in items]


def named(root: Path, patients: int, labels: str = "ab") -> list[tuple[str, str]]:
    """DICOM series below a folder, one of each patient, every other one of the second class; (patient, label)."""
    for number in range(patients):
        identity = f"PAT-{number:03d}"

        def change(k: int, ds: Dataset, identity: str = identity) -> None:
            ds.PatientID, ds.SeriesDescription = identity, "thorax"

        make_series(root / f"export_{identity}" / "CT", slices=3, shape=(4, 4), change=change, seed=number)
    return [(f"PAT-{number:03d}", labels[number % 2]) for number in range(patients)]
