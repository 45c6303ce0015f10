"""Extraction of the needed header values of one DICOM file: its series, the planes of its frames, why it is not read.

Privacy: the patient's ID is returned as a keyed hash only. Names, IDs and the date of birth are otherwise only used to
redact them from free text. Free text never appears in messages; ages are returned as age bands.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pydicom.dataset import Dataset

from monai_rd.dicom.classes import no_image
from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.dicom.marks import Marks, frame_marks, shown_mark
from monai_rd.dicom.mosaic import Tiles, is_tiled, tiles_of
from monai_rd.dicom.planes import Plane, functional_groups, macro, nuclear_kind, nuclear_planes, plane_of, why_no_planes
from monai_rd.dicom.redaction import Identity, decoded, identity_of, redacted, redacted_code
from monai_rd.dicom.values import has, integer, items, known_uid, numbers, parts, text, uid, uid_or_code
from monai_rd.errors import (
    DicomSeriesError,
    LocalizerError,
    NotAnImageError,
    TruncatedPixelsError,
    UnsupportedImageError,
)
from monai_rd.pseudonyms import patient_pseudonym, study_pseudonym

__all__ = ["Header", "Origin", "Region", "age_band", "describe", "regions"]

# Modalities whose images are slices of a volume; images without a position in the patient are refused.
CROSS_SECTIONAL = frozenset({"CT", "MR", "PT", "NM"})
# RescaleType values of CT that stand for Hounsfield units ("US" means "unspecified").
HU_TYPES = frozenset({"", "HU", "HU_MOD", "US"})
# The other defined terms (PS3.3 C.11.1.1.2). Only these are shown in messages, as the element may hold any text.
_OTHER_TYPES = frozenset({"OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"})

_AGES = ((18, "0-17"), (40, "18-39"), (60, "40-59"), (80, "60-79"))
_EDGES = ("MinX0", "MinY0", "MaxX1", "MaxY1")


@dataclass(frozen=True, slots=True)
class Region:
    """A region of an ultrasound picture: position and content (PS3.3 C.8.5.5.1).

    Attributes:
        spatial_format: 1 for 2D, 2 for M-mode, 3 for a spectrum, 4 for a waveform, 5 for graphics.
        data_type: 1 for tissue, 2 for colour flow; other values stand for curves and text.
        x0: first column.
        y0: first row.
        x1: last column (inclusive).
        y1: last row (inclusive).
    """

    spatial_format: int
    data_type: int
    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Patient group and origin of an image, for analyses by subgroup; "" for values missing in the header.

    Attributes:
        body_part: ``BodyPartExamined``, such as "CHEST".
        sex: "F", "M" or "O".
        age: "0-17", "18-39", "40-59", "60-79" or "80+" years.
        scanner: manufacturer and model.
        site: ``InstitutionName``.
        kernel: ``ConvolutionKernel``, such as "Br40d"; "another" if it is no name known to be harmless.
        thickness: slice thickness, such as "5 mm".
    """

    body_part: str = ""
    sex: str = ""
    age: str = ""
    scanner: str = ""
    site: str = ""
    kernel: str = ""
    thickness: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """Header values of one image file that the checks of a series need.

    Attributes:
        description: ``SeriesDescription`` with names, IDs and the date of birth redacted.
        original_description: ``SeriesDescription`` unchanged, for searching; it must not be shown or written.
        mosaic: number of frames in each row and column of a stored image; 1 except for mosaics.
        planes: position of every frame; () for a picture, which has no position in the patient.
        marks: attributes that may distinguish a frame from others in its plane, for each frame or one for all frames;
            () without planes.
        picture: whether it is an image for viewing (radiograph, ultrasound, colour image) and not part of a volume.
        patient_key: 16 hex digits, equal for images of one patient under one key.
        thickness: slice thickness in mm, 1 if not stated.
        origin: patient group and origin.
        no_hounsfield: why a CT has no Hounsfield units, None if it has.
        problem: why this file cannot be read, whatever other files the series has, else None.
        view: ``ViewPosition``, after ``ImageLaterality`` (or ``Laterality``) if that is R, L or B; for rules to search,
            it must not be shown or written.
        unnamed: the file has no SeriesInstanceUID, and ``series_uid`` is a substitute, see `unnamed.named`.
    """

    series_uid: str
    study_uid: str
    sop_uid: str
    frame_of_reference: str
    modality: str
    description: str
    original_description: str = field(repr=False)
    syntax: str
    patient_key: str
    instance_number: int
    shape: tuple[int, int]
    frames: int
    mosaic: int
    enhanced: bool
    picture: bool
    localizer: bool
    planes: tuple[Plane, ...]
    marks: tuple[Marks, ...]
    thickness: float
    origin: Origin
    no_hounsfield: str | None
    problem: DicomSeriesError | None
    series_number: str
    view: str = field(default="", repr=False)
    unnamed: bool = False


