"""The console command `monai-rd benchmark`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from monai_rd.console import Words, terminal

if TYPE_CHECKING:
    from monai_rd.protocol.experiments import Experiment
    from monai_rd.protocol.runs import Run
    from monai_rd.protocol.scheduler import Failure
    from monai_rd.protocol.tables import Report

    Train = Callable[[list[Run], Path, Console], list[Failure]]

app = typer.Typer(no_args_is_help=True)

Dataset = Annotated[Path | None, typer.Option(help="Folder of the data; by default the bundle's phantoms.")]
Bundle = Annotated[str, typer.Option(help="rd_ct, rd_mr, rd_us, rd_xray or rd_derm.")]
Teachers = Annotated[
    str, typer.Option(help="Names or files, comma-separated, joined teachers as a+b; by default the bundle's.")
]
Students = Annotated[str, typer.Option(help="Names, comma-separated; by default the bundle's.")]
Methods = Annotated[str, typer.Option(help="Rows of the table, comma-separated; by default all.")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of trainings of each method, with seeds 0, 1, ...")]
MaxEpochs = Annotated[int | None, typer.Option(min=1, help="Epochs of each training; by default the bundle's.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of trainings at a time; by default one per GPU, or one on a CPU, and 256 jobs of a cluster."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the trainings and tables; give the same folder to resume.")]


class Select(str, Enum):
    """The epoch whose network is tested."""

    best = "best"
    last = "last"


class On(str, Enum):
    """The images that a table is computed on."""

    test = "test"
    validation = "validation"


class Launcher(str, Enum):
    """Where the trainings run."""

    local = "local"
    slurm = "slurm"


Launch = Annotated[Launcher, typer.Option(help="Train on this machine, or each training as a job of a SLURM cluster.")]
Slurm = Annotated[
    str,
    typer.Option(
        metavar="OPTIONS",
        help="What each job asks for, such as partition=gpu,time=60,gpus=1: time in minutes (needed), partition, "
        "numbers of gpus and cpus, memory in GB.",
    ),
]
Images = Annotated[
    On, typer.Option(help="Evaluate on the test images, or on the validation images for model selection.")
]
Shares = Annotated[str, typer.Option(help="Shares of the training images (or labels), comma-separated, such as 0.1,1.")]
Selection = Annotated[
    Select, typer.Option(help="Test the best epoch on the validation set, or the last one, as the paper may have done.")
]


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _typed() -> str:
    return shlex.join(["monai-rd", *sys.argv[1:]])


def _laid_out(
    name: str,
    dataset: Path | None,
    bundle: str,
    teachers: str,
    students: str,
    methods: str,
    seeds: int,
    max_epochs: int | None,
    select: Select,
    out: Path,
    words: list[str] | None,
    shares: str = "",
) -> Experiment:
    """Make the grid of trainings that was requested."""
    from monai_rd.protocol.experiments import TABLES, experiment

    try:
        parts = [float(one) for one in _split(shares)]
    except ValueError:
        raise ValueError(f"--shares {shares}: numbers are needed, such as 0.1,1") from None

    return experiment(
        TABLES[name],
        out,
        dataset=None if dataset is None else str(dataset),
        bundle=bundle,
        teachers=[one if Path(one).exists() else one.replace("+", ",") for one in _split(teachers)],
        students=_split(students),
        methods=_split(methods),
        seeds=seeds,
        max_epochs=max_epochs,
        model_selection=select.value,
        words=words or (),
        shares=parts,
    )


def _launcher(launcher: Launcher, slurm: str, jobs: int | None) -> Train:
    """Return what trains runs: on this machine, or on a cluster."""
    from monai_rd.protocol.cluster import read_options, run_on_slurm
    from monai_rd.protocol.scheduler import default_jobs, run_all

    if launcher is Launcher.slurm:
        read_options(slurm)  # before anything is read
        return lambda runs, out, console: run_on_slurm(runs, out, slurm, jobs, console)
    if slurm:
        raise ValueError("--slurm is for --launcher slurm")
    return lambda runs, out, console: run_all(runs, out, jobs or default_jobs(), console)


def _run(made: Experiment, out: Path, train: Train, console: Console) -> list[Failure]:
    """Start the unfinished runs, and print which failed."""
    failures = train(list(made.runs.values()), out, console)
    for failure in failures:
        print(f"FAILED {failure.run.name}: {failure.cause}\n  {failure.log}", file=sys.stderr)
    if failures:
        print("Start the same command again to go on; remove a run's folder to begin it anew.", file=sys.stderr)
    return failures


def _make_table(
    name: str, made: Experiment, dataset: Path | None, select: Select, on: On, train: Train, out: Path
) -> None:
    """Start the unfinished runs of a table, then make the table from the finished ones; exit code 1 if a run failed."""
    from monai_rd.protocol import paper, tables
    from monai_rd.protocol.summary import summarise

    console = terminal()
    failures = _run(made, out, train, console)
    if settings := _settings(made.runs.values(), out):
        known = None if dataset is None else paper.published_name(str(dataset))
        _publish(
            tables.training_report(name, summarise(made, out, on.value), _typed(), settings, known, select.value),
            out,
            console,
        )
    if failures:
        raise typer.Exit(1)


def _publish(report: Report, out: Path, console: Console) -> None:
    from monai_rd.protocol.tables import print_report, write_files

    print_report(report, console)
    for path in write_files(report, out):
        print(path)


def _settings(runs: Iterable[Run], out: Path) -> dict[str, Any]:
    """Return the settings that all finished runs have in common; empty if no run is finished."""
    found = [result.metrics["settings"] for run in runs if (result := run.result(out)) is not None]
    first: dict[str, Any] = found[0] if found else {}
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
        shares: Shares = "",
        on: Images = On.test,
        jobs: Jobs = None,
        launcher: Launch = Launcher.local,
        slurm: Slurm = "",
        out: Out = Path("benchmark"),
    ) -> None:
        train = _launcher(launcher, slurm, jobs)
        made = _laid_out(
            name, dataset, bundle, teachers, students, methods, seeds, max_epochs, select, out, words, shares
        )
        _make_table(name, made, dataset, select, on, train, out)


_add_table(
    "table2", "Ablation of RD, without one of its parts at a time: ce, no_co_training, no_kd, no_cka, two_stages, rd."
)
_add_table(
    "table3", "RD against other distillation methods: ce, hint, at, vid, sp, rkd, semckd, crd, mgd, norm, drd, rd."
)
_add_table("table4", "RD against KD from a tuned ViT: adaptformer, lora, vpt_shallow, vpt_deep, vqt, lpt, rd.")
_add_table("table5", "RD against the student alone with 10, 25, 50 and 100 % of the training images: ce, rd.")
_add_table(
    "unlabelled",
    "RD and other methods with a quarter of the labels, the other training images unlabelled: ce, rd_labelled (RD as "
    "published), kd, pseudo, hint, at, vid, sp, rkd, semckd, mgd, norm, drd, rd_unlabelled (RD as published, with "
    "unlabelled images), rd_calibrated (RD's default with them) and rd (CutMix in place of calibration).",
)
_add_table(
    "unlabelled_settings",
    "RD with unlabelled images, one setting changed at a time: ce, rd_labelled, share_25, share_50, detached, "
    "constant_beta, constant, detached_constant, calibrated, calibrated_no_kd, calibrated_no_cka, temperature_4, "
    "unbiased_cka, whole_maps, no_kd, no_cka, stored_views, cutmix_ce, cutmix, cutmix_detached_constant, rd.",
)
_add_table(
    "settings",
    "RD with another temperature, detached teacher, CKA estimator, weights or phi: ce, temperature_4, detached, "
    "unbiased_cka, constant, beta_5, small_phi, whole_maps, rd.",
)

_add_table(
    "skewed",
    "RD with each way to deal with classes of unequal frequency: rd (none), class_weights, sampling, logit_adjustment, "
    "auc_margin, and with several labels an image focal.",
)


@app.command()
def table6(
    seconds: Annotated[
        float, typer.Option(min=0, help="Duration of the measurement in seconds; at least three rounds.")
    ] = 30,
    out: Out = Path("benchmark"),
) -> None:
    """The cost of the paper's networks: parameters, multiply-accumulates, and time measured on this CPU."""
    from monai_rd.protocol import cost
    from monai_rd.versions import versions

    console = terminal()
    with console.status("") as status:
        times = cost.measure(seconds, progress=lambda name: status.update(Text(name)))
    _publish(cost.cost_report(times, _typed(), versions()), out, console)


