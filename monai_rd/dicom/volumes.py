"""Splitting of a series' frames into volumes, if several frames lie in the same plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from monai_rd.dicom.frames import Frame, stacks_and_planes
from monai_rd.dicom.marks import Key, Marks, named

__all__ = ["Volume", "largest", "one_of_each_plane", "volumes", "without_copies"]

# Largest number of attributes that are combined to distinguish the volumes of a series.
_MOST_MARKS = 4


@dataclass(frozen=True)
class Volume:
    """Frames that form one volume, normally each in a plane of its own.

    Attributes:
        name: description that distinguishes it from other volumes of its series, such as "echo time 4.6 ms"; "" if
            there are no others, or nothing distinguishes them.
        frames: frames of the volume.
    """

    name: str
    frames: list[Frame]


def volumes(frames: Sequence[Frame]) -> list[Volume]:
    """Split frames into volumes that lie in the same planes, such as the echoes, phases or b-values of one series.

    The frames are split by the attribute, or the smallest combination of attributes, that yields as many groups as
    there are images in the fullest plane, with each plane at most once in a group. Attributes that differ from slice
    to slice yield more groups and are therefore not used. Among several candidates the order of `monai_rd.dicom.marks`
    decides.

    Args:
        frames: frames of one series, each with a plane.

    Returns:
        The volumes, ordered by the values of these attributes; a single one if each plane holds one frame, or if no
        attributes split the frames in this way.
    """
    single = without_copies(frames)
    stack, plane = stacks_and_planes(single)
    full = {int(n): int(np.bincount(plane[stack == n]).max()) for n in np.unique(stack)}
    crowded = [(stack == n, count) for n, count in full.items() if count > 1]
    marks = [_marks(frame) for frame in single]
    codes = {key: _numbered([one.get(key) for one in marks]) for key in sorted({key for one in marks for key in one})}
    told = {
        code.tobytes(): key  # the first of the attributes that split the frames in the same way
        for key, code in reversed(codes.items())
        if crowded and code.max() > 0 and all(len(np.unique(code[own])) <= count for own, count in crowded)
    }
    for size in range(1, _MOST_MARKS + 1):
        for chosen in combinations(sorted(told.values()), size):
            sizes = [int(codes[key].max()) + 1 for key in chosen]
            if math.prod(sizes) < max(count for _, count in crowded):
                continue
            code = np.ravel_multi_index([codes[key] for key in chosen], sizes)
            if all(_parts(code[own], plane[own], count) for own, count in crowded):
                return _grouped(frames, chosen)
    return [Volume("", list(frames))]


def largest(found: Sequence[Volume]) -> Volume:
    """Return the volume with the most frames, the first of these if there are several."""
    return max(found, key=lambda one: len(one.frames))


def _parts(code: npt.NDArray[np.int64], plane: npt.NDArray[np.int64], count: int) -> bool:
    """Return whether a code splits the frames of a stack into `count` groups, each plane once in a group."""
    return len(np.unique(code)) == count and len(np.unique(code * (plane.max() + 1) + plane)) == len(code)


def _grouped(frames: Sequence[Frame], keys: Sequence[Key]) -> list[Volume]:
    marks = [_marks(frame) for frame in frames]
    names = [named(key, (one.get(key) for one in marks)) for key in keys]
    order = [list(of_key) for of_key in names]
    groups: dict[tuple[int, ...], list[Frame]] = {}
    for frame, one in zip(frames, marks, strict=True):
        place = tuple(values.index(one.get(key)) for key, values in zip(keys, order, strict=True))
        groups.setdefault(place, []).append(frame)
    return [
        Volume(", ".join(of_key[values[n]] for of_key, values, n in zip(names, order, place, strict=True)), own)
        for place, own in sorted(groups.items())
    ]


def _marks(frame: Frame) -> Marks:
    return frame.header.marks[frame.number if len(frame.header.marks) > 1 else 0]


def _numbered(values: Sequence[object]) -> npt.NDArray[np.int64]:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values])


def without_copies(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames without copies: the same image (SOPInstanceUID) and frame number at the same position."""
    found: dict[object, Frame] = {}
    for frame in frames:
        uid = frame.header.sop_uid
        position = frame.plane.position if frame.plane is not None else None
        key = (uid, frame.number, position, frozenset(_marks(frame).items())) if uid else id(frame)
        if key not in found or frame.header.instance_number < found[key].header.instance_number:
            found[key] = frame
    return list(found.values())


def one_of_each_plane(frames: Sequence[Frame]) -> list[Frame] | None:
    """Return the first image of each plane by InstanceNumber, None if that could mix images of several volumes.

    Mixing is excluded if all omitted images come after all selected ones, or if the images of each plane are
    consecutive and each plane has the same number of images.
    """
    _, plane = stacks_and_planes(frames)
    order = [(frame.header.instance_number, frame.number) for frame in frames]
    ranked = sorted(range(len(frames)), key=order.__getitem__)
    first: dict[int, int] = {}
    for i in ranked:
        first.setdefault(int(plane[i]), i)
    taken = set(first.values())
    left = [order[i] for i in ranked if i not in taken]
    after = not left or max(order[i] for i in taken) < left[0]
    equally = len(set(order)) == len(order) and len(set(np.bincount(plane))) == 1
    in_turn = equally and (np.diff(plane[ranked]) != 0).sum() == len(first) - 1
    return [frames[i] for i in sorted(taken)] if after or in_turn else None