def regions(dataset: Dataset) -> tuple[Region, ...]:
    """Return the regions of an ultrasound picture; incomplete regions are left out."""
    keywords = ("RegionSpatialFormat", "RegionDataType", *(f"RegionLocation{edge}" for edge in _EDGES))
    try:
        shown = items(dataset, "SequenceOfUltrasoundRegions")
    except Exception:  # a damaged sequence counts as absent
        return ()
    found = [[integer(item, keyword, -1) for keyword in keywords] for item in shown]
    return tuple(Region(*values) for values in found if min(values) >= 0)


def _no_hounsfield(dataset: Dataset, sources: Sequence[tuple[Dataset, ...]]) -> str | None:
    """Return why a CT has no Hounsfield units, None if it has."""
    if has(dataset, "ModalityLUTSequence"):
        return None
    for groups in sources:
        rescale = macro(dataset, groups, "PixelValueTransformationSequence")
        slope = numbers(rescale, "RescaleSlope", 1)
        if not slope or not slope[0] or numbers(rescale, "RescaleIntercept", 1) is None:
            return "no RescaleSlope and RescaleIntercept"
        kind = text(rescale, "RescaleType").upper()
        if kind not in HU_TYPES:
            return f"RescaleType {kind if kind in _OTHER_TYPES else 'of another unit'}"
    return None


def _free_text(dataset: Dataset, keyword: str, who: Identity) -> str:
    """Return a free-text value with names, IDs and the date of birth redacted, at most 64 characters."""
    found = "".join(c if c.isprintable() else " " for c in decoded(dataset, keyword)).strip()
    return redacted(found, who)[:64] if found else ""


def _origin(dataset: Dataset, who: Identity, marks: tuple[Marks, ...]) -> Origin:
    sex = text(dataset, "PatientSex").upper()
    scanner = " ".join(_free_text(dataset, keyword, who) for keyword in ("Manufacturer", "ManufacturerModelName"))
    return Origin(
        body_part=sys.intern(redacted_code(text(dataset, "BodyPartExamined").upper(), who)),
        sex=sex if sex in ("F", "M", "O") else "",
        age=_age(text(dataset, "PatientAge")),
        scanner=sys.intern(scanner.strip()),
        site=sys.intern(_free_text(dataset, "InstitutionName", who)),
        kernel=sys.intern(shown_mark(marks[0], "kernel") if marks else ""),
        thickness=sys.intern(shown_mark(marks[0], "slice thickness") if marks else ""),
    )


