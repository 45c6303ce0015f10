"""Geometry of a series: the check that its frames are one regular stack of parallel slices, and their affine.

Other readers (GDCM, ITK, MONAI) sort the slices and go on, at best with a warning. Here a series that is not a regular
stack is refused with a code that says why. The tests compare the volumes that are read with those of other readers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from monai_rd.dicom.frames import ORIENTATION_TOLERANCE, SAME_PLANE_MM, Frame, depths, normal
from monai_rd.dicom.header import Header
from monai_rd.dicom.planes import Plane
from monai_rd.dicom.unnamed import problem_of_unnamed
from monai_rd.dicom.volumes import largest, one_of_each_plane, volumes, without_copies
from monai_rd.errors import (
    DicomSeriesError,
    DuplicateSlicesError,
    IrregularSpacingError,
    MissingSlicesError,
    MixedOrientationError,
    MixedSeriesError,
    MixedShapeError,
    NoHounsfieldError,
    NoSeriesUidError,
    NotAnImageError,
    TiltedStackError,
    UnsupportedImageError,
)

__all__ = ["arrange", "axis_name", "lps_affine"]

_LISTED = "monai-rd index lists them (in Python index_dicom)"


def arrange(
    headers: Sequence[Header],
    tolerate: Callable[[type[DicomSeriesError]], bool],
    only: Sequence[Sequence[int]] = (),
) -> tuple[list[Frame], list[DicomSeriesError], DicomSeriesError | None]:
    """Check the frames of a series and put them into geometric order.

    Args:
        headers: headers of the files, in any order.
        tolerate: whether to go on despite a kind of problem; only called for problems that can be tolerated.
        only: for each file the numbers of the frames to use; () for all frames.

    Returns:
        The frames, ascending along row direction x column direction ([] if they cannot be read); the problems
        tolerated; the problem that was not tolerated, None if the frames can be read.
    """
    frames = [
        Frame(file, number, header, plane)
        for file, header in enumerate(headers)
        for number, plane in enumerate(header.planes or (None,) * (1 if header.picture else 0))
        if not only or number in only[file]
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
    """Return the affine `[4, 4]` of ordered frames, voxel (column, row, slice, 1) to mm in LPS (PS3.3 C.7.6.2.1.1)."""
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
        affine[:3, 2] = normal(first) * frames[0].header.thickness
    return affine


def axis_name(plane: Plane) -> str:
    """Return the orientation of a slice: "axial", "coronal" or "sagittal" within 25 degrees, else "oblique"."""
    along = np.abs(normal(plane))
    return ("sagittal", "coronal", "axial")[int(along.argmax())] if along.max() > np.cos(np.radians(25)) else "oblique"


def _in_order(frames: list[Frame]) -> list[Frame]:
    if any(frame.plane is None for frame in frames):
        return frames
    return [frames[i] for i in np.argsort(depths(frames), kind="stable")]


# ------------------------------------------------------------------------------------------------------ problems


def _first_problem(
    headers: Sequence[Header], frames: Sequence[Frame], tolerated: set[type[DicomSeriesError]]
) -> DicomSeriesError | None:
    """Return why these images cannot be read as one volume or picture, by their headers; None if they can."""
    for header in headers:
        damaged = not header.series_uid and header.problem is not None  # its series is unknown
        if damaged or isinstance(header.problem, NotAnImageError):
            return header.problem
    counts = Counter(header.series_uid for header in headers)
    if len(counts) > 1:
        listed = ", ".join(f"{uid or '(no UID)'} ({n} images)" for uid, n in sorted(counts.items())[:8])
        more = ", ..." if len(counts) > 8 else ""
        return MixedSeriesError(
            f"{len(headers)} images of {len(counts)} series lie together: {listed}{more}. Read one series at a time; "
            f"{_LISTED}."
        )
    uid = headers[0].series_uid
    for header in headers:
        if header.problem is not None and type(header.problem) not in tolerated:
            return header.problem
    unnamed = problem_of_unnamed(headers)
    if unnamed is not None and NoSeriesUidError not in tolerated:
        return unnamed
    if len(headers) > 1 and any(header.picture for header in headers):
        return UnsupportedImageError(
            f"Series {uid}: {len(headers)} pictures without a place in the patient, such as the views of a radiograph "
            "or the clips of an ultrasound; they are no volume. Read each by itself.",
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
            "compared. Export the images of each frame of reference as a series of their own.",
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
    """Check that all planes form one right-angled stack; lengths in mm."""
    who = f"Series {uid}"
    planes = [frame.plane for frame in frames if frame.plane is not None]
    n = len(planes)
    sizes = Counter(frame.header.shape for frame in frames)
    if len(sizes) > 1:
        listed = ", ".join(f"{r} x {c} ({k})" for (r, c), k in sizes.most_common(4))
        return MixedShapeError(
            f"{who}: images of different size, rows x columns (count): {listed}. {_policy(MixedShapeError)}",
            uid,
        )
    pixel = np.array([plane.spacing for plane in planes])
    if not np.allclose(pixel, pixel[0], rtol=1e-4, atol=0):
        low, high = pixel.min(axis=0), pixel.max(axis=0)
        return MixedShapeError(
            f"{who}: pixel spacing differs between images: rows {low[0]:g} to {high[0]:g} mm, columns {low[1]:g} to "
            f"{high[1]:g} mm. {_policy(MixedShapeError)}",
            uid,
        )
    orientation = np.array([plane.orientation for plane in planes])
    other = int((np.abs(orientation - orientation[0]).max(axis=1) > ORIENTATION_TOLERANCE).sum())
    if other:
        return MixedOrientationError(
            f"{who}: {other} of {n} images have another orientation than the first, as with a localizer among the "
            f"slices. {_policy(MixedOrientationError)}",
            uid,
        )
    if n == 1:
        return None

    depth = depths(frames)
    order = np.argsort(depth, kind="stable")
    position, depth = np.array([plane.position for plane in planes])[order], depth[order]
    gaps = np.diff(depth)
    same = np.flatnonzero(gaps < SAME_PLANE_MM)
    if same.size:
        return _problem_of_duplicates(frames, uid, f"{same.size} of {n}", position[same[0]])
    sideways = position - depth[:, None] * normal(planes[0])
    drift = sideways - sideways[0]
    fraction = (depth - depth[0]) / (depth[-1] - depth[0])
    unsteady = float(np.linalg.norm(drift - fraction[:, None] * drift[-1], axis=1).max())
    if unsteady > 0.5 * pixel[0].min() and IrregularSpacingError not in tolerated:
        return IrregularSpacingError(
            f"{who}: slices are shifted sideways against each other by up to {unsteady:.2f} mm, in no straight line. "
            f"Resample it to a regular volume first. {_policy(IrregularSpacingError)}",
            uid,
        )
    if np.linalg.norm(drift, axis=1).max() > 0.5 * pixel[0].min() and TiltedStackError not in tolerated:
        off = float(np.linalg.norm(drift[-1]))
        angle = np.degrees(np.arctan2(off, depth[-1] - depth[0]))
        return TiltedStackError(
            f"{who}: the slices are not stacked along their normal (off by {off:.2f} mm over the stack, about "
            f"{angle:.1f} degrees), as with a tilted gantry. Resample it to a right-angled volume first. "
            f"{_policy(TiltedStackError)}",
            uid,
        )
    return _problem_of_gaps([frames[i] for i in order], uid, position, depth, tolerated)


def _problem_of_duplicates(
    frames: Sequence[Frame], uid: str, count: str, position: npt.NDArray[np.float64]
) -> DicomSeriesError:
    where = f"Series {uid}: {count} images lie in the plane of another one, the first at {_mm(position)}"
    found = volumes(frames)
    if len(found) > 1:
        listed = "; ".join(f"{one.name} ({len(one.frames)} images)" for one in found[:8])
        more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
        problem = DuplicateSlicesError(
            f"{where}. They are {len(found)} volumes: {listed}{more}. Read one of them; {_LISTED}.", uid
        )
        problem.tolerable = f"{largest(found).name}, the largest of them or the first of the largest"
        return problem
    problem = DuplicateSlicesError(
        f"{where}. It may hold several phases, echoes or reconstructions, and nothing in the headers tells them apart. "
        "Export each as a series of its own.",
        uid,
    )
    if one_of_each_plane(frames) is None:
        problem.tolerable = ""
    return problem


def _problem_of_gaps(
    frames: Sequence[Frame],
    uid: str,
    position: npt.NDArray[np.float64],
    depth: npt.NDArray[np.float64],
    tolerated: set[type[DicomSeriesError]],
) -> DicomSeriesError | None:
    who, n, gaps = f"Series {uid}", len(depth), np.diff(depth)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    # Tolerance: 1 %, or the rounding of positions written to 0.1 mm.
    slack = max(0.01 * usual, min(0.101, 0.2 * usual))
    uneven = np.flatnonzero(np.abs(gaps - usual) > slack)
    lost = int(np.maximum(np.rint(gaps[uneven] / usual) - 1, 0).sum())
    if lost and _planned(frames, gaps, usual, slack):
        lost = 0
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
                f"{where}: the spacing is irregular, as of thin and thick slices. Resample it to an even spacing "
                f"first. {_policy(IrregularSpacingError)}",
                uid,
            )
    drift = np.abs(depth - np.linspace(depth[0], depth[-1], n)).max()
    if drift > 0.25 * usual and not {IrregularSpacingError, MissingSlicesError} & tolerated:
        return IrregularSpacingError(
            f"{who}: the distance between its {n} slices changes along the stack ({gaps.min():.3f} to {gaps.max():.3f} "
            f"mm), the spacing is irregular. Resample it to an even spacing first. {_policy(IrregularSpacingError)}",
            uid,
        )
    return None


def _planned(frames: Sequence[Frame], gaps: npt.NDArray[np.float64], usual: float, slack: float) -> bool:
    """Return whether uneven distances were planned (such as thin and thick slices) and are not due to missing slices.

    Where slices are missing, single distances are integer multiples of the usual one, the slices there are as thick as
    the others, and their instance numbers are missing too. A planned stack has runs of another distance.
    """
    wide, steady = gaps > usual + slack, np.abs(gaps - usual) <= slack
    multiple = np.rint(gaps / usual)
    numbers = np.diff([frame.header.instance_number for frame in frames])
    if steady.any() and numbers[steady].any() and (numbers == numbers[steady][0] * multiple).all():
        return False
    thickness = np.array([frame.header.thickness for frame in frames])
    thicker = np.abs(np.diff(thickness)) > 0.1 * thickness[:-1]
    part = (multiple < 4) & (np.abs(gaps / usual - multiple) > 0.25)
    again = wide[1:] & wide[:-1] & (np.abs(np.diff(gaps)) <= slack)
    return bool((wide & (thicker | part)).any() or (again[1:] & again[:-1]).any())


def _reduced(frames: list[Frame], problem: type[DicomSeriesError]) -> list[Frame]:
    """Return the frames that are read despite a tolerated problem."""
    if problem is MixedShapeError:
        return _largest(frames, lambda frame: (*frame.header.shape, *_rounded(frame, "spacing", 1e-3)))
    if problem is MixedOrientationError:
        return _largest(frames, lambda frame: _rounded(frame, "orientation", 10 * ORIENTATION_TOLERANCE))
    if problem is DuplicateSlicesError:
        taken = largest(volumes(without_copies(frames))).frames
        return one_of_each_plane(taken) or taken
    return frames


def _rounded(frame: Frame, attribute: str, step: float) -> tuple[float, ...]:
    values = getattr(frame.plane, attribute) if frame.plane is not None else ()
    return tuple(round(value / step) for value in values)


def _largest(frames: list[Frame], kind: Callable[[Frame], tuple[float, ...]]) -> list[Frame]:
    """Return the largest group of frames of one kind; ties are broken by kind, as the order of files means nothing."""
    groups: dict[tuple[float, ...], list[Frame]] = {}
    for frame in frames:
        groups.setdefault(kind(frame), []).append(frame)
    return max(sorted(groups.items()), key=lambda group: len(group[1]))[1]


def _policy(problem: type[DicomSeriesError]) -> str:
    """Return advice on the policy for a problem."""
    return f"The policy {problem.code}=warn reads {problem.tolerable}, {problem.code}=skip leaves the series out."


def _mm(position: npt.NDArray[np.float64]) -> str:
    return "({:.2f}, {:.2f}, {:.2f}) mm".format(*position)
