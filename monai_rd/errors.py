"""Errors for studies that cannot be read, each with a stable code, and the policy that decides what follows from them.

Messages of libraries may quote names from the header: every error is raised anew as one of these, which name nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from monai_rd.nearest import did_you_mean
from monai_rd.text import system_message

__all__ = [
    "BadGeometryError",
    "CutOffError",
    "DicomSeriesError",
    "DuplicateSlicesError",
    "EmptyImageError",
    "InvalidValuesError",
    "IrregularSpacingError",
    "LocalizerError",
    "MissingFilesError",
    "MissingSlicesError",
    "MixedOrientationError",
    "MixedSeriesError",
    "MixedShapeError",
    "NoDicomError",
    "NoHounsfieldError",
    "NoRegionError",
    "NoRoleError",
    "NoSeriesUidError",
    "NotAnImageError",
    "OutOfScopeError",
    "Policy",
    "SmallFieldError",
    "StudyError",
    "ThickSlicesError",
    "TiltedStackError",
    "TooLargeError",
    "TruncatedPixelsError",
    "UnreadableFileError",
    "UnreadableImageError",
    "UnreadablePixelsError",
    "UnsupportedImageError",
    "UnsupportedSyntaxError",
    "UnusualIntensitiesError",
    "WrongBodyPartError",
    "WrongIntensityError",
    "WrongModalityError",
    "WrongOrientationError",
    "count_codes",
    "original_error",
    "reading_files",
]


class StudyError(ValueError):
    """Base class of errors for studies that cannot be read.

    The message says why and what to do, and holds no names, patient IDs or paths found on disk.

    Attributes:
        code: stable name of the reason, for programs, reports and policies.
        tolerable: what is read if the policy for the code is "warn"; "" if nothing can be read.
        usual: the action if the policy names neither the code nor, where this is "error", a default.
        series_uid: ``SeriesInstanceUID`` of the DICOM series concerned, None if there is no single one.
        study_id: ID of the study in lists and scores, "" if it has none yet.
    """

    code: ClassVar[str] = "STUDY"
    usual: ClassVar[Literal["error", "skip", "warn"]] = "error"
    tolerable: str = ""
    series_uid: str | None = None
    study_id: str = ""


class UnreadableFileError(StudyError):
    """The file or folder cannot be opened: missing rights, a broken link, a failing disk or network."""

    code = "UNREADABLE_FILE"


class UnreadableImageError(StudyError):
    """An image file is damaged, or holds something other than a volume or an 8-bit image."""

    code = "UNREADABLE_IMAGE"


class TooLargeError(StudyError):
    """An image needs more memory than is available, or is larger than any plausible medical image."""

    code = "TOO_LARGE"


class InvalidValuesError(StudyError):
    """Some values of the image are NaN or infinite."""

    code = "INVALID_VALUES"


class BadGeometryError(StudyError):
    """The header does not define a valid coordinate system: zeros, NaN, or linearly dependent axes."""

    code = "BAD_GEOMETRY"


class WrongIntensityError(StudyError):
    """The values are not of the kind that a modality's transforms need, such as MR values where HU are needed."""

    code = "WRONG_INTENSITY"


class EmptyImageError(StudyError):
    """The image is empty: all values are equal, or black."""

    code = "EMPTY_IMAGE"


class ThickSlicesError(StudyError):
    """The voxels of a volume are much longer along one axis than those that the network is given."""

    code = "THICK_SLICES"
    usual = "warn"
    tolerable = "the volume, interpolated, and its row of the scores is flagged"


class SmallFieldError(StudyError):
    """A volume covers less than half of the field that the network is given along one axis."""

    code = "SMALL_FIELD"
    usual = "warn"
    tolerable = "the volume with empty space around it, and its row of the scores is flagged"


class CutOffError(StudyError):
    """The region that the network is given is cut off at the border of the volume, such as lungs without their base."""

    code = "CUT_OFF"
    usual = "warn"
    tolerable = "what the volume shows of the region, and its row of the scores is flagged"


class NoRegionError(StudyError):
    """A volume does not show the region that the network is given, such as lungs in the CT of a head."""

    code = "NO_REGION"
    tolerable = "the middle of the volume, and its row of the scores is flagged"


