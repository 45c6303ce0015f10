"""Whether the frames of a series are one regular stack of parallel slices, and where that stack lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monai_rd.data.dicom.header import Header, Plane
from monai_rd.data.errors import (
    DicomSeriesError,
    DuplicateSlicesError,
    IrregularSpacingError,
    MissingSlicesError,
    MixedOrientationError,
    MixedSeriesError,
    MixedShapeError,
    NoHounsfieldError,
    TiltedStackError,
    UnsupportedImageError,
)

__all__ = ["Frame", "arrange", "axis_name", "lps_affine"]

# Direction cosines are written with about six digits; a larger difference is another orientation.
_ORIENTATION_TOLERANCE = 1e-4
# Two images closer than this along the normal lie in one plane, in mm.
_SAME_PLANE_MM = 0.01


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of one file: `headers[file].planes[number]`; of a picture, `plane` is None."""

    file: int
    number: int
    header: Header
    plane: Plane | None


def arrange(
    headers: Sequence[Header], tolerate: Callable[[type[DicomSeriesError]], bool]
) -> tuple[list[Frame], list[DicomSeriesError], DicomSeriesError | None]:
    """Put the frames of a series into geometric order.

    Args:
        headers: of the files, in any order.
        tolerate: whether to go on under a problem; asked only for those under which something can be read.

    Returns:
        The frames, ascending along row direction x column direction; the problems tolerated; the problem that was
        not, None where the frames can be read.
    """
    frames = [
        Frame(file, number, header, plane)
        for file, header in enumerate(headers)
        for number, plane in enumerate(header.planes or (None,) * (1 if header.picture else 0))
    ]
    tolerated: list[DicomSeriesError] = []
    while True:
        problem = _first_problem(headers, frames, {type(error) for error in tolerated})
        if problem is None:
            return _in_order(frames), tolerated, None
        if not problem.tolerable or type(problem) in map(type, tolerated) or not tolerate(type(problem)):
            return [], tolerated, problem
        tolerated.append(problem)
        frames = _reduced(frames, type(problem))


def lps_affine(frames: Sequence[Frame]) -> npt.NDArray[np.float64]:
    """Return the affine of frames in order: voxel (column, row, slice, 1) to mm in LPS (PS3.3 C.7.6.2.1.1)."""
    affine = np.eye(4)
    first = frames[0].plane
    if first is None:
        return affine
    affine[:3, 0] = np.multiply(first.orientation[:3], first.spacing[1])
    affine[:3, 1] = np.multiply(first.orientation[3:], first.spacing[0])
    affine[:3, 3] = first.position
    last = frames[-1].plane
    if len(frames) > 1 and last is not None:
        affine[:3, 2] = np.subtract(last.position, first.position) / (len(frames) - 1)
    else:
        affine[:3, 2] = _normal(first) * frames[0].header.thickness
    return affine


def axis_name(plane: Plane) -> str:
    """Name the orientation of a slice: axial, coronal or sagittal within 25 degrees, else oblique."""
    along = np.abs(_normal(plane))
    return ("sagittal", "coronal", "axial")[int(along.argmax())] if along.max() > np.cos(np.radians(25)) else "oblique"


def _normal(plane: Plane) -> npt.NDArray[np.float64]:
    return np.cross(plane.orientation[:3], plane.orientation[3:])


def _depths(frames: Sequence[Frame]) -> npt.NDArray[np.float64]:
    """Return the positions along the normal of the first frame, in mm."""
    planes = [frame.plane for frame in frames if frame.plane is not None]
    return np.array([plane.position for plane in planes]) @ _normal(planes[0])


def _in_order(frames: list[Frame]) -> list[Frame]:
    if any(frame.plane is None for frame in frames):
        return frames
    return [frames[i] for i in np.argsort(_depths(frames), kind="stable")]


# ------------------------------------------------------------------------------------------------------ problems


def _first_problem(
    headers: Sequence[Header], frames: Sequence[Frame], tolerated: set[type[DicomSeriesError]]
) -> DicomSeriesError | None:
    """Return why these images are not read as one by their headers, None where they are."""
    for header in headers:
        if not header.series_uid and header.problem is not None:  # damaged, of whichever series
            return header.problem
    counts = Counter(header.series_uid for header in headers)
    if len(counts) > 1:
        listed = ", ".join(f"{uid or '(no UID)'} ({n} images)" for uid, n in sorted(counts.items())[:8])
        more = ", ..." if len(counts) > 8 else ""
        return MixedSeriesError(
            f"{len(headers)} images of {len(counts)} series lie together: {listed}{more}. List the series with "
            "index_dicom and give load_series the files of one of them."
        )
    uid = headers[0].series_uid
    for header in headers:
        if header.problem is not None and type(header.problem) not in tolerated:
            return header.problem
    if len(headers) > 1 and any(header.picture for header in headers):
        return UnsupportedImageError(
            f"Series {uid}: {len(headers)} pictures without a place in the patient, such as the views of a radiograph "
            "or the clips of an ultrasound; they are no volume. Give load_series one file at a time.",
            uid,
        )
    if len(headers) > 1 and any(header.enhanced for header in headers):
        return UnsupportedImageError(
            f"Series {uid}: {len(headers)} files of which some are multi-frame volumes. Give load_series one file at a "
            "time.",
            uid,
        )
    if headers[0].picture:
        return None
    return (
        _problem_of_files(headers, uid, tolerated)
        or _problem_of_planes(frames, uid, tolerated)
        or _problem_of_hounsfield(headers, uid, tolerated)
    )


