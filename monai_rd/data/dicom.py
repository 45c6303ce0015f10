"""DICOM series in, one geometrically correct volume out, or a refusal that says what to do.

The readers of MONAI stack whatever lies in a folder: two series become one volume, a missing slice is stretched
over, a constant ``InstanceNumber`` shuffles the slices. None of that raises. Here a series is read only if its
headers describe one regular stack of parallel slices; everything else is a
:class:`~monai_rd.data.errors.DicomSeriesError` with a stable ``code``.

Privacy: only the attributes in ``_HEADER_TAGS`` and ``_PIXEL_TAGS`` are parsed, and the patient's name is not among
them. Messages name a series by its ``SeriesInstanceUID``, by counts and by positions in mm. Paths found on disk never
reach a message or a log, because folders and files are often named after the patient.

Not for clinical use.
"""

from __future__ import annotations

import hmac
import io
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_partial
from pydicom.pixels import get_decoder
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_rd.data.errors import (
    DicomSeriesError,
    DuplicateSlicesError,
    MissingSlicesError,
    MixedOrientationError,
    MixedSeriesError,
    MixedShapeError,
    NoDicomError,
    NoHounsfieldError,
    TiltedStackError,
    UnreadablePixelsError,
    UnsupportedImageError,
)

__all__ = ["SeriesInfo", "SeriesVolume", "index_dicom", "is_dicom", "load_series"]

logger = logging.getLogger(__name__)

# Direction cosines are written with about six digits; a larger difference is another orientation.
_ORIENTATION_TOLERANCE = 1e-4
# Two images closer than this along the normal lie in one plane, in mm.
_SAME_PLANE_MM = 0.01
# RescaleType values of CT under which the rescaled values are Hounsfield units ("US" is "unspecified").
_HU_TYPES = frozenset({"", "HU", "HU_MOD", "US"})
# Patient keys group within one run only: a plain hash of a short ID could be reversed by trying all IDs.
_RUN_KEY = secrets.token_bytes(32)

