"""What a student is made of, and under which licences, as far as the program or its user knows."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_rd.files import sha256
from monai_rd.licences import Origin, licences_in_words, strictest
from monai_rd.nearest import did_you_mean
from monai_rd.processes import rank

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["DATA", "find_origins", "weights_of"]

logger = logging.getLogger(__name__)

DATA = "training images and labels"
_INITIAL = "initial weights of the student"
_KEYS = ("teacher", "student_weights", "data")


def find_origins(
    teacher: FrozenFoundationModel | None,
    student: str,
    student_weights: str | None,
    phantom: bool,
    licences: Mapping[str, Any] | None = None,
) -> list[Origin]:
    """Return the origins of a student: weights of its teachers, its own initial weights, and data.

    Warns, before a training begins, of weights whose licence forbids commercial use, is not known or has terms of its
    own.

    Args:
        teacher: as loaded; None for a method without one.
        student: name of the student.
        student_weights: its initial weights: None, "imagenet" or a file.
        phantom: whether the data are the project's phantoms.
        licences: licences told by the user, which replace what the program knows: `teacher` (a text, or for several
            teachers a list with None for those that are known), `student_weights` and `data`.

    Raises:
        ValueError: another key, a value that is no text, or a licence of something that is not used.

    Example:
        >>> from monai_rd.card import find_origins
        >>> [one.licence for one in find_origins(None, "resnet18", None, phantom=True)]
        ['Apache-2.0']
    """
    told = dict(licences or {})
    for key in told:
        if key not in _KEYS:
            raise ValueError(f"licences: '{key}' is none of {', '.join(_KEYS)}{did_you_mean(key, _KEYS)}")
    found = [] if teacher is None else [*teacher.origins] or [Origin("teacher weights", teacher.name)]
    found = [_told(one, licence) for one, licence in zip(found, _of_teachers(told, len(found)), strict=True)]
    own = _initial(student, student_weights)
    if own is None and told.get("student_weights") is not None:
        raise ValueError("licences: there are no student_weights whose licence it could be: the student starts random")
    found += [_told(own, told.get("student_weights"))] if own is not None else []
    if phantom:
        data = Origin(DATA, "phantoms drawn by monai_rd", "Apache-2.0", "drawn at the first run", "monai_rd")
    else:
        data = Origin(DATA, "the user's own", source="the user")
    if rank() == 0 and strictest(found) != "allowed":
        remedy = "; --licences tells one" if any(one.commercial_use == "unknown" for one in found) else ""
        said = licences_in_words(found)
        logger.warning("licences: %s; the model card, exports and reports will say so%s", said, remedy)
    return [*found, _told(data, told.get("data"))]


def weights_of(origins: Sequence[Origin]) -> list[Origin]:
    """Return the origins that are weights, which decide how the student may be used as far as the program can tell."""
    return [one for one in origins if one.what != DATA]


def _of_teachers(told: Mapping[str, Any], count: int) -> list[Any]:
    given = told.get("teacher")
    if given is None:
        return [None] * count
    each = given if isinstance(given, (list, tuple)) else [given]
    if len(each) != count:
        raise ValueError(
            f"licences: teacher has {len(each)} for {count} teachers: give a list in their order, None for a known one"
        )
    return list(each)


def _told(origin: Origin, licence: Any) -> Origin:
    if licence is None:
        return origin
    if not isinstance(licence, str) or not licence.strip():
        raise ValueError(f"licences: the licence of {origin.what} must be a text, such as 'MIT', not {licence!r}")
    before = f"{origin.stated_by} states {origin.licence}" if origin.licence else ""
    text = " ".join(licence.split())
    return replace(origin, licence=text, stated_by="the user", commercial_use="unknown", terms=before)


def _initial(student: str, weights: str | os.PathLike[str] | None) -> Origin | None:
    if weights is None:
        return None
    if weights != "imagenet":
        return Origin(_INITIAL, "a file of the user", source="the user", sha256=sha256(Path(weights)))
    library, _, name = student.partition(":")
    if library != "timm":
        return Origin(_INITIAL, f"{student} of torchvision, ImageNet", source="https://pytorch.org/vision")
    import timm

    config = timm.models.get_pretrained_cfg(name)
    hub = config.hf_hub_id or ""
    source = f"https://huggingface.co/{hub}" if hub else "timm"
    by = "timm, for the published weights" if config.license else ""
    return Origin(_INITIAL, f"{student}, ImageNet", config.license or "", source, by, hub=hub)
