"""What the entries of teachers of volumes state about their training volumes, for the defaults of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_rd.networks.preprocessing import VolumePreprocessing
from monai_rd.networks.teacher.zoo.entries import TEACHERS
from monai_rd.networks.teacher.zoo.entry import TeacherEntry
from monai_rd.networks.teacher.zoo.loading import described_entry, teacher_names

__all__ = ["StatedVolume", "check_field", "stated_volume"]

_TOLERANCE = 0.05


@dataclass(frozen=True)
class StatedVolume:
    """What a teacher states about its training volumes; each is None if it is not stated.

    Args:
        spacing: in mm along x, y and z.
        field: size of its input in mm along x, y and z, if it takes a fixed number of voxels of a stated spacing.
        window: centre and width in HU of the values that become 0 to 1.

    Example:
        >>> from monai_rd.networks import stated_volume
        >>> stated_volume("ct_fm")
        StatedVolume(spacing=[1.0, 1.0, 3.0], field=None, window=[512.0, 3072.0])
    """

    spacing: list[float] | None = None
    field: list[float] | None = None
    window: list[float] | None = None


def stated_volume(teacher: str, options: Any = None) -> StatedVolume:
    """Return what a teacher states, without loading it.

    Args:
        teacher: its name or file, or several, of which the first that states a spacing counts.
        options: the run's `teacher_options`; a `size` among them replaces the fixed number of voxels.
    """
    names = teacher_names(teacher)
    tables = options if isinstance(options, Sequence) and not isinstance(options, str) else [options] * len(names)
    stated = [_stated(entry, table) for name, table in zip(names, tables, strict=False) if (entry := _entry(name))]
    return next((one for one in stated if one.spacing is not None), stated[0] if stated else StatedVolume())


def check_field(teacher: str, field: Sequence[float] | None, options: Any = None) -> None:
    """Check that a teacher of a fixed number of voxels sees them at its own spacing.

    Args:
        teacher: see `stated_volume`.
        field: of the run, in mm along x, y and z; None for images.
        options: see `stated_volume`.

    Raises:
        ValueError: the field differs from the teacher's by more than 5 %.
    """
    stated = stated_volume(teacher, options).field
    if field is None or stated is None:
        return
    if any(abs(own - given) > _TOLERANCE * own for own, given in zip(stated, field, strict=True)):
        told = [" ".join(f"{mm:g}" for mm in lengths) for lengths in (stated, field)]
        raise ValueError(
            f"--field {told[1]}: the teacher '{teacher}' takes a fixed number of voxels, which are {told[0]} mm at the "
            "spacing that it was trained at: leave --field out, or take another teacher"
        )


def _entry(name: str) -> TeacherEntry | None:
    if name in TEACHERS:
        return TEACHERS[name]
    return described_entry(Path(name)) if name.endswith(".safetensors") else None


def _stated(entry: TeacherEntry, options: Any) -> StatedVolume:
    window = None if entry.centre_and_width is None else [float(one) for one in entry.centre_and_width]
    if entry.spacing is None or not isinstance(entry.preprocessing, VolumePreprocessing):
        return StatedVolume(window=window)
    field, voxels = None, entry.preprocessing.voxels
    if voxels is not None and not (isinstance(options, Mapping) and "size" in options):
        field = [round(math.prod(pair), 6) for pair in zip(voxels, entry.spacing, strict=True)][::-1]
    return StatedVolume(list(entry.spacing)[::-1], field, window)
