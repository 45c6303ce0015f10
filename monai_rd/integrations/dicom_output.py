"""A student's prediction as DICOM: a structured report (TID 1500), and a secondary capture with the explanation.

Patient and study are copied from the source images, by design, so that a PACS files the result with them. UIDs are
derived from those of the source, the hash of `model.pt` and the hash of its settings, whatever the runtime, so that the
same prediction has the same UID and is stored only once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, generate_uid

from monai_rd.dicom.header_warnings import log_warnings_once

if TYPE_CHECKING:
    from monai_rd.inference import Prediction
    from monai_rd.inference.trained import Algorithm

__all__ = ["RESEARCH_ONLY", "SCHEME", "NoObjectError", "secondary_capture", "structured_report"]

RESEARCH_ONLY = "Research use only, not for clinical use"
SCHEME = "99MONAIRD"
UNIT = CodedConcept("{0:1}", "UCUM", "range: 0:1")
_PRESENCE = CodedConcept("705057003", "SCT", "Presence")
_PRESENT, _ABSENT = CodedConcept("52101004", "SCT", "Present"), CodedConcept("2667000", "SCT", "Absent")
_PROCEDURE = CodedConcept("363679005", "SCT", "Imaging procedure")
_COMMENT = CodedConcept("121106", "DCM", "Comment")
_DEVICE = CodedConcept("121007", "DCM", "Device")
_SOURCE = CodedConcept("121322", "DCM", "Source image for image processing operation")
_SET = CodedConcept("SET_90", SCHEME, "In the 90 % conformal set")
_UNLIKE = CodedConcept("UNLIKE", SCHEME, "Unlike the training data")
_SERIES_NUMBERS = {"sr": 9801, "sc": 9802}
# Attributes that an object of a study must have, possibly empty (type 2).
_WHOSE = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_WHICH = ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_NAMED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
Image = tuple[Dataset, list[int] | None]  # a header, and the frames that were read, from 1; None for all frames


class NoObjectError(ValueError):
    """No DICOM object can be made of a prediction; the message says why, without naming a patient or path."""


@log_warnings_once()
def structured_report(prediction: Prediction, algorithm: Algorithm) -> ComprehensiveSR:
    """Make a Comprehensive SR (TID 1500) of a prediction.

    For mutually exclusive classes it contains one finding, the most probable class, and the probability of every class;
    for multi-label data a finding for every class, present or absent. Each finding lists what is in its conformal set;
    an empty set is said in the comment. Classes have codes of the private scheme
    99MONAIRD. The report is marked as complete, preliminary and unverified.

    Args:
        prediction: prediction for a DICOM series or picture, without a problem.
        algorithm: the algorithm that made it.

    Raises:
        NoObjectError: a prediction with a problem, images other than DICOM, or source images without valid UIDs.
        OSError: the source images can no longer be read.
    """
    images = _images(prediction)
    sources = [one for one, _ in images]
    about = AlgorithmIdentification(algorithm.name, algorithm.version, list(algorithm.parameters))
    shown = [SourceImageForMeasurementGroup(one.SOPClassUID, one.SOPInstanceUID, frames) for one, frames in images]
    named = list(prediction.probabilities)
    groups = [(name, (name,)) for name in named] if prediction.multi_label else [(prediction.classes[0], named)]
    states = {"absent": _ABSENT, "present": _PRESENT}
    sets = prediction.sets or ((),) * len(groups)
    flags = [QualitativeEvaluation(_UNLIKE, _code(flag, flag)) for flag in prediction.flags]
    found = []
    for number, ((name, measured), inside) in enumerate(zip(groups, sets, strict=True), start=1):
        presence = QualitativeEvaluation(_PRESENCE, _PRESENT if name in prediction.classes else _ABSENT)
        found.append(
            MeasurementsAndQualitativeEvaluations(
                tracking_identifier=TrackingIdentifier(
                    _uid(prediction, algorithm, f"group {name}", images), f"Finding {number}"
                ),
                finding_type=_code(name, name),
                algorithm_id=about,
                measurements=[
                    Measurement(_code(f"P_{one}", f"Probability of {one}"), prediction.probabilities[one], UNIT)
                    for one in measured
                ],
                qualitative_evaluations=[
                    *([presence] if prediction.multi_label else ()),
                    *(
                        QualitativeEvaluation(_SET, states[o] if prediction.multi_label else _code(o, o))
                        for o in inside
                    ),
                    *flags,
                ],
                source_images=shown,
            )
        )
    device = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[prediction.model, algorithm.settings, "device"]),
        name=algorithm.name,
        manufacturer_name="monai_rd",
        model_name=algorithm.version,
    )
    report = MeasurementReport(ObservationContext(ObserverContext(_DEVICE, device)), _PROCEDURE, found)
    said = f"{RESEARCH_ONLY}. Made by a program, seen by nobody: {_in_words(prediction, algorithm)}"
    report[0].ContentSequence.append(TextContentItem(_COMMENT, said, RelationshipTypeValues.CONTAINS))
    made = ComprehensiveSR(
        evidence=[_blank(one) for one in sources],
        content=report,
        is_complete=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **_made_by(prediction, algorithm, images, "sr"),
    )
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "Class names of students of monai_rd"
    scheme.CodingSchemeResponsibleOrganization = "monai_rd"
    made.CodingSchemeIdentificationSequence = [scheme]
    return _filed(made, sources[0])


@log_warnings_once()
def secondary_capture(prediction: Prediction, algorithm: Algorithm, pixels: np.ndarray) -> SCImage:
    """Make a secondary capture of the picture of a prediction, see `explanation_picture`; lossless (JPEG-LS).

    Args:
        prediction: prediction for a DICOM series or picture, without a problem.
        algorithm: the algorithm that made it.
        pixels: RGB, uint8 `[H, W, 3]`, which must itself state that it is for research only.

    Raises:
        NoObjectError: a prediction with a problem, images other than DICOM, or source images without valid UIDs.
        OSError: the source images can no longer be read.
    """
    images = _images(prediction)
    sources = [one for one, _ in images]
    made = SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=sources[0].StudyInstanceUID,
        transfer_syntax_uid=JPEGLSLossless,
        **_made_by(prediction, algorithm, images, "sc"),
    )
    for keyword in ("PatientOrientation", "Laterality"):  # not defined for several pictures side by side
        setattr(made, keyword, None)
    made.ConversionType = "WSD"
    made.ImageComments = RESEARCH_ONLY
    made.DerivationDescription = "Grad-CAM of a neural network over its input"
    made.SourceImageSequence = [_reference(one) for one in sources]
    for keyword in (*_LOSSY, "BurnedInAnnotation"):
        if keyword in sources[0]:
            made[keyword] = sources[0][keyword]
    return _filed(made, sources[0])


def _images(prediction: Prediction) -> list[Image]:
    """Return the source images, each once: the first with its whole header, the others with their UIDs only."""
    if prediction.problem or not prediction.series:
        reason = prediction.problem or "it is no DICOM"
        raise NoObjectError(f"there is no DICOM object to be made of study {prediction.id}: {reason}")
    wanted: list[Any] = [*_NAMED]
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


def _frames(prediction: Prediction) -> list[list[int] | None]:
    """Return the frames read from each file, numbered from 1 as in DICOM; None for all frames."""
    frames = getattr(prediction.files, "frames", None)
    return [[number + 1 for number in own] or None for own in frames] if frames else [None] * len(prediction.files)


def _uid(prediction: Prediction, algorithm: Algorithm, kind: str, images: Sequence[Image] = ()) -> str:
    """Return a UID that is the same for the same student, kind of object and images, whatever the runtime."""
    read = sorted(f"{one.SOPInstanceUID}{frames or ''}" for one, frames in images)
    return str(generate_uid(entropy_srcs=[prediction.series, prediction.model, algorithm.settings, kind, *read]))


def _made_by(prediction: Prediction, algorithm: Algorithm, images: Sequence[Image], kind: str) -> dict[str, Any]:
    """Return the attributes about series and manufacturer that both objects share."""
    number = images[0][0].get("InstanceNumber") if len(images) == 1 else None
    return {
        "series_instance_uid": _uid(prediction, algorithm, f"series {kind}"),
        "series_number": _SERIES_NUMBERS[kind],
        "series_description": f"AI {kind.upper()}: {RESEARCH_ONLY}",
        "sop_instance_uid": _uid(prediction, algorithm, kind, images),
        "instance_number": max(1, int(number or 1)),
        "manufacturer": "monai_rd",
        "manufacturer_model_name": algorithm.name[:64],
        "software_versions": algorithm.version[:64],
        "device_serial_number": prediction.model,
        "specific_character_set": "ISO_IR 192",
    }


def _blank(source: Dataset) -> Dataset:
    """Return only the UIDs of a header: highdicom refuses invalid dates, and logs names that it considers invalid."""
    header = Dataset()
    for keyword in _NAMED:
        setattr(header, keyword, source[keyword].value)
    for keyword in (*_WHOSE, *_WHICH):
        setattr(header, keyword, None if keyword.endswith(("Date", "Time")) else "")
    return header


def _filed(made: Any, source: Dataset) -> Any:
    """Copy the patient and study attributes of the source to an object, unchanged."""
    made.copy_patient_and_study_information(source)
    for keyword in (*_WHOSE, *_WHICH):
        if keyword not in source:
            setattr(made, keyword, None)
    made.SpecificCharacterSet = "ISO_IR 192"
    return made


def _reference(source: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    reference.PurposeOfReferenceCodeSequence = [_SOURCE]
    return reference


def _code(name: str, meaning: str) -> CodedConcept:
    """Return a code of the private scheme: the name if it is a valid code (16 characters), else the start of its hash.

    A backslash, which separates values in DICOM, becomes a slash in the meaning.
    """
    fits = re.fullmatch(r"[A-Za-z0-9_.+-]{1,16}", name)
    return CodedConcept(
        name if fits else "H" + hashlib.sha256(name.encode()).hexdigest()[:15], SCHEME, meaning.replace("\\", "/")[:64]
    )


def _in_words(prediction: Prediction, algorithm: Algorithm) -> str:
    said = ", ".join(f"{name} {p:.3f}" for name, p in prediction.probabilities.items())
    flags = f"; flagged: {', '.join(prediction.flags)}" if prediction.flags else ""
    names = prediction.probabilities if prediction.multi_label else ("",)
    sets = "; ".join(f"{name} {one}".strip() for name, one in zip(names, prediction.sets_in_words, strict=False))
    sets = f"; cannot be ruled out (90 % conformal set): {sets}" if sets else ""
    at = f"; said: {'; '.join(algorithm.thresholds)}" if algorithm.thresholds else ""
    return f"{', '.join(prediction.classes) or 'none of the classes'}; probabilities (0 to 1): {said}{sets}{flags}{at}."