_HEADER_TAGS = [
    Tag(keyword)
    for keyword in (
        *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("FrameOfReferenceUID", "PatientID", "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
        *("PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"),
        *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    )
]
_PIXEL_TAGS = [
    Tag(keyword)
    for keyword in (
        *("DimensionOrganizationSequence", "DimensionOrganizationType", "DimensionIndexSequence"),
        *("ImageOrientationSlide", "TotalPixelMatrixRows", "TotalPixelMatrixColumns"),
        *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
    )
]
_PIXEL_GROUP, _AFTER_SERIES_UID = 0x7FE00000, 0x0020000F

_DECODER_HINTS = {
    "1.2.840.10008.1.2.4.50": "install pillow or python-gdcm",
    "1.2.840.10008.1.2.4.51": "12-bit JPEG Extended needs pylibjpeg-libjpeg (GPLv3, therefore not installed here)",
    "1.2.840.10008.1.2.4.57": "install python-gdcm",
    "1.2.840.10008.1.2.4.70": "install python-gdcm",
    "1.2.840.10008.1.2.4.80": "install pyjpegls",
    "1.2.840.10008.1.2.4.81": "install pyjpegls",
    "1.2.840.10008.1.2.4.90": "install pylibjpeg and pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "install pylibjpeg and pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "install pylibjpeg and pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "install pylibjpeg and pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "install pylibjpeg and pylibjpeg-openjpeg",
}


@dataclass(frozen=True)
class SeriesInfo:
    """One series as found by :func:`index_dicom`.

    Attributes:
        series_uid: ``SeriesInstanceUID``.
        study_uid: ``StudyInstanceUID`` of its first image.
        modality: such as "CT".
        files: its image files, sorted by path. Paths can carry names: keep them out of logs and reports.
        patient_key: 16 hex digits that are equal for images of one patient within this process, and only there;
            for patient-level splits. Images without a patient ID are grouped by study.
        problem: why :func:`load_series` would refuse ``files`` by their headers, else None.
    """

    series_uid: str
    study_uid: str
    modality: str
    files: tuple[Path, ...]
    patient_key: str
    problem: DicomSeriesError | None


@dataclass(frozen=True, eq=False)
class SeriesVolume:
    """One series as a volume.

    Attributes:
        array: float32 [X, Y, Z]: X = columns, Y = rows, Z = slices, in the memory order of nibabel (X fastest).
        affine: float64 [4, 4], voxel index (x, y, z, 1) to mm in RAS+ world (DICOM's LPS with x and y negated).
        spacing: mm between voxel centres along x, y, z.
        modality: such as "CT".
        series_uid: ``SeriesInstanceUID``.
        intensity: "HU" for CT, else "arbitrary".
    """

    array: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    spacing: tuple[float, float, float]
    modality: str
    series_uid: str
    intensity: str


@dataclass(frozen=True)
class _Plane:
    """Where one frame lies: mm in LPS, direction cosines (row 3, column 3), (row, column) spacing in mm."""

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class _Image:
    """The header of one file, as far as it decides whether the series can be read."""

    series_uid: str
    study_uid: str
    sop_uid: str
    frame_of_reference: str
    modality: str
    patient_key: str
    shape: tuple[int, int]
    enhanced: bool
    planes: tuple[_Plane, ...]
    no_hounsfield: str | None
    problem: DicomSeriesError | None


class _AnonymousReader(io.BufferedReader):
    """An open file that does not tell its path: pydicom puts ``name`` into its warnings."""

    @property
    def name(self) -> str:
        return "(name withheld)"


# --------------------------------------------------------------------------------------------------- single files


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Tell cheaply whether a file is DICOM, by its first bytes.

    Args:
        path: a file, with or without the 128-byte preamble.

    Returns:
        True for the "DICM" mark, or where the first elements hold a SOP class; False also for what is not a
        readable file.
    """
    try:
        with _AnonymousReader(io.FileIO(os.fspath(path), "rb")) as stream:
            return _starts_as_dicom(stream)
    except OSError:
        return False


def _starts_as_dicom(stream: io.BufferedReader) -> bool:
    """Look at the first bytes of an open file; leaves it at its start."""
    head = stream.read(132)
    stream.seek(0)
    if head[128:132] == b"DICM":
        return True
    # Without preamble a data set starts in group 0002 or 0008; anything else would send the parser through noise.
    if head[:2] not in (b"\x08\x00", b"\x02\x00", b"\x00\x08"):
        return False
    try:
        found = read_partial(
            stream,
            stop_when=lambda tag, vr, length: tag > 0x00080016 or length > 4096,
            force=True,
            specific_tags=[0x00080016],
        )
        return bool(re.fullmatch(r"[0-9.]{5,64}", str(found.get("SOPClassUID", ""))))
    except Exception:  # noise can fail in the parser in any way, and is then not DICOM
        return False
    finally:
        stream.seek(0)


def _read(path: Path, *, pixels: bool) -> Dataset | None:
    """Parse one file with a single pass.

    Args:
        path: the file.
        pixels: whether to read the pixel data also.

    Returns:
        The data set, None where the file is not DICOM.

    Raises:
        UnreadablePixelsError: the file cannot be opened, or is DICOM but cannot be parsed. To skip it silently could
            lose the last slice of a stack, which no check of the spacing can see.
    """
    try:
        with _AnonymousReader(io.FileIO(path, "rb")) as stream:
            if not _starts_as_dicom(stream):
                return None
            wanted: list[Any] = [*_HEADER_TAGS, *_PIXEL_TAGS] if pixels else list(_HEADER_TAGS)
            dataset = dcmread(stream, force=True, stop_before_pixels=not pixels, specific_tags=wanted)
            # A file that ends within an element loses all of them in the parser: read it up to the pixels, or at
            # least up to the series UID, so that the damage is told of the right series.
            for stop in (_PIXEL_GROUP, _AFTER_SERIES_UID):
                if "SeriesInstanceUID" not in dataset:
                    stream.seek(0)
                    dataset = read_partial(stream, _stop_at(stop), force=True, specific_tags=wanted)
    except Exception as error:  # a damaged file can fail in the parser in any way; the message may quote the file
        raise UnreadablePixelsError(
            f"A file cannot be opened or parsed ({type(error).__name__}). Check its permissions, or export the series "
            "again."
        ) from None
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    if "TransferSyntaxUID" not in meta:  # a file without meta header: the parser has seen its encoding
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        dataset.file_meta = meta
    return dataset


def _stop_at(stop: int) -> Callable[[int, str | None, int], bool]:
    return lambda tag, vr, length: tag >= stop


def _text(dataset: Dataset, keyword: str) -> str:
    """Return a short code string or UID; "" where absent or where it holds anything but a code."""
    try:
        value = str(dataset.get(keyword) or "").strip()
    except Exception:  # an undecodable value counts as absent
        return ""
    return value if re.fullmatch(r"[A-Za-z0-9._ ]{1,64}", value) else ""


def _uid(dataset: Dataset, keyword: str) -> str:
    """Return a UID; "" where absent or not a UID (free text there could name a person)."""
    value = _text(dataset, keyword)
    return value if re.fullmatch(r"[0-9.]+", value) else ""


def _integer(dataset: Dataset, keyword: str, default: int) -> int:
    try:
        value = dataset.get(keyword)
        return default if value is None else int(value)
    except Exception:  # an undecodable value counts as absent
        return default


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return ``count`` finite numbers, None where the attribute is absent, empty, of other length or not numeric."""
    try:
        value = dataset.get(keyword)
        if value is None:
            return None
        numbers = tuple(float(v) for v in (value if count > 1 else [value]))
    except Exception:  # an undecodable value counts as absent
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _sop_class(dataset: Dataset) -> UID:
    """Return the class of a DICOM object, UID("") where it does not tell."""
    return UID(_uid(dataset, "SOPClassUID") or _uid(dataset.file_meta, "MediaStorageSOPClassUID"))


def _is_image(dataset: Dataset) -> bool:
    """Tell whether a parsed file is an image, also where it is cut off before its Rows."""
    return "Rows" in dataset or _sop_class(dataset).name.endswith("Image Storage")


def _describe(dataset: Dataset) -> _Image:
    """Extract what the checks need from a parsed image; never raises."""
    series_uid = _uid(dataset, "SeriesInstanceUID")
    study_uid = _uid(dataset, "StudyInstanceUID")
    modality = _text(dataset, "Modality")
    shape = (_integer(dataset, "Rows", 0), _integer(dataset, "Columns", 0))
    frames = max(1, _integer(dataset, "NumberOfFrames", 1))
    shared, per_frame = _functional_groups(dataset)
    enhanced = bool(shared or per_frame)

    problem: DicomSeriesError | None = None
    planes: tuple[_Plane, ...] = ()
    no_hounsfield: str | None = None
    who = f"Series {series_uid or '(no UID)'}"
    samples = _integer(dataset, "SamplesPerPixel", 1)
    colours = _text(dataset, "PhotometricInterpretation")
    if not shape[0] or not shape[1]:
        problem = UnreadablePixelsError(
            f"{who}: an image file has no image size (cut off in its header, or a header only). Export the series "
            "again.",
            series_uid or None,
        )
    elif not series_uid:
        problem = UnsupportedImageError("An image has no valid SeriesInstanceUID, so it belongs to no series.", None)
    elif samples != 1 or not colours.startswith("MONOCHROME"):
        problem = UnsupportedImageError(
            f"{who}: {colours or 'colour'} image with {samples} sample(s) per pixel. Volumes are read from "
            "single-channel (MONOCHROME1/2) images only; read colour images as 2D pictures.",
            series_uid,
        )
    elif frames > 1 and not enhanced:
        problem = UnsupportedImageError(
            f"{who}: multi-frame image ({frames} frames) without plane positions, such as a cine loop. Only enhanced "
            "multi-frame objects, which give each frame a position, can become a volume.",
            series_uid,
        )
    elif enhanced and per_frame and len(per_frame) != frames:
        problem = UnsupportedImageError(
            f"{who}: {frames} frames but {len(per_frame)} sets of frame attributes. Export the series again.",
            series_uid,
        )
    else:
        sources = [(group, *shared) for group in per_frame] if per_frame else [shared] * frames
        found = [_plane(dataset, groups) for groups in sources]
        planes = tuple(plane for plane in found if plane is not None)
        if len(planes) < len(found):
            planes = ()
            problem = UnsupportedImageError(
                f"{who}: {modality or 'image'} without a valid ImagePositionPatient, ImageOrientationPatient or "
                "PixelSpacing, so it has no place in the patient (a radiograph, an ultrasound, a secondary capture, or "
                "a file that lost its geometry). Use the original cross-sectional series, or read it as a 2D picture.",
                series_uid,
            )
        elif modality == "CT":
            no_hounsfield = _no_hounsfield(dataset, sources)

    # Raw bytes: parsing an odd value would quote it in a warning. Without an ID the study is the smallest group that
    # surely is one patient.
    element = dataset.get_item("PatientID")
    raw = element.value if element is not None else None
    patient_id = (raw if isinstance(raw, bytes) else str(raw or "").encode()).strip(b" \0")
    secret = b"patient:" + patient_id if patient_id else b"study:" + study_uid.encode()
    return _Image(
        series_uid=series_uid,
        study_uid=study_uid,
        sop_uid=_uid(dataset, "SOPInstanceUID"),
        frame_of_reference=_uid(dataset, "FrameOfReferenceUID"),
        modality=modality,
        patient_key=hmac.new(_RUN_KEY, secret, "sha256").hexdigest()[:16],
        shape=shape,
        enhanced=enhanced,
        planes=planes,
        no_hounsfield=no_hounsfield,
        problem=problem,
    )


def _functional_groups(dataset: Dataset) -> tuple[tuple[Dataset, ...], tuple[Dataset, ...]]:
    """Return the shared and the per-frame functional groups of an enhanced object, () where absent."""
    try:
        return (
            tuple(dataset.get("SharedFunctionalGroupsSequence") or ()),
            tuple(dataset.get("PerFrameFunctionalGroupsSequence") or ()),
        )
    except Exception:  # a damaged sequence counts as absent
        return (), ()


def _macro(dataset: Dataset, groups: Iterable[Dataset], sequence: str) -> Dataset:
    """Return the item of a functional group macro, frame before shared; the data set itself for a plain image."""
    for group in groups:
        items = group.get(sequence)
        if items:
            return items[0]
    return dataset


def _plane(dataset: Dataset, groups: tuple[Dataset, ...]) -> _Plane | None:
    """Return where a frame lies, None where that is not stated or not possible."""
    position = _numbers(_macro(dataset, groups, "PlanePositionSequence"), "ImagePositionPatient", 3)
    orientation = _numbers(_macro(dataset, groups, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    spacing = _numbers(_macro(dataset, groups, "PixelMeasuresSequence"), "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None or min(spacing) <= 0:
        return None
    axes = np.reshape(orientation, (2, 3))
    if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3):  # not two orthogonal unit vectors
        return None
    return _Plane(position, orientation, spacing)


def _no_hounsfield(dataset: Dataset, sources: Sequence[tuple[Dataset, ...]]) -> str | None:
    """Say why a CT has no Hounsfield units, None where it has."""
    if dataset.get("ModalityLUTSequence"):
        return None
    for groups in sources:
        rescale = _macro(dataset, groups, "PixelValueTransformationSequence")
        slope = _numbers(rescale, "RescaleSlope", 1)
        if not slope or not slope[0] or _numbers(rescale, "RescaleIntercept", 1) is None:
            return "no RescaleSlope and RescaleIntercept"
        kind = _text(rescale, "RescaleType").upper()
        if kind not in _HU_TYPES:
            return f"RescaleType {kind}"
    return None


# ---------------------------------------------------------------------------------------------- checks of a series


def _check(images: Sequence[_Image]) -> DicomSeriesError | None:
    """Return why these images are not one regular volume by their headers, None where they are."""
    for image in images:
        if not image.series_uid and image.problem is not None:  # damaged, of whichever series
            return image.problem
    counts = Counter(image.series_uid for image in images)
    if len(counts) > 1:
        listed = ", ".join(f"{uid or '(no UID)'} ({n} images)" for uid, n in sorted(counts.items())[:8])
        more = ", ..." if len(counts) > 8 else ""
        return MixedSeriesError(
            f"{len(images)} images of {len(counts)} series lie together: {listed}{more}. List the series with "
            "index_dicom and give load_series the files of one of them."
        )
    uid = images[0].series_uid
    who = f"Series {uid}"
    for image in images:
        if image.problem is not None:
            return image.problem
    if len(images) > 1 and any(image.enhanced for image in images):
        return UnsupportedImageError(
            f"{who}: {len(images)} files of which some are multi-frame volumes. Give load_series one file at a time.",
            uid,
        )
    names = [image.sop_uid for image in images if image.sop_uid]
    repeated = len(names) - len(set(names))
    if repeated:
        return DuplicateSlicesError(
            f"{who}: {repeated} of {len(images)} files repeat an image that is already there (same SOPInstanceUID). "
            "Remove the copies.",
            uid,
        )
    if len({image.frame_of_reference for image in images}) > 1:
        return MixedSeriesError(
            f"{who}: its {len(images)} images have different frames of reference, so their positions cannot be "
            "compared. Give load_series the files of one frame of reference.",
            uid,
        )
    return _check_planes(images, uid) or _check_hounsfield(images, uid)


def _check_hounsfield(images: Sequence[_Image], uid: str) -> DicomSeriesError | None:
    lacking = [image.no_hounsfield for image in images if image.no_hounsfield]
    if not lacking:
        return None
    return NoHounsfieldError(
        f"Series {uid}: CT without Hounsfield units ({lacking[0]}; {len(lacking)} of {len(images)} files). Use the "
        "original reconstruction from the scanner or archive; stored values are not guessed to be HU.",
        uid,
    )


def _check_planes(images: Sequence[_Image], uid: str) -> DicomSeriesError | None:
    """Check that all planes form one right stack; lengths in mm."""
    who = f"Series {uid}"
    planes = [plane for image in images for plane in image.planes]
    n = len(planes)
    sizes = Counter(image.shape for image in images)
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

    position = np.array([plane.position for plane in planes])
    normal = np.cross(orientation[0, :3], orientation[0, 3:])
    depth = position @ normal
    order = np.argsort(depth, kind="stable")
    position, depth = position[order], depth[order]
    gaps = np.diff(depth)
    same = np.flatnonzero(gaps < _SAME_PLANE_MM)
    if same.size:
        return DuplicateSlicesError(
            f"{who}: {same.size} of {n} images lie in the plane of another one, the first at {_mm(position[same[0]])}. "
            "It may hold several phases, echoes or reconstructions: give load_series the files of one of them.",
            uid,
        )
    sideways = position - depth[:, None] * normal
    drift = float(np.linalg.norm(sideways - sideways[0], axis=1).max())
    if drift > 0.5 * pixel[0].min():
        angle = np.degrees(np.arctan2(drift, depth[-1] - depth[0]))
        return TiltedStackError(
            f"{who}: the slices are not stacked along their normal (off by {drift:.2f} mm over the stack, about "
            f"{angle:.1f} degrees), as with a tilted gantry. Resample it to a right-angled volume first.",
            uid,
        )
    usual = float(np.median(gaps))
    uneven = np.flatnonzero(np.abs(gaps - usual) > _spacing_tolerance(usual))
    if uneven.size:
        first = int(uneven[0])
        lost = int(np.maximum(np.rint(gaps[uneven] / usual) - 1, 0).sum())
        missing = f"about {lost} slice position(s) empty" if lost else "spacing is irregular"
        return MissingSlicesError(
            f"{who}: {n} slices, usual distance {usual:.3f} mm, but {uneven.size} distance(s) differ, the first is "
            f"{gaps[first]:.3f} mm between {_mm(position[first])} and {_mm(position[first + 1])}: {missing}. Fetch the "
            "complete series from the archive; gaps are not interpolated.",
            uid,
        )
    even = np.linspace(depth[0], depth[-1], n)
    if np.abs(depth - even).max() > 0.25 * usual:
        return MissingSlicesError(
            f"{who}: the distance between its {n} slices changes along the stack ({gaps.min():.3f} to "
            f"{gaps.max():.3f} mm), the spacing is irregular. Resample it to an even spacing first.",
            uid,
        )
    return None


def _spacing_tolerance(spacing: float) -> float:
    """Return by how many mm a distance may differ: 1 %, or the rounding of positions written to 0.1 mm."""
    return max(0.01 * spacing, min(0.101, 0.2 * spacing))


def _mm(position: npt.NDArray[np.float64]) -> str:
    return "({:.2f}, {:.2f}, {:.2f}) mm".format(*position)


# ------------------------------------------------------------------------------------------------------ public API


def index_dicom(folder: str | os.PathLike[str]) -> list[SeriesInfo]:
    """List the image series under a folder, from headers only.

    Args:
        folder: walked with all its subfolders. Other files and DICOM objects that are no images (DICOMDIR, reports,
            PDF) are skipped; their number is logged.

    Returns:
        One entry for each series, sorted by series UID. A series that cannot be read has its ``problem`` set; it does
        not raise. Damaged pixel data shows only in :func:`load_series`.

    Raises:
        NoDicomError: the folder does not exist or holds no DICOM image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NoDicomError(f"{os.fspath(folder)} is not a folder. Give the folder that holds the DICOM files.")
    found: dict[str, list[tuple[Path, _Image]]] = {}
    skipped = damaged = 0
    for where, _, names in os.walk(root):
        for name in names:
            path = Path(where, name)
            try:
                dataset = _read(path, pixels=False)
            except UnreadablePixelsError:
                damaged += 1
                continue
            if dataset is None or not _is_image(dataset):
                skipped += 1
                continue
            image = _describe(dataset)
            if not image.series_uid and isinstance(image.problem, UnreadablePixelsError):
                damaged += 1
                continue
            found.setdefault(image.series_uid, []).append((path, image))
    if skipped or damaged:
        level = logging.WARNING if damaged else logging.INFO
        logger.log(level, "index_dicom: %d file(s) not DICOM images, %d unreadable file(s) skipped", skipped, damaged)
    if not found:
        raise NoDicomError(
            f"{os.fspath(folder)} holds no DICOM image ({skipped + damaged} other file(s)). Give the folder "
            "that holds the exported series."
        )
    series = []
    for uid, entries in sorted(found.items()):
        entries.sort(key=lambda entry: entry[0])
        images = [image for _, image in entries]
        series.append(
            SeriesInfo(
                series_uid=uid,
                study_uid=images[0].study_uid,
                modality=images[0].modality,
                files=tuple(path for path, _ in entries),
                patient_key=images[0].patient_key,
                problem=_check(images),
            )
        )
    return series


def load_series(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> SeriesVolume:
    """Read one series as a volume, in geometric order.

    Values are the stored ones after the modality transform (rescale), HU for CT: no window, no inversion of
    MONOCHROME1, and padding outside the field of view keeps its value, which in CT can lie below -1024 HU. Slices
    ascend along row direction x column direction, as in ITK: from inferior to superior for an axial series.

    Args:
        source: a folder (the files directly in it; files that are no DICOM images are skipped), one file, or the
            files of one series, in any order. An enhanced multi-frame object is one file.

    Returns:
        The volume, float32 [X, Y, Z]. A single slice is [X, Y, 1], as thick as its SliceThickness, else 1 mm.

    Raises:
        NoDicomError: nothing there, or no DICOM image.
        MixedSeriesError: images of several series or frames of reference.
        MixedShapeError: differing image size or pixel spacing.
        MixedOrientationError: images that are not parallel.
        DuplicateSlicesError: several images in one plane.
        MissingSlicesError: a gap, or irregular spacing.
        TiltedStackError: slices not stacked along their normal.
        UnsupportedImageError: colour, no pixels, no position in the patient, DICOMDIR and other objects.
        NoHounsfieldError: a CT without a rescale to HU.
        UnreadablePixelsError: cut off or damaged files, or no decoder for the transfer syntax.
    """
    datasets = _read_source(source)
    images = [_describe(dataset) for dataset in datasets]
    problem = _check(images)
    if problem is not None:
        raise problem
    for dataset, image in zip(datasets, images, strict=True):
        _check_pixels(dataset, image)

    uid, modality = images[0].series_uid, images[0].modality
    # A real-world value map would silently replace the HU, and presentation is for screens.
    options = {
        "dtype": np.float32,
        "apply_real_world_transform": False,
        "apply_modality_transform": None,
        "apply_voi_transform": False,
        "apply_presentation_lut": False,
        # The planes have passed the stricter checks above; these only keep highdicom from judging rounding again.
        "atol": _stack_tolerance(images),
        "perpendicular_tol": 2.0,
    }
    if images[0].enhanced:
        volume = _enhanced_volume(datasets[0], uid, options)
    else:
        volume = _plain_volume(datasets, uid, options)

    # highdicom gives [slice, row, column] and an affine to LPS for these axes; MONAI wants the reverse order in RAS.
    stack = np.asarray(volume.array)
    affine = np.asarray(volume.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
    if images[0].enhanced and len(images[0].planes) == 1:
        _set_single_thickness(affine, datasets[0])
    datasets.clear()  # the encoded and decoded slices, before the copy below
    if np.linalg.det(affine[:3, :3]) < 0:
        # highdicom stacks against row x column; ITK and MONAI stack along it. A copy, as torch takes no such view.
        stack = stack[::-1].copy()
        affine[:3, 3] += affine[:3, 2] * (stack.shape[0] - 1)
        affine[:3, 2] *= -1
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine + 0.0  # + 0.0 turns -0.0 into 0.0
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return SeriesVolume(
        array=stack.transpose(2, 1, 0),
        affine=affine,
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        modality=modality,
        series_uid=uid,
        intensity="HU" if modality == "CT" else "arbitrary",
    )


def _read_source(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Dataset]:
    """Parse the image files that a caller of :func:`load_series` means."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            read = [_read(entry, pixels=True) for entry in sorted(path.iterdir()) if entry.is_file()]
            datasets = [dataset for dataset in read if dataset is not None and _is_image(dataset)]
            if not datasets:
                raise NoDicomError(
                    f"{os.fspath(source)} holds no DICOM image directly in it ({len(read)} other file(s)). Subfolders "
                    "are not read: use index_dicom to find the series under a folder."
                )
            skipped = len(read) - len(datasets)
            if skipped:
                logger.info("load_series: %d file(s) that are no DICOM images were skipped", skipped)
            return datasets
        if not path.exists():
            raise NoDicomError(f"{os.fspath(source)} does not exist.")
        paths = [path]
    else:
        paths = [Path(entry) for entry in source]
        if not paths:
            raise NoDicomError("The list of files is empty.")
    datasets = []
    failed = 0
    for path in paths:
        dataset = _read(path, pixels=True)
        if dataset is None:
            failed += 1
            continue
        if not _is_image(dataset):
            raise UnsupportedImageError(
                f"A DICOM object without an image was given ({_sop_class(dataset).name or 'of no known class'}). Give "
                "the image files; for a DICOMDIR, give its folder to index_dicom.",
                _uid(dataset, "SeriesInstanceUID") or None,
            )
        datasets.append(dataset)
    if failed:
        what = os.fspath(source) if isinstance(source, str | os.PathLike) else f"{failed} of {len(paths)} given files"
        raise NoDicomError(f"{what}: not readable as DICOM.")
    return datasets


def _stack_tolerance(images: Sequence[_Image]) -> float:
    """Return the deviation in mm from the mean distance that the checks above can have let through."""
    planes = [plane for image in images for plane in image.planes]
    if len(planes) < 2:
        return 0.1
    normal = np.cross(planes[0].orientation[:3], planes[0].orientation[3:])
    gaps = np.diff(np.sort([float(np.dot(plane.position, normal)) for plane in planes]))
    return 2 * _spacing_tolerance(float(np.median(gaps)))


def _check_pixels(dataset: Dataset, image: _Image) -> None:
    """Refuse an image without pixel data.

    Raises:
        UnsupportedImageError: there is no pixel data.
        UnreadablePixelsError: there is none because the compressed data is cut off.
    """
    if any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return
    uid, syntax = image.series_uid, UID(dataset.file_meta.TransferSyntaxUID)
    # The parser drops a compressed element without its end mark, so here absent mostly means cut off.
    if syntax.is_private or not syntax.is_transfer_syntax or syntax.is_compressed:
        raise _unreadable(dataset, uid, "its pixel data is missing or cut off")
    raise UnsupportedImageError(
        f"Series {uid}: an image has no pixel data (a header only, or cut off before it). Export the series again with "
        "its images.",
        uid,
    )


def _unreadable(dataset: Dataset, uid: str, fault: str) -> UnreadablePixelsError:
    """Describe pixel data that cannot be read: transfer syntax and remedy."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    hint = _DECODER_HINTS.get(syntax)
    try:
        decodable = not syntax.is_compressed or get_decoder(syntax).is_available
    except Exception:  # pydicom knows no decoder at all, as for retired syntaxes
        decodable, hint = False, None
    transcode = "or convert the files to Explicit VR Little Endian (dcmtk: dcmdjpeg; gdcm: gdcmconv --raw)"
    if not decodable:
        fault = "no installed decoder reads it"
        remedy = f"{hint}, {transcode}" if hint else transcode.removeprefix("or ")
    elif hint and syntax == "1.2.840.10008.1.2.4.51":
        remedy = f"{hint}, {transcode}; if it still fails the file is damaged"
    else:
        remedy = "the file is damaged or cut off: export the series again"
        if syntax.is_compressed:
            remedy += f", {transcode}"
    name = syntax.name if syntax.is_transfer_syntax and not syntax.is_private else "private syntax"
    return UnreadablePixelsError(
        f"Series {uid}: pixel data in transfer syntax {name} ({syntax}) cannot be read: {fault}. Remedy: {remedy}.", uid
    )


def _plain_volume(datasets: list[Dataset], uid: str, options: dict[str, Any]) -> Any:
    """Stack single-frame images with highdicom.

    Raises:
        UnreadablePixelsError: an image cannot be decoded.
    """
    first = datasets[0]
    for dataset in datasets:
        # Equal within tolerance by the checks above, but highdicom compares digit by digit.
        dataset.ImageOrientationPatient = first.ImageOrientationPatient
        dataset.PixelSpacing = first.PixelSpacing
        if not _uid(dataset, "FrameOfReferenceUID"):
            dataset.FrameOfReferenceUID = uid  # none of the images has one: any common value does, in memory only
        # Decoding here, where the failing image is known; pydicom keeps the result for highdicom.
        try:
            shape = dataset.pixel_array.shape
        except Exception as error:  # decoders fail in their own ways
            raise _unreadable(dataset, uid, _fault(error)) from None
        if shape != (dataset.Rows, dataset.Columns):
            raise _unreadable(dataset, uid, "the decoded size differs from the header")
    if len(datasets) == 1:
        first.SpacingBetweenSlices = _single_thickness(first)
    try:
        return highdicom.get_volume_from_series(datasets, **options)
    except Exception as error:  # a damaged rescale table and the like; the message could quote header values
        raise _unreadable(first, uid, f"the modality transform failed with {type(error).__name__}") from None


def _enhanced_volume(dataset: Dataset, uid: str, options: dict[str, Any]) -> Any:
    """Stack the frames of an enhanced multi-frame object with highdicom.

    Raises:
        UnreadablePixelsError: a frame cannot be decoded.
    """
    try:
        return highdicom.Image.from_dataset(dataset, copy=False).get_volume(**options)
    except Exception as error:  # decoders fail in their own ways
        raise _unreadable(dataset, uid, _fault(error)) from None


def _fault(error: Exception) -> str:
    """Name a decoding failure without quoting it: its text can hold header values."""
    return f"decoding failed with {type(error).__name__}"


def _single_thickness(dataset: Dataset) -> float:
    """Return the extent of a lone slice along its normal in mm."""
    groups = sum(_functional_groups(dataset), ())
    thickness = _numbers(_macro(dataset, groups, "PixelMeasuresSequence"), "SliceThickness", 1)
    return thickness[0] if thickness and thickness[0] > 0 else 1.0


def _set_single_thickness(affine: npt.NDArray[np.float64], dataset: Dataset) -> None:
    """Give the lone slice of an enhanced object its thickness, in place."""
    affine[:3, 2] *= _single_thickness(dataset) / np.linalg.norm(affine[:3, 2])