def _problem_of_files(
    headers: Sequence[Header], uid: str, tolerated: set[type[DicomSeriesError]]
) -> DicomSeriesError | None:
    names = [header.sop_uid for header in headers if header.sop_uid]
    repeated = len(names) - len(set(names))
    if repeated and DuplicateSlicesError not in tolerated:
        return DuplicateSlicesError(
            f"Series {uid}: {repeated} of {len(headers)} files repeat an image that is already there (same "
            "SOPInstanceUID). Remove the copies.",
            uid,
        )
    if len({header.frame_of_reference for header in headers}) > 1:
        return MixedSeriesError(
            f"Series {uid}: its {len(headers)} images have different frames of reference, so their positions cannot be "
            "compared. Give load_series the files of one frame of reference.",
            uid,
        )
    return None


def _problem_of_hounsfield(
    headers: Sequence[Header], uid: str, tolerated: set[type[DicomSeriesError]]
) -> DicomSeriesError | None:
    lacking = [header.no_hounsfield for header in headers if header.no_hounsfield]
    if lacking and NoHounsfieldError not in tolerated:
        return NoHounsfieldError(
            f"Series {uid}: CT without Hounsfield units ({lacking[0]}; {len(lacking)} of {len(headers)} files). Use "
            "the original reconstruction from the scanner or archive; stored values are not guessed to be HU.",
            uid,
        )
    return None


def _problem_of_planes(
    frames: Sequence[Frame], uid: str, tolerated: set[type[DicomSeriesError]]
) -> DicomSeriesError | None:
    """Check that all planes form one right stack; lengths in mm."""
    who = f"Series {uid}"
    planes = [frame.plane for frame in frames if frame.plane is not None]
    n = len(planes)
    sizes = Counter(frame.header.shape for frame in frames)
    if len(sizes) > 1:
        listed = ", ".join(f"{r} x {c} ({k})" for (r, c), k in sizes.most_common(4))
        return MixedShapeError(
            f"{who}: images of different size, rows x columns (count): {listed}. Give load_series the files of one "
            "size.",
            uid,
        )
    pixel = np.array([plane.spacing for plane in planes])
    if not np.allclose(pixel, pixel[0], rtol=1e-4, atol=0):
        low, high = pixel.min(axis=0), pixel.max(axis=0)
        return MixedShapeError(
            f"{who}: pixel spacing differs between images: rows {low[0]:g} to {high[0]:g} mm, columns {low[1]:g} to "
            f"{high[1]:g} mm. Give load_series the files of one pixel spacing.",
            uid,
        )
    orientation = np.array([plane.orientation for plane in planes])
    other = int((np.abs(orientation - orientation[0]).max(axis=1) > _ORIENTATION_TOLERANCE).sum())
    if other:
        return MixedOrientationError(
            f"{who}: {other} of {n} images have another orientation than the first, as with a localizer among the "
            "slices. Give load_series the files of one orientation.",
            uid,
        )
    if n == 1:
        return None

    depth = _depths(frames)
    order = np.argsort(depth, kind="stable")
    position, depth = np.array([plane.position for plane in planes])[order], depth[order]
    gaps = np.diff(depth)
    same = np.flatnonzero(gaps < _SAME_PLANE_MM)
    if same.size:
        return DuplicateSlicesError(
            f"{who}: {same.size} of {n} images lie in the plane of another one, the first at {_mm(position[same[0]])}. "
            "It may hold several phases, echoes or reconstructions: give load_series the files of one of them.",
            uid,
        )
    sideways = position - depth[:, None] * _normal(planes[0])
    drift = sideways - sideways[0]
    fraction = (depth - depth[0]) / (depth[-1] - depth[0])
    unsteady = float(np.linalg.norm(drift - fraction[:, None] * drift[-1], axis=1).max())
    if unsteady > 0.5 * pixel[0].min() and IrregularSpacingError not in tolerated:
        return IrregularSpacingError(
            f"{who}: slices are shifted sideways against each other by up to {unsteady:.2f} mm, in no straight line. "
            "Resample it to a regular volume first.",
            uid,
        )
    if np.linalg.norm(drift, axis=1).max() > 0.5 * pixel[0].min() and TiltedStackError not in tolerated:
        off = float(np.linalg.norm(drift[-1]))
        angle = np.degrees(np.arctan2(off, depth[-1] - depth[0]))
        return TiltedStackError(
            f"{who}: the slices are not stacked along their normal (off by {off:.2f} mm over the stack, about "
            f"{angle:.1f} degrees), as with a tilted gantry. Resample it to a right-angled volume first.",
            uid,
        )
    return _problem_of_gaps(who, uid, position, depth, tolerated)


