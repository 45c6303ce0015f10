"""An index of DICOM series as a table, CSV or JSON, without paths, patient names or patient IDs."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from monai_rd.dicom import SeriesInfo
from monai_rd.files import atomic_write
from monai_rd.text import csv_of

__all__ = ["series_table", "write_series"]


def series_table(series: Sequence[SeriesInfo], chosen: Collection[str] | None = None) -> Table:
    """Make the table that `monai-rd index` prints: two lines per series; patients are numbered, not named.

    Args:
        series: the series from `index_dicom`.
        chosen: IDs of the series that a rule chose; None without a rule.
    """
    table = Table(title=f"{len(series)} DICOM series", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in [] if chosen is None else ["taken"]:
        table.add_column(name)
    for name in ("series\npatient", "kind, slices\nspacing in mm"):
        table.add_column(name, no_wrap=True)
    table.add_column("description\ntransfer syntax, problems", overflow="fold")
    patients: dict[str, int] = {}
    for one in series:
        row = one.row()
        number = patients.setdefault(one.patient_key, len(patients) + 1)
        mark = [] if chosen is None else ["yes" if one.id in chosen else ""]
        count = f"{one.slices} {'picture' if one.pictures else 'slice'}{'' if one.slices == 1 else 's'}"
        if not one.is_image:
            count = "no image"
        volume = f"\n{one.volume}" if one.volume else ""
        told = Text.assemble((one.description or "-") + volume, ("\n" + row["transfer_syntax"], "dim"))
        for problem in one.problems:
            told.append(f"\n{problem.code}", "yellow")
        table.add_row(
            *mark,
            f"..{one.series_uid[-10:]}\npatient {number}",
            f"{' '.join(word for word in (one.modality, one.orientation, row['views']) if word)}, {count}\n"
            + (f"{row['spacing_mm']} mm" if one.spacing else f"{one.shape[0]} x {one.shape[1]} pixels"),
            told,
        )
    return table


def write_series(series: Sequence[SeriesInfo], path: Path, chosen: Collection[str] | None = None) -> None:
    """Write the index as CSV or JSON, depending on the suffix of the path, atomically.

    Raises:
        ValueError: any other suffix.
    """
    rows = [one.row() | ({} if chosen is None else {"taken": one.id in chosen}) for one in series]
    if path.suffix.lower() == ".json":
        atomic_write(json.dumps(rows, indent=1) + "\n", path)
    elif path.suffix.lower() == ".csv":
        atomic_write(csv_of(list(rows[0]), rows), path)
    else:
        raise ValueError(f"an index is written as .csv or .json, not as '{path.suffix}'")
