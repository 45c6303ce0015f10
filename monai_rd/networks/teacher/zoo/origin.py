"""Where a teacher's weights come from, and under which licence, for the papers of the student that learns from them."""

from __future__ import annotations

from pathlib import Path

from monai_rd.files import sha256
from monai_rd.licences import CommercialUse, Origin, commercial_use_of
from monai_rd.networks.teacher.zoo.entries import TEACHERS
from monai_rd.networks.teacher.zoo.entry import TeacherEntry

__all__ = ["WHAT", "origin_of"]

WHAT = "teacher weights"


def origin_of(name: str, entry: TeacherEntry, weights: Path, given: bool) -> Origin:
    """Return the origin of a teacher's weights.

    Args:
        name: by which the teacher was asked for.
        entry: its description.
        weights: the file that was loaded.
        given: whether the user gave this file, so that nobody knows whether it is the published one.
    """
    digest, published = sha256(weights), entry.hub.sha256 if entry.hub is not None else None
    uncompared = "; that the file given holds them was not checked" if given and digest != published else ""
    if name in TEACHERS:
        by = f"the teacher zoo of monai_rd, for the published weights{uncompared}"
    elif name.endswith(".safetensors"):
        by = "the description in the file"
    elif entry.licence.startswith("not stated"):
        by = ""
    else:
        by = "its folder" if name.startswith("local-dir:") else f"timm, for the published weights{uncompared}"
    return Origin(
        what=WHAT,
        name=entry.name,
        licence="" if not by or entry.licence == "unknown" else entry.licence,
        source=entry.source,
        stated_by=by,
        commercial_use=entry.commercial_use if name in TEACHERS else _of_text(entry),
        terms=entry.terms,
        sha256=digest,
        hub=entry.hub.repo if entry.hub is not None and entry.hub.repo_type == "model" else "",
    )


def _of_text(entry: TeacherEntry) -> CommercialUse:
    return "forbidden" if entry.non_commercial else commercial_use_of(entry.licence)
