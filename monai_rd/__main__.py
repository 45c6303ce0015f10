"""The console command `monai-rd`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from monai_rd.cli import bundles
from monai_rd.cli.benchmark import app as benchmark
from monai_rd.cli.export import export_command
from monai_rd.cli.features import app as features
from monai_rd.cli.predict import SOME_LEFT_OUT, predict
from monai_rd.console import terminal
from monai_rd.errors import words_of_the_system
from monai_rd.files import no_room, told
from monai_rd.streams import lasting_streams
from monai_rd.text import printable

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

teachers = typer.Typer(invoke_without_command=True)
app.add_typer(teachers, name="teachers")
app.add_typer(features, name="features", help="Compute a teacher's features beforehand, check, list, remove them.")
app.add_typer(benchmark, name="benchmark", help="Run the paper's experiments and make its tables.")
for command in (bundles.train, bundles.evaluate, bundles.score):
    app.command(context_settings=bundles.WORDS_FOLLOW)(command)
app.command("export")(export_command)
app.command()(predict)

Key = Annotated[Path, typer.Option(help="The project's key, which patients' pseudonyms depend on; made if absent.")]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy", help="What follows from a study that cannot be read, as CODE=error|skip|warn; CODE may be default."
    ),
]
Modality = Annotated[str | None, typer.Option(help="Take series of this modality, such as CT.")]
Description = Annotated[str | None, typer.Option(help="Take series whose description fits this regular expression.")]
Orientation = Annotated[str | None, typer.Option(help="Take axial, coronal, sagittal or oblique series.")]
Pick = Annotated[str | None, typer.Option(help="Among those left: most_slices, largest or all.")]
Per = Annotated[str | None, typer.Option(help="One series for each patient or study.")]


def _rule(
    modality: str | None, description: str | None, orientation: str | None, pick: str | None, per: str | None
) -> dict[str, str] | None:
    """Return the series rule that was asked for, None where no word of it was."""
    words = {
        "modality": modality,
        "description": description,
        "orientation": orientation,
        "pick": pick,
        "per": per,
    }
    return {name: word for name, word in words.items() if word is not None} or None


def _policy(words: list[str] | None) -> dict[str, str]:
    wrong = [word for word in words or () if word.count("=") != 1]
    if wrong:
        raise ValueError(f"--policy {wrong[0]}: give CODE=error, CODE=skip or CODE=warn")
    return {code: action for code, action in (word.split("=") for word in words or ())}


@app.command()
def index(
    source: Annotated[Path, typer.Argument(help="A folder, nested and mixed as it may be, or a DICOMDIR.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table here too.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write it here as JSON.")] = None,
    modality: Modality = None,
    description: Description = None,
    orientation: Orientation = None,
    pick: Pick = None,
    per: Per = None,
    policy: Policies = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a core by default.")] = None,
    key: Key = Path("monai_rd.key"),
) -> None:
    """List the DICOM series below a folder, from headers only, and which of them a rule takes.

    Exit code 3 if anything there cannot be opened or parsed, so that it stands in no series.
    """
    from monai_rd.dicom import SeriesRule, choose_series, index_dicom
    from monai_rd.errors import Policy, count_codes
    from monai_rd.pseudonyms import project_key
    from monai_rd.report.series import series_table, write_series

    rule, actions = SeriesRule.of(_rule(modality, description, orientation, pick, per)), Policy(_policy(policy))
    files = [path for path in (csv, json) if path is not None]
    secret = project_key(key) if files else None  # nothing is kept: the keys need not outlive the command
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


@app.command()
def datalist(
    dataset_dir: Annotated[Path, typer.Argument(help="Folder of the data.")],
    out: Annotated[Path, typer.Option(help="The JSON to write; with --folds, NAME_0.json, NAME_1.json, ...")],
    sheet: Annotated[
        Path | None,
        typer.Option(help="CSV or Excel with the columns label and image, series or patient; else class folders."),
    ] = None,
    class_names: Annotated[str | None, typer.Option(help="Comma-separated, in order, the positive one last.")] = None,
    folds: Annotated[int | None, typer.Option(help="Make k folds instead of one split.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    modality: Modality = None,
    description: Description = None,
    orientation: Orientation = None,
    pick: Pick = None,
    per: Per = None,
    policy: Policies = None,
    key: Key = Path("monai_rd.key"),
) -> None:
    """Make MONAI's data list of a folder: splits by patient, stratified, everything that is wrong said at once."""
    from monai_rd.datasets.datalist import make_datalist, make_folds, write_datalist
    from monai_rd.pseudonyms import project_key

    names = None if class_names is None else [name.strip() for name in class_names.split(",")]
    rule, actions = _rule(modality, description, orientation, pick, per), _policy(policy)
    secret = project_key(key)
    if folds is None:
        made = [
            make_datalist(dataset_dir, sheet, names, seed=seed, policy=actions, series_rule=rule, key=secret),
        ]
    else:
        made = make_folds(dataset_dir, folds, sheet, names, seed, actions, rule, secret)
    paths = [out] if folds is None else [out.with_name(f"{out.stem}_{n}{out.suffix}") for n in range(folds)]
    for one, path in zip(made, paths, strict=True):
        write_datalist(one, dataset_dir, path, secret)
        print(f"{path}: {one}")


