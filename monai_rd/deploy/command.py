"""`monai-rd predict`: studies from somewhere, answers to somewhere."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monai_rd.data.errors import count_codes

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from monai_rd.deploy.predict import Prediction, Predictor

__all__ = ["predict"]

logger = logging.getLogger(__name__)

SOME_LEFT_OUT = 3


def predict(
    context: typer.Context,
    bundle: Annotated[str, typer.Argument(help="Name of a bundle, or the folder of a trained one.")],
    source: Annotated[str, typer.Option("--from", help="A folder, nested and mixed as it may be, or a DICOMDIR.")],
    to: Annotated[str, typer.Option("--to", help="Folder for scores.csv, scores.json and dicom/.")],
    sr: Annotated[bool, typer.Option(help="Write a DICOM structured report of each scored DICOM study.")] = True,
    sc: Annotated[bool, typer.Option(help="Write a DICOM picture that shows where the student looked.")] = False,
) -> None:
    """Score studies by a trained bundle; exit code 3 if some could not be scored, and their codes.

    Words after -- are for the bundle's inference.json, such as -- --bundle_root DIR.
    """
    from monai_rd.deploy.places import FolderSource, sink_of, source_of
    from monai_rd.deploy.predict import Predictor
    from monai_rd.protocol.experiments import words_as_overrides

    if (sr or sc) and find_spec("highdicom") is None:
        raise ValueError('DICOM objects need highdicom: pip install "monai_rd[dicom]", or leave them out by --no-sr')
    studies = source_of(source)
    if isinstance(studies, FolderSource) and Path(to).resolve().is_relative_to(studies.path.resolve()):
        raise ValueError(f"--to {to} lies in --from, and would be scored the next time: give another --to")
    predictor = Predictor(bundle, **words_as_overrides(context.args))
    answers = sink_of(to, predictor)
    made: list[Prediction] = []
    without = 0
    for folder in studies:
        predictions = predictor(folder)
        objects, failed = _objects(predictor, predictions, sr, sc)
        if predictions:
            answers.store(predictions, objects)
        made += predictions
        without += failed
    if not made and isinstance(studies, FolderSource):
        raise ValueError(f"--from {source}: no DICOM series, NIfTI volume or image to score")
    scored = [one for one in made if not one.problem]
    print(f"{len(scored)} studies scored, {len(made) - len(scored)} left out: {to}")
    if len(scored) < len(made):
        print(f"left out: {count_codes(one.problem for one in made if one.problem)}")
    flagged = count_codes(code for one in scored for code in one.flags)
    if flagged:
        print(f"flagged: {flagged}")
    if len(scored) < len(made) or without:
        raise typer.Exit(SOME_LEFT_OUT)


def _objects(
    predictor: Predictor, predictions: list[Prediction], sr: bool, sc: bool
) -> tuple[list[tuple[str, Dataset]], int]:
    """DICOM objects of the scored DICOM studies with their file names, and how many studies lack one."""
    if not (sr or sc):
        return [], 0
    from monai_rd.deploy.dicom_output import NoObjectError, secondary_capture, structured_report
    from monai_rd.deploy.explanation import explanation_picture
    from monai_rd.deploy.predict import without_paths

    found: list[tuple[str, Dataset]] = []
    failed = 0
    for one in predictions:
        if one.problem or not one.series:
            continue
        try:
            if sr:
                found.append((f"{one.id}_sr.dcm", structured_report(one, predictor.algorithm)))
            if sc:
                pixels = explanation_picture(predictor, one)
                found.append((f"{one.id}_sc.dcm", secondary_capture(one, predictor.algorithm, pixels)))
        except NoObjectError as error:
            failed += 1
            logger.warning("%s", error)
        except Exception as error:  # of one study, which must not cost the others their answers
            failed += 1
            logger.warning("study %s: no DICOM object was made of it, because of %s", one.id, without_paths(error))
    return found, failed
