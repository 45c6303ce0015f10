"""The settings of a training: saved with the student, and compared when a run is resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_rd.datasets.lists import DataList
from monai_rd.files import sha256
from monai_rd.networks import student_dims
from monai_rd.transforms import scope_of

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["run_settings"]

logger = logging.getLogger(__name__)

FEW = 1000  # labelled training items; with 106 the initial weights mattered more than the method


def run_settings(
    data: DataList,
    teacher: FrozenFoundationModel | None,
    validation: Sequence[Mapping[str, Any]],
    student: str,
    student_weights: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Return the settings of a run, with those that follow from its data and its teacher.

    Args:
        data: the data list.
        teacher: the frozen teacher; None for a method without one.
        validation: the items of the validation set, after preprocessing.
        student: name of the student.
        student_weights: its initial weights: None, "imagenet" or a file.
        settings: all other settings: numbers, strings, None, and lists or dicts of them.

    Returns:
        The settings, with `class_names`, `multi_label`, `teacher` (its name), `student_weights`
        ("random", "imagenet" or the hash of the file) and `scope` (see `scope_of`).
    """
    if teacher is not None and "phantom_" in teacher.name and not settings.get("phantom"):
        logger.warning(
            "the teacher %s was trained on drawn phantoms and knows nothing of real images: give --teacher; `monai-rd "
            "teachers --for MODALITY` recommends some",
            teacher.name,
        )
    few = len(data.training) < FEW and not settings.get("phantom")
    if few and student_weights is None and student_dims(student) == 2:
        logger.info(
            "the student starts from random weights: with few labelled images (here %d) compare "
            "--student_weights imagenet",
            len(data.training),
        )
    return {
        "class_names": list(data.class_names),
        "multi_label": data.multi_label,
        "teacher": None if teacher is None else teacher.name,
        "student": student,
        "student_weights": _named(student_weights),
        **settings,
        "scope": scope_of(data.training + data.validation, validation),
    }


def _named(weights: str | None) -> str:
    if weights is None:
        return "random"
    return weights if weights == "imagenet" else f"sha256 {sha256(Path(weights))}"
