"""Why a study is not read: every reason has a class and a stable code, and a policy says what follows from it.

By hand, because libraries raise whatever their parsers stumble over, in words that may repeat a value of the header.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from monai_rd.nearest import did_you_mean

__all__ = [
    "BadGeometryError",
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
    "NoSeriesUidError",
    "NotAnImageError",
    "OutOfScopeError",
    "Policy",
    "StudyError",
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
    "system_message",
]


class StudyError(ValueError):
    """A study that is not read; the message says why and what to do, without names, patient IDs or paths found on disk.

    Attributes:
        code: stable name of the reason, for programs, reports and policies.
        tolerable: what is read where the policy for the code is "warn"; "" where nothing can be.
        series_uid: ``SeriesInstanceUID`` of the DICOM series it is true of, None where no single series is meant.
        study_id: what the study is called in lists and scores, "" where it has no name yet.
    """

    code: ClassVar[str] = "STUDY"
    tolerable: str = ""
    series_uid: str | None = None
    study_id: str = ""


class UnreadableFileError(StudyError):
    """The system does not give the file or folder: rights, a link that leads nowhere, a disk or network that fails."""

    code = "UNREADABLE_FILE"


class UnreadableImageError(StudyError):
    """An image or volume file that is damaged, or holds something else than a volume or an 8-bit image."""

    code = "UNREADABLE_IMAGE"


class TooLargeError(StudyError):
    """An image that would take more memory than there is, or than an image of a patient needs."""

    code = "TOO_LARGE"


class InvalidValuesError(StudyError):
    """Among the values are some that are no numbers (NaN), or infinite."""

    code = "INVALID_VALUES"


class BadGeometryError(StudyError):
    """Where the voxels lie cannot be told from the header: zeros, no numbers, axes that fall together."""

    code = "BAD_GEOMETRY"


class WrongIntensityError(StudyError):
    """The values are not what the transforms of a modality need, as those of an MR are no Hounsfield units."""

    code = "WRONG_INTENSITY"


class EmptyImageError(StudyError):
    """Nothing is in the image: all values are equal, or black."""

    code = "EMPTY_IMAGE"


class OutOfScopeError(StudyError):
    """The student was not trained on anything like it, so that its answer would mean nothing."""

    code = "OUT_OF_SCOPE"
    tolerable = "the study, and its row of the scores is flagged"


class WrongModalityError(OutOfScopeError):
    """The student was trained on other modalities."""

    code = "WRONG_MODALITY"


class WrongBodyPartError(OutOfScopeError):
    """The header names a part of the body that it names nowhere in the training data."""

    code = "WRONG_BODY_PART"


class WrongOrientationError(OutOfScopeError):
    """The slices are cut in a direction of which the training data have none."""

    code = "WRONG_ORIENTATION"


class UnusualIntensitiesError(OutOfScopeError):
    """Brightness or contrast are far from all of the training data."""

    code = "UNUSUAL_INTENSITIES"


class DicomSeriesError(StudyError):
    """A DICOM series that is not read.

    Args:
        message: see `StudyError`.
        series_uid: ``SeriesInstanceUID`` of the series, None where no single series is meant.
    """

    code = "DICOM_SERIES"

    def __init__(self, message: str, series_uid: str | None = None) -> None:
        super().__init__(message)
        self.series_uid = series_uid
        self.study_id = series_uid or ""

    def __reduce__(self) -> tuple[type[DicomSeriesError], tuple[str, str | None], dict[str, Any]]:
        """Keep the UID when an error comes from another process."""
        return type(self), (str(self), self.series_uid), vars(self)


class NoDicomError(DicomSeriesError):
    """There is no DICOM image where one was expected."""

    code = "NO_DICOM"


class MissingFilesError(DicomSeriesError):
    """A DICOMDIR names images of the series that are nowhere there."""

    code = "MISSING_FILES"


class NoSeriesUidError(DicomSeriesError):
    """Images that do not say of which series they are."""

    code = "NO_SERIES_UID"
    tolerable = "the files of one folder, study, SeriesNumber and geometry as one series"


class LocalizerError(DicomSeriesError):
    """A scout view that a scan was planned on: no study to be read."""

    code = "LOCALIZER"
    tolerable = "the localizer"


class MixedSeriesError(DicomSeriesError):
    """The files belong to more than one series, or to more than one frame of reference."""

    code = "MIXED_SERIES"


class MixedShapeError(DicomSeriesError):
    """Rows, columns or pixel spacing differ between the images of one series."""

    code = "MIXED_SHAPE"
    tolerable = "the largest group of images of one size and pixel spacing"


class MixedOrientationError(DicomSeriesError):
    """The images of one series are not parallel, as with a localizer among axial slices."""

    code = "MIXED_ORIENTATION"
    tolerable = "the largest group of parallel images"


class DuplicateSlicesError(DicomSeriesError):
    """Images of one series lie at the same position, or one image is there twice."""

    code = "DUPLICATE_SLICES"
    tolerable = "the largest of the volumes that the series holds, or where nothing tells them apart the first in order"


class MissingSlicesError(DicomSeriesError):
    """There are gaps in the stack."""

    code = "MISSING_SLICES"
    tolerable = "the slices that are there, as if evenly spaced"


class IrregularSpacingError(DicomSeriesError):
    """The distance between slices changes along the stack, without a slice missing."""

    code = "IRREGULAR_SPACING"
    tolerable = "all slices, as if evenly spaced"


class TiltedStackError(DicomSeriesError):
    """The slices are not stacked along their normal, as with a tilted gantry: the volume would be sheared."""

    code = "TILTED_STACK"
    tolerable = "all slices, with an affine that holds the shear"


class UnreadablePixelsError(DicomSeriesError):
    """The file is damaged: it cannot be opened, parsed or decoded, or its header contradicts its pixels."""

    code = "UNREADABLE_PIXELS"


class TruncatedPixelsError(UnreadablePixelsError):
    """The file is cut off: there are fewer pixels than its header announces, or none."""

    code = "TRUNCATED_PIXELS"


class UnsupportedSyntaxError(UnreadablePixelsError):
    """No installed decoder reads the transfer syntax."""

    code = "UNSUPPORTED_SYNTAX"


class UnsupportedImageError(DicomSeriesError):
    """The image is not one that this project reads: no pixels, no position in the patient."""

    code = "UNSUPPORTED_IMAGE"


class NotAnImageError(UnsupportedImageError):
    """A DICOM object that is no image to be classified: a report, a segmentation, a dose, a document."""

    code = "NOT_AN_IMAGE"


class NoHounsfieldError(DicomSeriesError):
    """A CT whose stored values cannot be turned into Hounsfield units."""

    code = "NO_HOUNSFIELD"
    tolerable = 'the values as they are, intensity "arbitrary"'


def _codes(kind: type[StudyError] = StudyError) -> dict[str, type[StudyError]]:
    """Return the classes by code, without those that only stand for others."""
    found = {} if kind in (StudyError, DicomSeriesError, OutOfScopeError) else {kind.code: kind}
    for below in kind.__subclasses__():
        found |= _codes(below)
    return found


class Policy:
    """What follows from a study that is not as it should be, for each code.

    - "error": the run stops.
    - "skip": the study is left out, and counted. In inference it gets a row with the code and no score.
    - "warn": what `StudyError.tolerable` says is read, with a warning in the log.

    Without a word of the user, localizers and what is no image are skipped and everything else is an error.

    Args:
        actions: code to action, such as `{"TILTED_STACK": "warn", "default": "skip"}`; "default" stands for all codes
            that are not named, except that localizers and what is no image are skipped unless named.

    Raises:
        ValueError: an unknown code or action, or "warn" for a code under which nothing can be read.
    """

    def __init__(self, actions: Mapping[str, str] | None = None) -> None:
        known = _codes()
        for code, action in (actions or {}).items():
            if code != "default" and code not in known:
                meant = did_you_mean(code, (*known, "default"))
                raise ValueError(
                    f"policy: there is no code '{code}'; the codes: {', '.join(sorted(known))}, default{meant}"
                )
            if action not in ("error", "skip", "warn"):
                raise ValueError(f"policy: {action!r} for {code} is none of error, skip, warn")
            if action == "warn" and (code == "default" or not known[code].tolerable):
                allowed = ", ".join(sorted(name for name, kind in known.items() if kind.tolerable))
                raise ValueError(
                    f"policy: {code} cannot be 'warn', nothing could be read; it is possible for {allowed}"
                )
        self.actions = {LocalizerError.code: "skip", NotAnImageError.code: "skip"} | dict(actions or {})

    def __getitem__(self, code: str) -> str:
        """The action for a code."""
        return self.actions.get(code, self.actions.get("default", "error"))


def count_codes(codes: Iterable[str]) -> str:
    """Say how often each code occurs: "2 MISSING_SLICES, 1 TILTED_STACK"."""
    return ", ".join(f"{count} {code}" for code, count in Counter(codes).items())


def original_error(error: BaseException) -> BaseException:
    """What was raised first: MONAI wraps it in RuntimeErrors ("Failed to evaluate", "applying transform")."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def reading_files() -> Iterator[None]:
    """Let what the system says of a file of a study be an `UnreadableFileError`: its own words would name the path.

    Raises:
        UnreadableFileError: in place of an `OSError` of the system. One of a library, such as Pillow's of a damaged
            picture, goes on as it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise UnreadableFileError(
            f"A file or folder cannot be read ({system_message(error)}). Check rights, where links lead, and disk "
            "or network; or take it out of the data."
        ) from None


def system_message(error: OSError) -> str:
    """Say what the system says of a file, such as "Permission denied", without the file."""
    return os.strerror(error.errno) if error.errno is not None else type(error).__name__
