"""The frames of a series' files, and their grouping by plane."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monai_rd.dicom.header import Header
from monai_rd.dicom.planes import Plane

__all__ = ["ORIENTATION_TOLERANCE", "SAME_PLANE_MM", "Frame", "SeriesFiles", "depths", "normal", "stacks_and_planes"]

# Direction cosines are written with about six digits; a larger difference means another orientation.
ORIENTATION_TOLERANCE = 1e-4
# Images closer than this along the normal lie in the same plane, in mm.
SAME_PLANE_MM = 0.01


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of one file: `plane` is `headers[file].planes[number]`, or None for a picture."""

    file: int
    number: int
    header: Header
    plane: Plane | None


class SeriesFiles(tuple[Path, ...]):
    """The files of one volume (a tuple of paths), and their frames that belong to it.

    Args:
        files: paths of the files.
        frames: for each file the numbers, from 0, of the frames that belong to the volume; () if all frames do.
    """

    frames: tuple[tuple[int, ...], ...]

    def __new__(cls, files: Iterable[Path], frames: Iterable[Iterable[int]] = ()) -> SeriesFiles:
        """Create the tuple of paths."""
        made = super().__new__(cls, files)
        made.frames = tuple(tuple(numbers) for numbers in frames)
        return made


def normal(plane: Plane) -> npt.NDArray[np.float64]:
    """Return the normal vector of a plane, row direction x column direction."""
    return np.cross(plane.orientation[:3], plane.orientation[3:])


def depths(frames: Sequence[Frame]) -> npt.NDArray[np.float64]:
    """Return the frames' positions along the normal of the first frame, in mm; all frames must have a plane."""
    planes = [frame.plane for frame in frames if frame.plane is not None]
    return np.array([plane.position for plane in planes]) @ normal(planes[0])


def stacks_and_planes(frames: Sequence[Frame]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Number the stacks and the planes of frames; a stack is all frames of one size, spacing and orientation.

    Returns:
        For each frame the number of its stack, and the number of its plane among the planes of all stacks.
    """
    what = np.array([(*one.header.shape, *one.plane.spacing, *one.plane.orientation) for one in frames if one.plane])
    tolerance = np.array([0.5, 0.5, 1e-3, 1e-3, *[ORIENTATION_TOLERANCE] * 6])
    stack, plane = np.full(len(frames), -1), np.zeros(len(frames), dtype=np.int64)
    count = 0
    while (left := np.flatnonzero(stack < 0)).size:
        own = left[(np.abs(what[left] - what[left[0]]) <= tolerance).all(axis=1)]
        stack[own] = stack.max() + 1
        depth = depths([frames[i] for i in own])
        order = np.argsort(depth, kind="stable")
        plane[own[order]] = count + np.concatenate([[0], np.cumsum(np.diff(depth[order]) >= SAME_PLANE_MM)])
        count = int(plane[own].max()) + 1
    return stack, plane
