"""`monai-rd predict`: scoring studies from a folder or archive, with the results to a folder or archive."""

from __future__ import annotations

from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from monai_rd.cli.options import SOME_LEFT_OUT
from monai_rd.console import Words
from monai_rd.errors import count_codes

__all__ = ["predict"]


def predict(
    bundle: Annotated[str, typer.Argument(help="Name of a bundle, or folder of a trained bundle.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="A folder, searched with all its subfolders, a DICOMDIR, a list (CSV, Excel or JSON, with paths "
            "relative to its folder), or an archive: http(s)://HOST/dicom-web or dimse://AE_TITLE@HOST:PORT.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="A folder for scores and dicom/, or an archive.")],
    words: Words = None,
    sr: Annotated[bool, typer.Option(help="Write a DICOM structured report for each scored DICOM study.")] = True,
    text: Annotated[
        bool,
        typer.Option(
            help="Write a DICOM report in plain text, for viewers that show no measurements without coordinates (OHIF)."
        ),
    ] = False,
    sc: Annotated[bool, typer.Option(help="Write a DICOM picture that shows where the student looked.")] = False,
    heat: Annotated[
        bool,
        typer.Option(
            "--map/--no-map",
            help="Write a DICOM parametric map of where the student looked, to be laid over a series (CT, MR).",
        ),
    ] = False,
    modality: Annotated[
        str | None, typer.Option(help="Archive only: modality of the studies; by default that of the training data.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Archive only: studies of this day or later, YYYYMMDD.")] = None,
    study: Annotated[list[str] | None, typer.Option(help="Archive only: a StudyInstanceUID; may be repeated.")] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder that remembers answered studies and reports waiting to be stored, which several processes may "
            "share; with an archive monai_rd_state by default."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that share the work on this machine.")] = 1,
    ae_title: Annotated[str, typer.Option(help="Our own AE title for DIMSE archives.")] = "MONAI_RD",
    listen: Annotated[int | None, typer.Option(help="Port to receive images at by C-MOVE, instead of C-GET.")] = None,
) -> None:
    """Score studies with a trained bundle; if some cannot be scored, prints their codes and exits with code 3.

    A study of an archive is answered only once; one of a folder too, if --state is given. Arguments after -- are for
    the bundle's inference.json, such as -- --bundle_root DIR.
    """
    from monai_rd.bundle import parse_overrides
    from monai_rd.integrations.archives.state import State
    from monai_rd.integrations.scoring import Task, is_archive, listing, score
    from monai_rd.integrations.workers import score_by_workers

    wanted = frozenset(kind for kind, asked in (("sr", sr), ("text", text), ("sc", sc), ("map", heat)) if asked)
    if wanted and find_spec("highdicom") is None:
        raise ValueError('DICOM objects need highdicom: pip install "monai_rd[dicom]", or leave them out by --no-sr')
    if not is_archive(source) and not Path(source).exists():
        raise FileNotFoundError(f"--from {source}: no such folder, DICOMDIR or list")
    if not is_archive(source) and not is_archive(to) and Path(to).resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"--to {to} lies in --from, and would be scored the next time: give another --to")
    if state is None and (is_archive(source) or is_archive(to)):
        state = Path("monai_rd_state")
    if workers > 1 and state is None:
        raise ValueError(f"--workers {workers}: workers share a folder that remembers what is scored: give --state")
    if workers > 1 and listen is not None:
        raise ValueError(f"--workers {workers}: one process alone can listen at port {listen}: leave out --listen")
    overrides, uids = parse_overrides(words or ()), tuple(study or ())
    task = Task(bundle, overrides, source, to, wanted, modality, since, uids, state, ae_title, listen)
    if workers > 1:
        done = score_by_workers(task, workers)
    elif state is not None:
        with closing(State(state)) as own, listing(own, to):
            done = score(task, own)
    else:
        done = score(task, None)
    if done.empty:
        raise ValueError(f"--from {source}: no DICOM series, volume file or picture to score")
    print(f"{done.scored} studies scored, {done.problems.total()} left out: {to}")
    if done.problems:
        print(f"left out: {count_codes(done.problems.elements())}")
    if done.flags:
        print(f"flagged: {count_codes(done.flags.elements())}")
    if done.left or done.waiting:
        left = f"{len(done.left)} studies not answered, {done.waiting} reports to be stored"
        print(f"left: {left}. The same command again goes on")
    if done.problems or done.without or done.left or done.waiting:
        raise typer.Exit(SOME_LEFT_OUT)
