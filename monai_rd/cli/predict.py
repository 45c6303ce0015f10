"""`monai-rd predict`: scoring studies from a folder or archive, with the results to a folder or archive."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monai_rd.cli.options import SOME_LEFT_OUT
from monai_rd.console import Words
from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.errors import count_codes

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from monai_rd.inference import Prediction, Predictor
    from monai_rd.integrations.archives.archive import Archive
    from monai_rd.integrations.archives.archive_endpoints import State
    from monai_rd.integrations.archives.endpoints import Sink, Source

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
        Path, typer.Option(help="Archive only: folder that records answered studies and reports waiting to be stored.")
    ] = Path("monai_rd_state"),
    ae_title: Annotated[str, typer.Option(help="Our own AE title for DIMSE archives.")] = "MONAI_RD",
    listen: Annotated[int | None, typer.Option(help="Port to receive images at by C-MOVE, instead of C-GET.")] = None,
) -> None:
    """Score studies with a trained bundle; if some cannot be scored, prints their codes and exits with code 3.

    A study of an archive is answered only once. Arguments after -- are for the bundle's inference.json, such as
    -- --bundle_root DIR.
    """
    from monai_rd.bundle import parse_overrides
    from monai_rd.inference import Predictor, TrainedBundle
    from monai_rd.integrations.archives.archive import Query
    from monai_rd.integrations.archives.archive_endpoints import ArchiveSink, ArchiveSource
    from monai_rd.integrations.archives.archive_url import open_archive
    from monai_rd.integrations.archives.endpoints import FolderSink, FolderSource, Scores

    wanted = frozenset(kind for kind, asked in (("sr", sr), ("text", text), ("sc", sc), ("map", heat)) if asked)
    if wanted and find_spec("highdicom") is None:
        raise ValueError('DICOM objects need highdicom: pip install "monai_rd[dicom]", or leave them out by --no-sr')
    folder = None if _is_archive(source) else FolderSource(Path(source))
    if folder is not None and not _is_archive(to) and Path(to).resolve().is_relative_to(folder.path.resolve()):
        raise ValueError(f"--to {to} lies in --from, and would be scored the next time: give another --to")
    predictor = Predictor(TrainedBundle(bundle, **parse_overrides(words or ())))
    remembers = _is_archive(source) or _is_archive(to)
    with ExitStack() as opened, log_warnings_once(), _remembering(state if remembers else None) as memory:

        def connect(url: str) -> Archive:
            return opened.enter_context(closing(open_archive(url, ae_title, listen)))

        studies: Source
        if folder is None:
            assert memory is not None
            archive = connect(source)
            query = Query(_modality(modality, predictor), since, tuple(study or ()))
            studies = ArchiveSource(archive, query, memory, predictor.algorithm.identity)
        else:
            studies = folder
        answers: Sink
        if memory is not None and _is_archive(to):
            answers = ArchiveSink(connect(to), memory, predictor)
        elif memory is not None:
            answers = FolderSink(Path(to), memory.scores(Path(to), predictor))
        else:
            answers = FolderSink(Path(to), Scores(Path(to) / "scores.csv", predictor))
        made: list[Prediction] = []
        without = 0
        for one in studies:
            predictions = predictor(one)
            objects, failed = _objects(predictor, predictions, wanted)
            if predictions:
                answers.store(predictions, objects)
            made += predictions
            without += failed
        if memory is not None:
            memory.finish()
    if not made and folder is not None:
        raise ValueError(f"--from {source}: no DICOM series, volume file or picture to score")
    scored = [one for one in made if not one.problem]
    print(f"{len(scored)} studies scored, {len(made) - len(scored)} left out: {to}")
    if len(scored) < len(made):
        print(f"left out: {count_codes(one.problem for one in made if one.problem)}")
    flagged = count_codes(code for one in scored for code in one.flags)
    if flagged:
        print(f"flagged: {flagged}")
    left, waiting = getattr(studies, "left", 0), getattr(answers, "waiting", 0)
    if left or waiting:
        print(f"left: {left} studies not answered, {waiting} reports to be stored. The same command again goes on")
    if len(scored) < len(made) or without or left or waiting:
        raise typer.Exit(SOME_LEFT_OUT)


def _is_archive(place: str) -> bool:
    return "://" in place


@contextmanager
def _remembering(folder: Path | None) -> Iterator[State | None]:
    if folder is None:
        yield None
        return
    from monai_rd.integrations.archives.archive_endpoints import State

    memory = State(folder)
    try:
        yield memory
    finally:
        memory.close()


def _modality(given: str | None, predictor: Predictor) -> str:
    if given is None and len(predictor.modalities) != 1:
        known = ", ".join(predictor.modalities) or "none, the training's images were no DICOM"
        raise ValueError(f"give --modality: the training does not say it alone (it knows {known})")
    return given or predictor.modalities[0]


def _objects(
    predictor: Predictor, predictions: list[Prediction], wanted: Collection[str]
) -> tuple[list[tuple[str, Dataset]], int]:
    if not wanted:
        return [], 0
    from monai_rd.integrations.dicom_objects import dicom_objects  # needs highdicom

    return dicom_objects(predictor, predictions, wanted)