@app.command()
def audit(
    dataset_dir: Annotated[Path, typer.Argument(help="Folder of the data.")],
    datalist: Annotated[
        Path | None, typer.Argument(help="JSON, CSV or Excel; without it what the folder holds, as in datalist.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for audit.json and pairs.png.")] = Path("audit"),
    fix: Annotated[
        Path | None, typer.Option(help="Write the list without what is wrong here, and NAME.removed.json beside it.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; more than one pays for thousands of images.")] = 1,
    key: Key = Path("monai_rd.key"),
) -> None:
    """Look for copies, leaks, contradicting labels, shortcuts and outliers; exit code 1 if there is an error."""
    import json

    from monai_rd.datasets import audit as audits
    from monai_rd.datasets.datalist import read_datalist, write_datalist
    from monai_rd.files import atomic_write
    from monai_rd.pseudonyms import project_key

    secret = project_key(key)
    made, left_out = read_datalist(dataset_dir, datalist, {"default": "skip"}, secret)
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


@app.command()
def students(
    names: Annotated[
        list[str] | None, typer.Argument(help="Such as resnet18 or timm:NAME; the recommended ones by default.")
    ] = None,
    volumes: Annotated[bool, typer.Option("--volumes", help="List those for volumes, 96 x 96 x 96.")] = False,
    image_size: Annotated[int, typer.Option(min=1, help="Rows and columns of images.")] = 224,
    seconds: Annotated[float, typer.Option(min=0, help="Measure so long; three rounds at least.")] = 15,
) -> None:
    """List students: parameters, multiply-accumulates, width, and latency measured on this CPU now."""
    from monai_rd.networks.student.table import FOR_IMAGES, FOR_VOLUMES, measure_students, student_table

    recommended = FOR_VOLUMES if volumes else FOR_IMAGES
    console = terminal()
    with console.status("") as status:
        costs = measure_students(names or recommended, image_size, seconds, lambda name: status.update(Text(name)))
    console.print(student_table(costs))


@app.command("label-app")
def label_app(
    folder: Annotated[Path, typer.Argument(help="The folder to make, for monailabel start_server --app.")],
    bundles: Annotated[list[Path], typer.Argument(help="Folders of trained bundles.")],
) -> None:
    """Write a MONAI Label app that serves trained bundles."""
    from monai_rd.integrations.monai_label.application import write_label_app

    copies = write_label_app(folder, bundles)
    print(f"{folder}: {', '.join(copy.name for copy in copies)}")


@app.command("deploy-app")
def deploy_app(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    bundle: Annotated[str, typer.Argument(help="Folder of a trained bundle, or the name of one of the project's.")],
) -> None:
    """Write a trained bundle as an application for MONAI Deploy: DICOM in, scores and DICOM SR out."""
    from monai_rd.integrations.monai_deploy.application import write_application

    write_application(folder, bundle)
    print(f"{folder}: python {folder / 'app.py'} -i DICOM_FOLDER -o OUTPUT_FOLDER -m {folder / 'models'}")


@teachers.callback()
def list_teachers(context: typer.Context) -> None:
    """List the foundation models that are known by name: size, features, licence and how to get the file."""
    if context.invoked_subcommand is not None:
        return
    from monai_rd.networks.teacher.zoo.table import files_by_hand, teachers_table

    console = terminal()
    console.print(teachers_table())
    console.print(
        "\nBy hand, then --teacher_checkpoint FILE:", *files_by_hand(), sep="\n  ", highlight=False, soft_wrap=True
    )


@teachers.command()
def check(
    name: Annotated[str, typer.Argument(help="Of the list, timm:NAME, open_clip:NAME or a file; several with commas.")],
    file: Annotated[str | None, typer.Argument(help="The weights; of several in the same order: a.pth,,c.pth.")] = None,
    options: Annotated[str | None, typer.Option(help="How it wants its images, as --teacher_options.")] = None,
) -> None:
    """Load a file as a teacher and say what was loaded and how its features look; exit code 1 if they are useless."""
    from monai_rd import bundle, overrides
    from monai_rd.networks.teacher.zoo.loading import in_order, teacher_names
    from monai_rd.networks.teacher.zoo.table import check_file

    names = teacher_names(name)
    told = None if options is None else overrides.settled({"teacher_options": overrides.parsed(options)}, {})
    tables = None if told is None else bundle.options(told["teacher_options"])
    usable = True
    for one, weights, table in in_order(names, file, tables) if len(names) > 1 else [(name, file, tables)]:
        found = check_file(one, weights, table)
        print(*([Path(one).name] if len(names) > 1 else []), found, sep="\n")
        usable = usable and found.usable
    if not usable:
        raise typer.Exit(1)


def main() -> None:
    """Run the command; wrong input ends with one line that says what to do."""
    lasting_streams()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("highdicom").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # what breaks our errors tell, its own hold addresses
    try:
        app()
    except Exception as error:
        if not isinstance(error, (ValueError, OSError)) and not no_room(error):
            raise
        print(f"monai-rd: {printable(_said(error, sys.argv[1:]))}", file=sys.stderr)
        sys.exit(2)


def _said(error: Exception, words: Sequence[str]) -> str:
    """Say an error; of a file that the system does not give only as much of the path as was typed.

    What lies below may be named after a patient.
    """
    if not isinstance(error, OSError) or error.errno is None or error.filename is None or no_room(error):
        return told(error)
    file = os.path.abspath(os.fsdecode(error.filename))
    typed = [part for word in words for part in {word, word.partition("=")[2]} if part]
    known = [part for part in typed if Path(file).is_relative_to(os.path.abspath(part))]
    if not known:
        return f"{words_of_the_system(error)}: a file or folder below none of the paths typed"
    nearest = max(known, key=lambda part: len(os.path.abspath(part)))
    where = nearest if os.path.abspath(nearest) == file else f"something below {nearest}"
    return f"{words_of_the_system(error)}: {where}"


if __name__ == "__main__":
    main()
