"""`monai-rd index`: listing the DICOM series below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monai_rd.cli.options import (
    SOME_LEFT_OUT,
    Description,
    Key,
    Modality,
    Orientation,
    Per,
    Pick,
    Policies,
    policy_of,
    series_rule,
)
from monai_rd.console import terminal


def index(
    source: Annotated[Path, typer.Argument(help="A folder, searched with all its subfolders, or a DICOMDIR.")],
    csv: Annotated[Path | None, typer.Option(help="Also write the table to this CSV file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the table to this JSON file.")] = None,
    modality: Modality = None,
    description: Description = None,
    orientation: Orientation = None,
    pick: Pick = None,
    per: Per = None,
    policy: Policies = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of processes; by default one per core.")] = None,
    key: Key = Path("monai_rd.key"),
) -> None:
    """List the DICOM series below a folder, from headers only, and which of them the rule chooses.

    Exit code 3 if a file cannot be opened or parsed and is therefore in no series.
    """
    from monai_rd.dicom import SeriesRule, choose_series, index_dicom
    from monai_rd.errors import Policy, count_codes
    from monai_rd.pseudonyms import project_key
    from monai_rd.report.series import series_table, write_series

    rule, actions = SeriesRule.of(series_rule(modality, description, orientation, pick, per)), Policy(policy_of(policy))
    files = [path for path in (csv, json) if path is not None]
    secret = project_key(key) if files else None  # without output files the key need not outlive the command
    unread: list[Path] = []
    series = index_dicom(source, key=secret, workers=workers, progress=True, damaged=unread)
    chosen = None if rule is None else {one.id for one in choose_series(series, rule, actions)}
    for path in files:
        write_series(series, path, chosen)
    console = terminal()
    console.print(series_table(series, chosen))
    problems = count_codes(one.code for each in series for one in each.problems[:1])
    if problems:
        console.print(f"not read as they are: {problems}. What is wrong and what to do stands in --csv and --json.")
    if chosen is not None:
        console.print(f"{len(chosen)} of {len(series)} series taken: {rule}", soft_wrap=True)
    if unread:
        console.print(f"files and folders: {len(unread)} that cannot be opened or parsed, and stand in no series")
        raise typer.Exit(SOME_LEFT_OUT)
