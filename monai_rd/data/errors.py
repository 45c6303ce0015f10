"""Why a study is not read: every reason has a class and a stable code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "DicomSeriesError",
    "DuplicateSlicesError",
    "MissingSlicesError",
    "MixedOrientationError",
    "MixedSeriesError",
    "MixedShapeError",
    "NoDicomError",
    "NoHounsfieldError",
    "StudyError",
    "TiltedStackError",
    "UnreadableImageError",
    "UnreadablePixelsError",
    "UnsupportedImageError",
    "WrongIntensityError",
    "count_codes",
]


class StudyError(ValueError):
    """A study that is not read; the message says why and what to do, without names, patient IDs or paths found on disk.

    Attributes:
        code: stable name of the reason, for programs and reports.
    """

    code: ClassVar[str] = "STUDY"


class UnreadableImageError(StudyError):
    """A NIfTI or image file that is damaged, or holds something else than a volume or an 8-bit image."""

    code = "UNREADABLE_IMAGE"


class WrongIntensityError(StudyError):
    """The values are not what the transforms of a modality need, as those of an MR are no Hounsfield units."""

    code = "WRONG_INTENSITY"


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


class NoDicomError(DicomSeriesError):
    """There is no DICOM image where one was expected."""

    code = "NO_DICOM"


class MixedSeriesError(DicomSeriesError):
    """The files belong to more than one series, or to more than one frame of reference."""

    code = "MIXED_SERIES"


class MixedShapeError(DicomSeriesError):
    """Rows, columns or pixel spacing differ between the images of one series."""

    code = "MIXED_SHAPE"


class MixedOrientationError(DicomSeriesError):
    """The images of one series are not parallel, as with a localizer among axial slices."""

    code = "MIXED_ORIENTATION"


class DuplicateSlicesError(DicomSeriesError):
    """Two images of one series lie at the same position, or one image is there twice."""

    code = "DUPLICATE_SLICES"


class MissingSlicesError(DicomSeriesError):
    """The slices are not evenly spaced: there is a gap, or the spacing is irregular."""

    code = "MISSING_SLICES"


class TiltedStackError(DicomSeriesError):
    """The slices are not stacked along their normal, as with a tilted gantry: the volume would be sheared."""

    code = "TILTED_STACK"


class UnreadablePixelsError(DicomSeriesError):
    """The file is cut off or damaged, or no installed decoder reads its transfer syntax."""

    code = "UNREADABLE_PIXELS"


class UnsupportedImageError(DicomSeriesError):
    """The object is DICOM but not a slice of a volume: colour, no pixels, no position in the patient."""

    code = "UNSUPPORTED_IMAGE"


class NoHounsfieldError(DicomSeriesError):
    """A CT whose stored values cannot be turned into Hounsfield units."""

    code = "NO_HOUNSFIELD"


def count_codes(codes: Iterable[str]) -> str:
    """Say how often each code occurs: "2 MISSING_SLICES, 1 TILTED_STACK"."""
    return ", ".join(f"{count} {code}" for code, count in Counter(codes).items())
