"""A student's prediction as DICOM: structured reports of measurements (TID 1500) or text (TID 2000), and a picture.

Patient and study are copied from the source images, by design, so that a PACS files the result with them. UIDs are
derived from those of the source, the hash of `model.pt` and the hash of its settings, whatever the runtime, so that the
same prediction has the same UID and is stored only once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ComprehensiveSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    EnhancedSR,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, BasicTextSRStorage, ExplicitVRLittleEndian, JPEGLSLossless, generate_uid

from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.operating_point import DECIMALS

if TYPE_CHECKING:
    from monai_rd.inference import Prediction
    from monai_rd.inference.trained import Algorithm

__all__ = ["RESEARCH_ONLY", "SCHEME", "NoObjectError", "secondary_capture", "structured_report", "text_report"]

RESEARCH_ONLY = "Research use only, not for clinical use"
SCHEME = "99MONAIRD"
PERCENT = CodedConcept("%", "UCUM", "Percent")  # as DICOM's own templates give the certainty of a finding
_PRESENCE = CodedConcept("705057003", "SCT", "Presence")
_PRESENT, _ABSENT = CodedConcept("52101004", "SCT", "Present"), CodedConcept("2667000", "SCT", "Absent")
_PROCEDURE = CodedConcept("363679005", "SCT", "Imaging procedure")
_SOURCE = CodedConcept("260753009", "SCT", "Source")
_ENGLISH = CodedConcept("en-US", "RFC5646", "English (United States)")
_MODALITIES = {code.value: code for code in (getattr(codes.cid29, name) for name in codes.cid29.dir())}
_SET = CodedConcept("SET_90", SCHEME, "In the 90 % conformal set")
_UNLIKE = CodedConcept("UNLIKE", SCHEME, "Unlike the training data")
_SERIES_NUMBERS = {"sr": 9801, "sc": 9802, "text": 9803}
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

    For mutually exclusive classes it contains one finding, the most probable class, and the probability of every class
    in percent; for multi-label data a finding for every class, present or absent. Each finding lists what is in its
    conformal set; an empty set is said in the comment. Classes have codes of the private scheme 99MONAIRD. The image
    library lists the images that were read. The report is marked as complete, preliminary and unverified.

    Args:
        prediction: prediction for a DICOM series or picture, without a problem.
        algorithm: the algorithm that made it.

    Raises:
        NoObjectError: a prediction with a problem, images other than DICOM, or source images without valid UIDs.
        OSError: the source images can no longer be read.
    """
    images = _images(prediction)
    about = AlgorithmIdentification(algorithm.name, algorithm.version, list(algorithm.parameters))
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
                    Measurement(
                        _code(f"P_{one}", f"Probability of {one}"),
                        round(100 * prediction.probabilities[one], DECIMALS - 2),
                        PERCENT,
                    )
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
            )
        )
    root: Any = MeasurementReport(_context(prediction, algorithm), _PROCEDURE, found)[0]
    root.ContentSequence.insert(len(root.ContentSequence) - 1, _image_library(images))  # before the measurements
    root.ContentSequence.append(_text(codes.DCM.Comment, "\n".join(_words(prediction, algorithm))))
    return _document(ComprehensiveSR, root, prediction, algorithm, images, "sr")


@log_warnings_once()
def text_report(prediction: Prediction, algorithm: Algorithm) -> EnhancedSR:
    """Make a Basic Text SR (TID 2000) of a prediction, for viewers that show measurements only at coordinates.

    It says in sentences what `structured_report` holds in codes and numbers.

    Args:
        prediction: prediction for a DICOM series or picture, without a problem.
        algorithm: the algorithm that made it.

    Raises:
        NoObjectError: a prediction with a problem, images other than DICOM, or source images without valid UIDs.
        OSError: the source images can no longer be read.
    """
    images = _images(prediction)
    warning, answer, *details = _words(prediction, algorithm)
    root = ContainerContentItem(codes.LN.DiagnosticImagingReport, template_id="2000")
    root.ContentSequence = ContentSequence(
        [
            *LanguageOfContentItemAndDescendants(_ENGLISH),
            *_context(prediction, algorithm),
            _container(codes.DCM.Findings, [_text(codes.DCM.Finding, one) for one in details]),
            _container(codes.DCM.Conclusions, [_text(codes.DCM.Conclusion, one) for one in (answer, warning)]),
        ]
    )
    made = _document(EnhancedSR, root, prediction, algorithm, images, "text")
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    return made


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
    made.DerivationDescription = "Heat map of a neural network (Grad-CAM or occlusion) over its input"
    made.SourceImageSequence = [_reference(one) for one in sources]
    for keyword in (*_LOSSY, "BurnedInAnnotation"):
        if keyword in sources[0]:
            made[keyword] = sources[0][keyword]
    return _filed(made, sources[0])