def _age(value: str) -> str:
    """Return the age band of an age string (PS3.5: three digits and D, W, M or Y), "" if it is invalid."""
    if not re.fullmatch(r"\d{3}[DWMY]", value):
        return ""
    years = int(value[:3]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[value[3]]
    return age_band(years) if years < 200 else ""


def age_band(years: float) -> str:
    """Return the age band of an age in years, see `Origin`.

    Raises:
        ValueError: not a plausible age (0 to below 200).
    """
    if not 0 <= years < 200:  # NaN neither
        raise ValueError("no age")
    return next((band for below, band in _AGES if years < below), "80+")


def _is_localizer(dataset: Dataset) -> bool:
    return any(part.upper() in ("LOCALIZER", "SCOUT") for part in parts(dataset, "ImageType")[2:])


@log_warnings_once()
def describe(dataset: Dataset, key: bytes, words: bool = True) -> Header:
    """Extract the header values that the checks of a series need from a parsed file.

    Args:
        dataset: a DICOM object, as returned by `read_file`.
        key: key of the patient's pseudonym.
        words: also extract description and origin, which takes longer than everything else.
    """
    series_uid, study_uid = known_uid(dataset, "SeriesInstanceUID"), known_uid(dataset, "StudyInstanceUID")
    modality = text(dataset, "Modality")
    # Terms defined by DICOM are kept even if a person has such a name.
    identity = identity_of(dataset) if words or modality not in CROSS_SECTIONAL else Identity()
    modality, patient_id = redacted_code(modality, identity), decoded(dataset, "PatientID")
    shape = (max(0, integer(dataset, "Rows", 0)), max(0, integer(dataset, "Columns", 0)))
    frames = max(1, integer(dataset, "NumberOfFrames", 1))
    shared, per_frame = functional_groups(dataset)
    samples, colours = integer(dataset, "SamplesPerPixel", 1), text(dataset, "PhotometricInterpretation")
    grey = samples == 1 and colours.startswith("MONOCHROME")
    localizer = _is_localizer(dataset)

    # One plane per group that exists, not per frame stated: a forged NumberOfFrames could be billions.
    sources = [(group, *shared) for group in per_frame] if per_frame else [shared]
    planes: tuple[Plane, ...] = ()
    no_class = no_image(dataset)
    if grey and not no_class and len(sources) == frames:
        found = [plane_of(dataset, groups) for groups in sources]
        if None not in found:
            planes = tuple(plane for plane in found if plane is not None)
    nuclear = nuclear_kind(dataset) if modality == "NM" else None
    if nuclear == "RECON" and grey and not planes:
        planes = nuclear_planes(dataset, frames)
    tiles = _tiles(dataset, shape, planes)
    if isinstance(tiles, Tiles):
        shape, frames = tiles.shape, len(tiles.positions)
        planes = tuple(replace(planes[0], position=position) for position in tiles.positions)
    picture = not planes and not no_class and (modality not in CROSS_SECTIONAL or nuclear == "PLANAR")
    no_hounsfield = _no_hounsfield(dataset, sources) if modality == "CT" and planes else None

    who = f"Series {series_uid or '(no UID)'}"
    problem: DicomSeriesError | None = None
    if no_class:
        problem = NotAnImageError(f"{who}: {no_class}, which is no image to be classified.", series_uid or None)
    elif not shape[0] or not shape[1]:
        problem = TruncatedPixelsError(
            f"{who}: an image file has no image size (cut off in its header, or a header only). Export the series "
            "again.",
            series_uid or None,
        )
    elif isinstance(tiles, str):
        problem = UnsupportedImageError(f"{who}: {tiles}", series_uid or None)
    elif not planes and not picture:
        problem = UnsupportedImageError(
            f"{who}: {why_no_planes(modality, grey, frames, len(per_frame), nuclear)}", series_uid
        )
    elif localizer:
        problem = LocalizerError(
            f"{who}: a localizer, the overview a scan was planned on. Give the series that was scanned.", series_uid
        )
    thickness = numbers(macro(dataset, sources[0], "PixelMeasuresSequence"), "SliceThickness", 1)
    marks = frame_marks(dataset, shared, per_frame, frames) if planes else ()
    return Header(
        series_uid=sys.intern(series_uid),
        study_uid=sys.intern(study_uid),
        sop_uid=uid_or_code(dataset, "SOPInstanceUID"),
        frame_of_reference=sys.intern(known_uid(dataset, "FrameOfReferenceUID")),
        modality=sys.intern(modality),
        description=sys.intern(_free_text(dataset, "SeriesDescription", identity)) if words else "",
        original_description=sys.intern(decoded(dataset, "SeriesDescription")) if words else "",
        syntax=sys.intern(uid(dataset.file_meta, "TransferSyntaxUID")),
        patient_key=sys.intern(patient_pseudonym(patient_id, key) or _unknown_patient(study_uid or series_uid, key)),
        instance_number=integer(dataset, "InstanceNumber", 0),
        shape=shape,
        frames=frames,
        mosaic=tiles.side if isinstance(tiles, Tiles) else 1,
        enhanced=bool(shared or per_frame),
        picture=picture,
        localizer=localizer,
        planes=planes,
        marks=marks,
        thickness=thickness[0] if thickness and thickness[0] > 0 else 1.0,
        origin=_origin(dataset, identity, marks) if words else Origin(),
        no_hounsfield=no_hounsfield,
        problem=problem,
        series_number=sys.intern(text(dataset, "SeriesNumber")),
        view=sys.intern(_view(dataset)),
    )


def _view(dataset: Dataset) -> str:
    """Return the view of a radiograph, such as "PA" or "R MLO"; "" if the header does not tell it."""
    sides = (text(dataset, keyword).upper() for keyword in ("ImageLaterality", "Laterality"))
    side = next((one for one in sides if one in ("R", "L", "B")), "")
    return f"{side} {text(dataset, 'ViewPosition').upper()}".strip()


def _unknown_patient(uid: str, key: bytes) -> str:
    """Return a pseudonym for a patient without ID from a study or series UID, "" if there is no UID either."""
    return study_pseudonym(uid, key) if uid else ""


def _tiles(dataset: Dataset, shape: tuple[int, int], planes: tuple[Plane, ...]) -> Tiles | str | None:
    """Return the slices of a mosaic, or why it cannot be read; None for any other image."""
    if not is_tiled(dataset):
        return None
    try:
        if len(planes) != 1:
            raise ValueError("it is no grey image with a position of its own")
        (plane,) = planes
        return tiles_of(dataset, shape, plane.position, plane.orientation, plane.spacing)
    except ValueError as error:  # of `tiles_of`, in words that are ours
        return (
            f"a mosaic, several images side by side in one, of which no volume is made: {error}. Export it with the "
            "private elements of its maker, or each of its images for itself."
        )