class NoRoleError(StudyError):
    """A study has no image for any role of the series rule, or the same image for several."""

    code = "NO_ROLE"


class OutOfScopeError(StudyError):
    """The study does not resemble the training data of the student, whose output would be meaningless."""

    code = "OUT_OF_SCOPE"
    tolerable = "the study, and its row of the scores is flagged"


class WrongModalityError(OutOfScopeError):
    """The modality does not occur in the training data."""

    code = "WRONG_MODALITY"


class WrongBodyPartError(OutOfScopeError):
    """The body part stated in the header does not occur in the training data."""

    code = "WRONG_BODY_PART"


class WrongOrientationError(OutOfScopeError):
    """The orientation of the slices does not occur in the training data."""

    code = "WRONG_ORIENTATION"


class UnusualIntensitiesError(OutOfScopeError):
    """Brightness or contrast are far outside the range of the training data."""

    code = "UNUSUAL_INTENSITIES"


class DicomSeriesError(StudyError):
    """Base class of errors for DICOM series that cannot be read.

    Args:
        message: see `StudyError`.
        series_uid: ``SeriesInstanceUID`` of the series, None if there is no single one.
    """

    code = "DICOM_SERIES"

    def __init__(self, message: str, series_uid: str | None = None) -> None:
        super().__init__(message)
        self.series_uid = series_uid
        self.study_id = series_uid or ""

    def __reduce__(self) -> tuple[type[DicomSeriesError], tuple[str, str | None], dict[str, Any]]:
        """Keep the UID when the error is pickled, to come from another process."""
        return type(self), (str(self), self.series_uid), vars(self)


class NoDicomError(DicomSeriesError):
    """There is no DICOM image where one was expected."""

    code = "NO_DICOM"


class MissingFilesError(DicomSeriesError):
    """A DICOMDIR lists images of the series that are missing."""

    code = "MISSING_FILES"


class NoSeriesUidError(DicomSeriesError):
    """Images have no ``SeriesInstanceUID``."""

    code = "NO_SERIES_UID"
    tolerable = "the files of one folder, study, SeriesNumber and geometry as one series"


class LocalizerError(DicomSeriesError):
    """The series is a localizer (scout view), used to plan a scan, and not a study to be classified."""

    code = "LOCALIZER"
    usual = "skip"
    tolerable = "the localizer"


class MixedSeriesError(DicomSeriesError):
    """The files belong to several series, or to several frames of reference."""

    code = "MIXED_SERIES"


class MixedShapeError(DicomSeriesError):
    """Rows, columns or pixel spacing differ between the images of one series."""

    code = "MIXED_SHAPE"
    tolerable = "the largest group of images of one size and pixel spacing"


class MixedOrientationError(DicomSeriesError):
    """The images of one series are not parallel, such as a localizer among axial slices."""

    code = "MIXED_ORIENTATION"
    tolerable = "the largest group of parallel images"


class DuplicateSlicesError(DicomSeriesError):
    """Several images of one series lie at the same position, or an image occurs twice."""

    code = "DUPLICATE_SLICES"
    tolerable = "the largest of the volumes that the series holds, or where nothing tells them apart the first in order"


class MissingSlicesError(DicomSeriesError):
    """The stack of slices has gaps."""

    code = "MISSING_SLICES"
    tolerable = "the slices that are there, as if evenly spaced"


class IrregularSpacingError(DicomSeriesError):
    """The distance between slices varies along the stack, although no slice is missing."""

    code = "IRREGULAR_SPACING"
    tolerable = "all slices, as if evenly spaced"


class TiltedStackError(DicomSeriesError):
    """The slices are not stacked along their normal (as with a tilted gantry), so that the volume would be sheared."""

    code = "TILTED_STACK"
    tolerable = "all slices, with an affine that holds the shear"


class UnreadablePixelsError(DicomSeriesError):
    """The file is damaged: it cannot be parsed or decoded, or its header contradicts its pixels."""

    code = "UNREADABLE_PIXELS"


class TruncatedPixelsError(UnreadablePixelsError):
    """The file is cut off: it holds fewer pixels than its header states, or none."""

    code = "TRUNCATED_PIXELS"