def _context(prediction: Prediction, algorithm: Algorithm) -> ObservationContext:
    """Return who observed: a device, the bundle."""
    device = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[prediction.model, algorithm.settings, "device"]),
        name=algorithm.name,
        manufacturer_name="monai_rd",
        model_name=algorithm.version,
    )
    return ObservationContext(ObserverContext(codes.DCM.Device, device))


def _image_library(images: Sequence[Image]) -> ContainerContentItem:
    """Return the library of the images that were read (TID 1600), a group for each series.

    highdicom's own `ImageLibrary` refuses images whose geometry is empty, in frames, or of a class that it lacks.
    """
    groups: dict[str, list[ContentItem]] = {}
    for header, frames in images:
        group = groups.setdefault(header.SeriesInstanceUID, [])
        modality = _MODALITIES.get(header.get("Modality"))
        if modality and not group:
            group.append(CodeContentItem(codes.DCM.Modality, modality, RelationshipTypeValues.HAS_ACQ_CONTEXT))
        reference = header.SOPClassUID, header.SOPInstanceUID, frames
        group.append(ImageContentItem(_SOURCE, *reference, relationship_type=RelationshipTypeValues.CONTAINS))
    return _container(codes.DCM.ImageLibrary, [_container(codes.DCM.ImageLibraryGroup, one) for one in groups.values()])


def _container(name: Code, items: Sequence[ContentItem]) -> ContainerContentItem:
    made = ContainerContentItem(name, relationship_type=RelationshipTypeValues.CONTAINS)
    made.ContentSequence = ContentSequence(items)
    return made


def _text(name: Code, text: str) -> TextContentItem:
    return TextContentItem(name, text, RelationshipTypeValues.CONTAINS)


def _document(
    of: type[EnhancedSR | ComprehensiveSR],
    root: ContainerContentItem,
    prediction: Prediction,
    algorithm: Algorithm,
    images: Sequence[Image],
    kind: str,
) -> Any:
    """Make a document of its content, whose items viewers show one below the other, each with its name.

    The images of a library stay continuous: a series may have hundreds, all named "Source".
    """
    for container in _containers(root):
        if container.name != codes.DCM.ImageLibraryGroup:
            container.ContinuityOfContent = "SEPARATE"
    made = of(
        evidence=[_blank(one) for one, _ in images],
        content=root,
        is_complete=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **_made_by(prediction, algorithm, images, kind),
    )
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "Class names of students of monai_rd"
    scheme.CodingSchemeResponsibleOrganization = "monai_rd"
    made.CodingSchemeIdentificationSequence = [scheme]
    return _filed(made, images[0][0])


def _containers(item: ContentItem) -> Iterator[ContainerContentItem]:
    if isinstance(item, ContainerContentItem):
        yield item
        for inside in item.get("ContentSequence", ()):
            yield from _containers(inside)


def _images(prediction: Prediction) -> list[Image]:
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


def _words(prediction: Prediction, algorithm: Algorithm) -> list[str]:
    """Return the prediction in sentences: a warning, the answer, and what it rests on."""
    names = [f"{name}: " for name in prediction.probabilities] if prediction.multi_label else [""]
    sets = zip(names, prediction.sets_in_words, strict=False)
    return [
        f"{RESEARCH_ONLY}. Made by a program, seen by nobody.",
        f"Answer: {', '.join(prediction.classes) or 'none of the classes'}",
        *(f"Probability of {name}: {100 * p:.1f} %" for name, p in prediction.probabilities.items()),
        *(f"Cannot be ruled out (90 % conformal set): {name}{one.replace('|', ', ')}" for name, one in sets),
        *(f"Unlike the training data: {flag}" for flag in prediction.flags),
        *(f"Operating point: {one}" for one in algorithm.thresholds),
        f"By {algorithm.name} {algorithm.version}, model {prediction.model[:12]}",
    ]
