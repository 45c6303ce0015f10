"""Files laid out as publishers do, and what lists are made of them."""

from __future__ import annotations

import csv
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from monai_rd.datasets import DataList
from monai_rd.datasets.splits import SPLITS


def per_class(made: DataList, *splits: str) -> list[int]:
    counts = Counter(item["label"] for split in splits for item in made[split])
    return [counts[index] for index in range(len(made.class_names))]


def sizes(made: DataList) -> tuple[int, ...]:
    return tuple(len(made[split]) for split in SPLITS)


def stems(items: list[dict]) -> set[str]:
    return {Path(item["image"]).stem for item in items}


def warnings_of(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


def files(folder: Path, names: Iterable[str]) -> None:
    """Files that differ, which are no images: layouts are read without looking into them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{folder.parent.name}/{folder.name}/{name}")


def links(folder: Path, names: Iterable[str]) -> None:
    """One file by many names."""
    folder.mkdir(parents=True, exist_ok=True)
    first = folder.parent / "one.bytes"
    if not first.exists():
        first.write_text("no image")
    for name in names:
        os.link(first, folder / name)


def table(path: Path, header: str, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)
