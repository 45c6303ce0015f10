"""All DICOM objects of the predictions of a folder; a study whose object cannot be made does not affect the others."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from monai_rd.inference.predictor import without_paths
from monai_rd.integrations.dicom_output import (
    NoObjectError,
    parametric_map,
    secondary_capture,
    structured_report,
    text_report,
)
from monai_rd.integrations.explanation import explanation_picture, heat_map, looks, picture_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from monai_rd.inference import Prediction, Predictor

__all__ = ["dicom_objects"]

logger = logging.getLogger(__name__)


def dicom_objects(
    predictor: Predictor, predictions: Sequence[Prediction], wanted: Collection[str]
) -> tuple[list[tuple[str, Dataset]], int]:
    """Make DICOM objects of the scored DICOM studies.

    Args:
        predictor: the predictor that made the predictions.
        predictions: with the files that they were made of; those with a problem, or not of DICOM, are left out.
        wanted: kinds of objects: "sr", "text", "sc", "map".

    Returns:
        The objects, each with a file name without patient data, and how many studies lack one; the log says why.
    """
    found: list[tuple[str, Dataset]] = []
    failed = 0
    for one in predictions:
        if one.problem or not one.series:
            continue
        try:
            if "sr" in wanted:
                found.append((f"{one.id}_sr.dcm", structured_report(one, predictor.algorithm)))
            if "text" in wanted:
                found.append((f"{one.id}_text.dcm", text_report(one, predictor.algorithm)))
            shown = looks(predictor, one) if "map" in wanted else None
            if "sc" in wanted:
                if shown is None:
                    pixels = explanation_picture(predictor, one)
                else:
                    pixels = picture_of(shown.best, one, predictor.algorithm)
                found.append((f"{one.id}_sc.dcm", secondary_capture(one, predictor.algorithm, pixels)))
            if shown is not None:
                heat = heat_map(shown.at, shown.slices)
                found.append((f"{one.id}_map.dcm", parametric_map(one, predictor.algorithm, heat)))
        except NoObjectError as error:
            failed += 1
            logger.warning("%s", error)
        except Exception as error:  # one study's failure must not affect the others
            failed += 1
            logger.warning("study %s: no DICOM object was made of it, because of %s", one.id, without_paths(error))
    return found, failed
