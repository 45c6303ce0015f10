"""`monai-rd audit`: finding the problems of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monai_rd.cli.options import Key, Roles, series_rule
from monai_rd.console import terminal


def audit(
    dataset_dir: Annotated[Path, typer.Argument(help="Folder of the data.")],
    datalist: Annotated[
        Path | None, typer.Argument(help="JSON, CSV or Excel list; by default found in the folder, as in datalist.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for audit.json and pairs.png.")] = Path("audit"),
    fix: Annotated[
        Path | None,
        typer.Option(help="Write the corrected list to this file, and the removed items to NAME.removed.json."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of processes; more than one helps with thousands of images.")
    ] = 1,
    roles: Roles = None,
    key: Key = Path("monai_rd.key"),
) -> None:
    """Find duplicates, leaks, contradicting labels, shortcuts and outliers; exit code 1 if there are errors."""
    import json

    from monai_rd.datasets import audit as audits
    from monai_rd.datasets.datalist import read_datalist, write_datalist
    from monai_rd.files import atomic_write
    from monai_rd.pseudonyms import project_key

    secret = project_key(key)
    made, left_out = read_datalist(dataset_dir, datalist, {"default": "skip"}, secret, series_rule(roles=roles))
    report = audits.audit(made, workers=workers, left_out=left_out)
    atomic_write(json.dumps(report.as_dict(), indent=1) + "\n", out / "audit.json")
    audits.write_contact_sheet(report.pairs, out / "pairs.png")
    console = terminal()
    console.print(report.table() if report.findings else "nothing found")
    print(f"{made}\n{out / 'audit.json'}, {out / 'pairs.png'} ({len(report.pairs)} pairs)")
    if fix is not None:
        cleaned, removed = audits.fix(made, report)
        write_datalist(cleaned, dataset_dir, fix, secret)
        log = fix.with_name(f"{fix.stem}.removed.json")
        atomic_write(json.dumps(removed, indent=1) + "\n", log)
        print(f"{fix}: {cleaned}\n{log}: {len(removed)} items went")
    elif any(finding.severity == "error" for finding in report.findings):
        raise typer.Exit(1)
