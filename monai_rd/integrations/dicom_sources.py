"""What the DICOM objects of a prediction share: the images that they are about, and the attributes that they copy."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from highdicom.sr import CodedConcept
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

if TYPE_CHECKING:
    from monai_rd.inference import Prediction
    from monai_rd.inference.trained import Algorithm

__all__ = [
    "RESEARCH_ONLY",
    "SCHEME",
    "SOURCE",
    "Image",
    "NoObjectError",
    "blank",
    "coded",
    "derived_uid",
    "filed",
    "images_read",
    "made_by",
    "placed",
    "reference",
]

RESEARCH_ONLY = "Research use only, not for clinical use"
SCHEME = "99MONAIRD"
SOURCE = CodedConcept("260753009", "SCT", "Source")
_SERIES_NUMBERS = {"sr": 9801, "sc": 9802, "text": 9803, "map": 9804}
# Attributes that an object of a study must have, possibly empty (type 2).
_WHOSE = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_WHICH = ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")
_NAMED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# What tells where an image lies, of enhanced images in sequences.
_PLACE = (
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "DimensionIndexSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
Image = tuple[Dataset, list[int] | None]  # a header, and the frames that were read, from 1; None for all frames


class NoObjectError(ValueError):
    """No DICOM object can be made of a prediction; the message says why, without naming a patient or path."""


def images_read(prediction: Prediction) -> list[Image]:
    """Return the source images, each once: the first with its whole header, the others with their UIDs only."""
    if prediction.problem or not prediction.series:
        reason = prediction.problem or "it is no DICOM"
        raise NoObjectError(f"there is no DICOM object to be made of study {prediction.id}: {reason}")
    wanted: list[Any] = [*_NAMED, "Modality"]
    first, *others = prediction.files
    headers: list[Dataset] = [dcmread(first, stop_before_pixels=True, force=True)]
    headers += [dcmread(file, stop_before_pixels=True, force=True, specific_tags=wanted) for file in others]
    for one in headers:
        wrong = [keyword for keyword in _NAMED if not UID(str(one.get(keyword) or "")).is_valid]
        if wrong:
            named = ", ".join(wrong)
            raise NoObjectError(
                f"study {prediction.id}: images without a valid {named}, so that none can be referred to"
            )
    read = zip(headers, _frames(prediction), strict=True)
    return list({f"{one.SOPInstanceUID} {frames}": (one, frames) for one, frames in read}.values())


def placed(prediction: Prediction, series: str) -> list[Dataset]:
    """Return what the headers of a series' source images tell about their place, and their UIDs.

    Raises:
        NoObjectError: without a frame of reference.
    """
    wanted: list[Any] = [*_NAMED, *_PLACE]
    read = [dcmread(file, stop_before_pixels=True, force=True, specific_tags=wanted) for file in prediction.files]
    found = []
    for one in (one for one in read if one.SeriesInstanceUID == series):
        if not UID(str(one.get("FrameOfReferenceUID") or "")).is_valid:
            raise NoObjectError(f"study {prediction.id}: images without a valid FrameOfReferenceUID have no place")
        header = blank(one)
        for keyword in _PLACE:
            if keyword in one:
                header[keyword] = one[keyword]
        found.append(header)
    return found


def _frames(prediction: Prediction) -> list[list[int] | None]:
    """Return the frames read from each file, numbered from 1 as in DICOM; None for all frames."""
    frames = getattr(prediction.files, "frames", None)
    return [[number + 1 for number in own] or None for own in frames] if frames else [None] * len(prediction.files)


def derived_uid(prediction: Prediction, algorithm: Algorithm, kind: str, images: Sequence[Image] = ()) -> str:
    """Return a UID that is the same for the same student, kind of object and images, whatever the runtime."""
    read = sorted(f"{one.SOPInstanceUID}{frames or ''}" for one, frames in images)
    return str(generate_uid(entropy_srcs=[prediction.series, prediction.model, algorithm.settings, kind, *read]))


def made_by(prediction: Prediction, algorithm: Algorithm, images: Sequence[Image], kind: str) -> dict[str, Any]:
    """Return the attributes about series and manufacturer that all objects share."""
    number = images[0][0].get("InstanceNumber") if len(images) == 1 else None
    return {
        "series_instance_uid": derived_uid(prediction, algorithm, f"series {kind}"),
        "series_number": _SERIES_NUMBERS[kind],
        "series_description": f"AI {kind.upper()}: {RESEARCH_ONLY}",
        "sop_instance_uid": derived_uid(prediction, algorithm, kind, images),
        "instance_number": max(1, int(number or 1)),
        "manufacturer": "monai_rd",
        "manufacturer_model_name": algorithm.name[:64],
        "software_versions": algorithm.version[:64],
        "device_serial_number": prediction.model,
        "specific_character_set": "ISO_IR 192",
    }


def blank(source: Dataset) -> Dataset:
    """Return only the UIDs of a header: highdicom refuses invalid dates, and logs names that it considers invalid."""
    header = Dataset()
    for keyword in _NAMED:
        setattr(header, keyword, source[keyword].value)
    for keyword in (*_WHOSE, *_WHICH):
        setattr(header, keyword, None if keyword.endswith(("Date", "Time")) else "")
    return header


def filed(made: Any, source: Dataset) -> Any:
    """Copy the patient and study attributes of the source to an object, unchanged."""
    made.copy_patient_and_study_information(source)
    for keyword in (*_WHOSE, *_WHICH):
        if keyword not in source:
            setattr(made, keyword, None)
    made.SpecificCharacterSet = "ISO_IR 192"
    return made


def reference(source: Dataset) -> Dataset:
    """Return an item that refers to a source image."""
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    reference.PurposeOfReferenceCodeSequence = [SOURCE]
    return reference


def coded(name: str, meaning: str) -> CodedConcept:
    """Return a code of the private scheme: the name if it is a valid code (16 characters), else the start of its hash.

    A backslash, which separates values in DICOM, becomes a slash in the meaning.
    """
    fits = re.fullmatch(r"[A-Za-z0-9_.+-]{1,16}", name)
    return CodedConcept(
        name if fits else "H" + hashlib.sha256(name.encode()).hexdigest()[:15], SCHEME, meaning.replace("\\", "/")[:64]
    )