class UnsupportedSyntaxError(UnreadablePixelsError):
    """No installed decoder supports the transfer syntax."""

    code = "UNSUPPORTED_SYNTAX"


class UnsupportedImageError(DicomSeriesError):
    """The image is of a kind that this project does not read, for example without pixels or position in the patient."""

    code = "UNSUPPORTED_IMAGE"


class NotAnImageError(UnsupportedImageError):
    """The DICOM object is not an image that can be classified: a report, a segmentation, a dose, a document."""

    code = "NOT_AN_IMAGE"
    usual = "skip"


class NoHounsfieldError(DicomSeriesError):
    """The stored values of a CT cannot be converted to Hounsfield units."""

    code = "NO_HOUNSFIELD"
    tolerable = 'the values as they are, intensity "arbitrary"'


def _codes(kind: type[StudyError] = StudyError) -> dict[str, type[StudyError]]:
    """Return the error classes by code, without base classes that are never raised themselves."""
    found = {} if kind in (StudyError, DicomSeriesError, OutOfScopeError) else {kind.code: kind}
    for below in kind.__subclasses__():
        found |= _codes(below)
    return found


class Policy:
    """The action that is taken for each error code of a study.

    - "error": the run stops.
    - "skip": the study is left out and counted. In inference it gets a row with the code and no score.
    - "warn": the study is read as described by `StudyError.tolerable`, with a warning in the log.

    By default, localizers and objects that are not images are skipped, volumes with thick slices, a small field of view
    or a region that is cut off are read and flagged, and everything else is an error.

    Args:
        actions: maps codes to actions, such as `{"TILTED_STACK": "warn", "default": "skip"}`. "default" applies to all
            codes that are not named, except to those whose usual action is not "error" (see above).

    Raises:
        ValueError: an unknown code or action, or "warn" for a code under which nothing can be read.

    Example:
        >>> from monai_rd.errors import Policy
        >>> policy = Policy({"TILTED_STACK": "warn", "default": "skip"})
        >>> policy["TILTED_STACK"], policy["MISSING_SLICES"], Policy()["MISSING_SLICES"]
        ('warn', 'skip', 'error')
    """

    def __init__(self, actions: Mapping[str, str] | None = None) -> None:
        known = _codes()
        for code, action in (actions or {}).items():
            if code != "default" and code not in known:
                meant, codes = did_you_mean(code, (*known, "default")), ", ".join(sorted(known))
                raise ValueError(f"policy: there is no code '{code}'; the codes: {codes}, default{meant}")
            if action not in ("error", "skip", "warn"):
                raise ValueError(f"policy: {action!r} for {code} is none of error, skip, warn")
            if action == "warn" and (code == "default" or not known[code].tolerable):
                allowed = ", ".join(sorted(name for name, kind in known.items() if kind.tolerable))
                raise ValueError(f"policy: {code} cannot be 'warn', nothing could be read; possible for {allowed}")
        usual: dict[str, str] = {code: kind.usual for code, kind in known.items() if kind.usual != "error"}
        self.actions = usual | dict(actions or {})

    def __getitem__(self, code: str) -> str:
        """Return the action for a code."""
        return self.actions.get(code, self.actions.get("default", "error"))


def count_codes(codes: Iterable[str]) -> str:
    """Return how often each code occurs as text, such as "2 MISSING_SLICES, 1 TILTED_STACK"."""
    return ", ".join(f"{count} {code}" for code, count in Counter(codes).items())


def original_error(error: BaseException) -> BaseException:
    """Return the error behind MONAI's RuntimeErrors ("Failed to evaluate", "applying transform")."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def reading_files() -> Iterator[None]:
    """Turn `OSError`s of the system, whose messages name the path, into `UnreadableFileError`.

    Raises:
        UnreadableFileError: in place of an `OSError` of the system. An `OSError` without errno, which a library raised
            (such as Pillow for a damaged picture), is passed on unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        told = "Check rights, where links lead, and disk or network; or take it out of the data."
        raise UnreadableFileError(f"A file or folder cannot be read ({system_message(error)}). {told}") from None