@app.command()
def figure2(
    words: Words = None,
    dataset: Dataset = None,
    bundle: Bundle = "rd_ct",
    teachers: Teachers = "",
    students: Students = "",
    seeds: Seeds = 3,
    max_epochs: MaxEpochs = None,
    select: Selection = Select.best,
    planes: Annotated[
        int, typer.Option(min=2, help="Number of planes for each training, each through three test images.")
    ] = 10,
    resolution: Annotated[int, typer.Option(min=2, help="Points along a side of a plane.")] = 50,
    jobs: Jobs = None,
    launcher: Launch = Launcher.local,
    slurm: Slurm = "",
    out: Out = Path("benchmark"),
) -> None:
    """Decision boundaries of the students (ce, kd, rd) and of the fully tuned teacher, and their agreement."""
    from monai_rd.bundle import parse_overrides
    from monai_rd.protocol.figure2 import figure_report
    from monai_rd.versions import versions

    if parse_overrides(words or ()).get("cross_fit"):
        raise ValueError("--cross_fit fits several teachers, and figure 2 looks at the one that taught: leave it out")
    console, train = terminal(), _launcher(launcher, slurm, jobs)
    made = _laid_out("figure2", dataset, bundle, teachers, students, "", seeds, max_epochs, select, out, words)
    if _run(made, out, train, console):
        raise typer.Exit(1)
    with console.status("") as status:
        # A plane may take a minute.
        told = (lambda text: status.update(Text(text))) if console.is_terminal else console.print
        report = figure_report(made, out, planes, resolution, _typed(), versions(), told)
    _publish(report, out, console)
