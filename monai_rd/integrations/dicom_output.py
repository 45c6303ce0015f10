"""A student's prediction as DICOM: structured reports of measurements (TID 1500) or text (TID 2000), picture and map.

Patient and study are copied from the source images, by design, so that a PACS files the result with them. UIDs are
derived from those of the source, the hash of `model.pt` and the hash of its settings, whatever the runtime, so that the
same prediction has the same UID and is stored only once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from highdicom import VOILUTTransformation, Volume
from highdicom.pm import ParametricMap, RealWorldValueMapping
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
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    generate_uid,
)

from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.integrations.dicom_sources import (
    RESEARCH_ONLY,
    SCHEME,
    SOURCE,
    Image,
    NoObjectError,
    blank,
    coded,
    derived_uid,
    filed,
    images_read,
    made_by,
    placed,
    reference,
)
from monai_rd.operating_point import DECIMALS

if TYPE_CHECKING:
    from monai_rd.inference import Prediction
    from monai_rd.inference.trained import Algorithm
    from monai_rd.integrations.explanation import HeatMap

__all__ = [
    "RESEARCH_ONLY",
    "SCHEME",
    "NoObjectError",
    "parametric_map",
    "secondary_capture",
    "structured_report",
    "text_report",
]

PERCENT = CodedConcept("%", "UCUM", "Percent")  # as DICOM's own templates give the certainty of a finding
_PRESENCE = CodedConcept("705057003", "SCT", "Presence")
_PRESENT, _ABSENT = CodedConcept("52101004", "SCT", "Present"), CodedConcept("2667000", "SCT", "Absent")
_PROCEDURE = CodedConcept("363679005", "SCT", "Imaging procedure")
_ENGLISH = CodedConcept("en-US", "RFC5646", "English (United States)")
_MODALITIES = {code.value: code for code in (getattr(codes.cid29, name) for name in codes.cid29.dir())}
_SET = CodedConcept("SET_90", SCHEME, "In the 90 % conformal set")
_UNLIKE = CodedConcept("UNLIKE", SCHEME, "Unlike the training data")
_HEAT = {"Grad-CAM": codes.DCM.GradientWeightedClassActivation, "occlusion": codes.DCM.Saliency}
_NO_UNIT = CodedConcept("1", "UCUM", "no units")
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


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
    images = images_read(prediction)
    about = AlgorithmIdentification(algorithm.name, algorithm.version, list(algorithm.parameters))
    named = list(prediction.probabilities)
    groups = [(name, (name,)) for name in named] if prediction.multi_label else [(prediction.classes[0], named)]
    states = {"absent": _ABSENT, "present": _PRESENT}
    sets = prediction.sets or ((),) * len(groups)
    flags = [QualitativeEvaluation(_UNLIKE, coded(flag, flag)) for flag in prediction.flags]
    found = []
    for number, ((name, measured), inside) in enumerate(zip(groups, sets, strict=True), start=1):
        presence = QualitativeEvaluation(_PRESENCE, _PRESENT if name in prediction.classes else _ABSENT)
        found.append(
            MeasurementsAndQualitativeEvaluations(
                tracking_identifier=TrackingIdentifier(
                    derived_uid(prediction, algorithm, f"group {name}", images), f"Finding {number}"
                ),
                finding_type=coded(name, name),
                algorithm_id=about,
                measurements=[
                    Measurement(
                        coded(f"P_{one}", f"Probability of {one}"),
                        round(100 * prediction.probabilities[one], DECIMALS - 2),
                        PERCENT,
                    )
                    for one in measured
                ],
                qualitative_evaluations=[
                    *([presence] if prediction.multi_label else ()),
                    *(
                        QualitativeEvaluation(_SET, states[o] if prediction.multi_label else coded(o, o))
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
    images = images_read(prediction)
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
    images = images_read(prediction)
    sources = [one for one, _ in images]
    made = SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=sources[0].StudyInstanceUID,
        transfer_syntax_uid=JPEGLSLossless,
        **made_by(prediction, algorithm, images, "sc"),
    )
    for keyword in ("PatientOrientation", "Laterality"):  # not defined for several pictures side by side
        setattr(made, keyword, None)
    made.ConversionType = "WSD"
    made.ImageComments = RESEARCH_ONLY
    made.DerivationDescription = "Heat map of a neural network (Grad-CAM or occlusion) over its input"
    made.SourceImageSequence = [reference(one) for one in sources]
    return filed(_copied(made, sources[0], *_LOSSY, "BurnedInAnnotation"), sources[0])


@log_warnings_once()
def parametric_map(prediction: Prediction, algorithm: Algorithm, found: HeatMap | None) -> ParametricMap:
    """Make a parametric map (32-bit float, deflated) of where the student looked, in the geometry of the series.

    It has a frame for each image of the series, 0 where the student was shown nothing, as OHIF needs them. The quantity
    is coded as gradient-weighted class activation (130403, DCM) or saliency (130404, DCM), without a unit.

    Args:
        prediction: prediction for a DICOM series, without a problem.
        algorithm: the algorithm that made it.
        found: its heat on the series, see `heat_map`.

    Raises:
        NoObjectError: a prediction with a problem, images other than DICOM, source images without valid UIDs or without
            a place in the patient.
        OSError: the source images can no longer be read.
    """
    images = images_read(prediction)
    if found is None:
        reason = "a map needs a slice of a series (CT, MR) and a student of slices; take the picture instead (--sc)"
        raise NoObjectError(f"study {prediction.id}: no parametric map: {reason}")
    sources = placed(prediction, found.series)
    made = ParametricMap(
        source_images=sources,
        pixel_array=Volume(
            found.heat,
            found.affine[:, [2, 1, 0, 3]],  # its axes are slices, rows and columns
            coordinate_system="PATIENT",
            frame_of_reference_uid=sources[0].FrameOfReferenceUID,
        ),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="heat",
                lut_explanation="Share of the highest value",
                unit=_NO_UNIT,
                value_range=(0.0, 1.0),
                slope=1.0,
                intercept=0.0,
                quantity_definition=_HEAT[found.way],
            )
        ],
        voi_lut_transformations=[VOILUTTransformation(window_center=0.5, window_width=1.0)],
        content_label="HEATMAP",
        content_description=f"What spoke for {found.name}"[:64],
        **made_by(prediction, algorithm, images, "map"),
    )
    made.ImageComments = f"{RESEARCH_ONLY}. A hint of the region, no outline"
    made.Laterality = None
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian  # most of it is 0
    return filed(_copied(made, images[0][0], *_LOSSY), images[0][0])


def _copied(made: Any, source: Dataset, *keywords: str) -> Any:
    for keyword in keywords:
        if keyword in source:
            made[keyword] = source[keyword]
    return made


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
        group.append(ImageContentItem(SOURCE, *reference, relationship_type=RelationshipTypeValues.CONTAINS))
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
        evidence=[blank(one) for one, _ in images],
        content=root,
        is_complete=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **made_by(prediction, algorithm, images, kind),
    )
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "Class names of students of monai_rd"
    scheme.CodingSchemeResponsibleOrganization = "monai_rd"
    made.CodingSchemeIdentificationSequence = [scheme]
    return filed(made, images[0][0])


def _containers(item: ContentItem) -> Iterator[ContainerContentItem]:
    if isinstance(item, ContainerContentItem):
        yield item
        for inside in item.get("ContentSequence", ()):
            yield from _containers(inside)


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
