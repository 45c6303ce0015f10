"""The console command `monai-rd benchmark`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from monai_rd.protocol.cells import Cell

app = typer.Typer(no_args_is_help=True)

Dataset = Annotated[Path | None, typer.Option(help="Folder of the data; without it the bundle's phantoms.")]
Bundle = Annotated[str, typer.Option(help="rd_ct, rd_mr, rd_us, rd_xray or rd_derm.")]
Teachers = Annotated[str, typer.Option(help="Names or files, comma-separated; the bundle's default without it.")]
Students = Annotated[str, typer.Option(help="Names, comma-separated; the bundle's default without it.")]
Methods = Annotated[str, typer.Option(help="Rows of the table, comma-separated; all without it.")]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each method, with seeds 0, 1, ...")]
MaxEpochs = Annotated[int | None, typer.Option(min=1, help="Of each training; the bundle's default without it.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Trainings at a time; one a GPU by default, one on a CPU.")]
Out = Annotated[Path, typer.Option(help="Folder for the trainings and tables; start again with the same to go on.")]
Words = Annotated[
    list[str] | None, typer.Argument(help="After --: further words for the bundle, such as --image_size 128.")
]


class Select(str, Enum):
    """Which epoch's network is tested."""

    best = "best"
    last = "last"


Selection = Annotated[
    Select, typer.Option(help="Test the epoch that is best on the validation set, or the last one, as the paper may.")
]


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _console() -> Console:
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=140)


def _typed() -> str:
    return shlex.join(["monai-rd", *sys.argv[1:]])


def _run_table(
    name: str,
    dataset: Path | None,
    bundle: str,
    teachers: str,
    students: str,
    methods: str,
    seeds: int,
    max_epochs: int | None,
    select: Select,
    jobs: int | None,
    out: Path,
    words: list[str] | None,
) -> None:
    """Run what is not finished of a table's grid, then make the table of what is; exit code 1 if a cell failed."""
    from monai_rd.protocol import grid, paper, tables
    from monai_rd.protocol.experiments import TABLES, experiment
    from monai_rd.protocol.summary import summarise

    console = _console()
    made = experiment(
        TABLES[name],
        out,
        None if dataset is None else str(dataset),
        bundle,
        _split(teachers),
        _split(students),
        _split(methods),
        seeds,
        max_epochs,
        select.value,
        words or (),
    )
    cells = list({cell.key: cell for cell in made.cells.values()}.values())
    failures = grid.run_cells(cells, out, jobs or grid.default_jobs(), console)
    if len(failures) < len(cells):
        known = None if dataset is None else paper.published_name(str(dataset))
        settings = _settings(cells, out)
        report = tables.training_report(name, summarise(made, out), _typed(), settings, known, select.value)
        tables.print_report(report, console)
        for path in tables.write_files(report, out):
            print(path)
    for failure in failures:
        print(f"FAILED {failure.cell.name}: {failure.cause}\n  {failure.log}", file=sys.stderr)
    if failures:
        print("Start the same command again to go on; remove a cell's folder to begin it anew.", file=sys.stderr)
        raise typer.Exit(1)


def _settings(cells: Iterable[Cell], out: Path) -> dict[str, Any]:
    """What all finished cells have in common of the settings that their runs wrote down."""
    found = [result.metrics["settings"] for cell in cells if (result := cell.result(out)) is not None]
    first: dict[str, Any] = found[0]
    return {key: value for key, value in first.items() if all(one.get(key) == value for one in found)}


def _add_table(name: str, what: str) -> None:
    @app.command(name, help=what)
    def table(
        words: Words = None,
        dataset: Dataset = None,
        bundle: Bundle = "rd_ct",
        teachers: Teachers = "",
        students: Students = "",
        methods: Methods = "",
        seeds: Seeds = 5,
        max_epochs: MaxEpochs = None,
        select: Selection = Select.best,
        jobs: Jobs = None,
        out: Out = Path("benchmark"),
    ) -> None:
        _run_table(name, dataset, bundle, teachers, students, methods, seeds, max_epochs, select, jobs, out, words)


_add_table("table2", "RD without one of its parts at a time: ce, no_co_training, no_kd, no_cka, two_stages, rd.")
_add_table("table3", "RD against other distillation: ce, hint, at, vid, sp, rkd, semckd, crd, mgd, norm, drd, rd.")
_add_table("table4", "RD against KD from a tuned ViT: adaptformer, lora, vpt_shallow, vpt_deep, vqt, lpt, rd.")
_add_table("table5", "What RD adds to the student alone with 10, 25, 50 and 100 % of the training images: ce, rd.")


@app.command()
def table6(
    seconds: Annotated[float, typer.Option(min=0, help="Measure so long; three rounds at least.")] = 30,
    out: Out = Path("benchmark"),
) -> None:
    """What the paper's networks cost: parameters and multiply-accumulates counted, time on this CPU measured."""
    from monai_rd.protocol import cost, tables
    from monai_rd.protocol.cells import versions

    console = _console()
    with console.status("") as status:
        times = cost.measure(seconds, progress=status.update)
    report = cost.cost_report(times, _typed(), versions())
    tables.print_report(report, console)
    for path in tables.write_files(report, out):
        print(path)