def _problem_of_gaps(
    who: str,
    uid: str,
    position: npt.NDArray[np.float64],
    depth: npt.NDArray[np.float64],
    tolerated: set[type[DicomSeriesError]],
) -> DicomSeriesError | None:
    n, gaps = len(depth), np.diff(depth)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    # 1 %, or the rounding of positions written to 0.1 mm.
    uneven = np.flatnonzero(np.abs(gaps - usual) > max(0.01 * usual, min(0.101, 0.2 * usual)))
    lost = int(np.maximum(np.rint(gaps[uneven] / usual) - 1, 0).sum())
    if uneven.size:
        first = int(uneven[0])
        where = (
            f"{who}: {n} slices, usual distance {usual:.3f} mm, but {uneven.size} distance(s) differ, the first is "
            f"{gaps[first]:.3f} mm between {_mm(position[first])} and {_mm(position[first + 1])}"
        )
        if lost and MissingSlicesError not in tolerated:
            return MissingSlicesError(
                f"{where}: about {lost} slice position(s) empty. Fetch the complete series from the archive; gaps are "
                "not interpolated.",
                uid,
            )
        if not lost and IrregularSpacingError not in tolerated:
            return IrregularSpacingError(
                f"{where}: the spacing is irregular. Resample it to an even spacing first.", uid
            )
    drift = np.abs(depth - np.linspace(depth[0], depth[-1], n)).max()
    if drift > 0.25 * usual and not {IrregularSpacingError, MissingSlicesError} & tolerated:
        return IrregularSpacingError(
            f"{who}: the distance between its {n} slices changes along the stack ({gaps.min():.3f} to {gaps.max():.3f} "
            "mm), the spacing is irregular. Resample it to an even spacing first.",
            uid,
        )
    return None


def _reduced(frames: list[Frame], problem: type[DicomSeriesError]) -> list[Frame]:
    """Return the frames that are read under a tolerated problem."""
    if problem is MixedShapeError:
        return _largest(frames, lambda frame: (*frame.header.shape, *_rounded(frame, "spacing", 1e-3)))
    if problem is MixedOrientationError:
        return _largest(frames, lambda frame: _rounded(frame, "orientation", 10 * _ORIENTATION_TOLERANCE))
    if problem is DuplicateSlicesError:
        groups: dict[tuple[float, ...], list[Frame]] = {}
        for frame in frames:
            groups.setdefault(_rounded(frame, "orientation", 10 * _ORIENTATION_TOLERANCE), []).append(frame)
        return [frame for group in groups.values() for frame in _one_of_each_plane(group)]
    return frames


def _one_of_each_plane(frames: list[Frame]) -> list[Frame]:
    """Return the frame of the lowest instance number of each plane; the UID decides, as files have no order."""
    depth = _depths(frames)
    order = np.argsort(depth, kind="stable")
    plane = np.concatenate([[0], np.cumsum(np.diff(depth[order]) >= _SAME_PLANE_MM)])
    kept: dict[int, Frame] = {}
    for index, number in zip(order, plane, strict=True):
        rivals = [frames[index], *([kept[number]] if number in kept else [])]
        kept[number] = min(rivals, key=lambda one: (one.header.instance_number, one.header.sop_uid, one.number))
    return list(kept.values())


def _rounded(frame: Frame, attribute: str, step: float) -> tuple[float, ...]:
    values = getattr(frame.plane, attribute) if frame.plane is not None else ()
    return tuple(round(value / step) for value in values)


def _largest(frames: list[Frame], kind: Callable[[Frame], tuple[float, ...]]) -> list[Frame]:
    """Return the largest group of one kind; of equally large ones the first by kind, as files have no order."""
    groups: dict[tuple[float, ...], list[Frame]] = {}
    for frame in frames:
        groups.setdefault(kind(frame), []).append(frame)
    return max(sorted(groups.items()), key=lambda group: len(group[1]))[1]


def _mm(position: npt.NDArray[np.float64]) -> str:
    return "({:.2f}, {:.2f}, {:.2f}) mm".format(*position)
