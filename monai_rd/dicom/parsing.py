"""Parsing of one DICOM file: the elements that this project uses, or an error that says why it cannot be parsed.

Privacy: only the attributes listed here are parsed, and pydicom gets an open file object without its path.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Callable
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_partial
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from monai_rd.dicom.classes import CLASS_TAGS
from monai_rd.dicom.elements import BLOCK, PIXELS, ordinary_elements
from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.dicom.marks import MARK_TAGS
from monai_rd.dicom.mosaic import MOSAIC_TAGS, TILED_TAGS, is_tiled
from monai_rd.dicom.redaction import IDENTIFYING
from monai_rd.dicom.values import uid
from monai_rd.errors import UnreadableFileError, UnreadablePixelsError, reading_files
from monai_rd.files import open_file

__all__ = ["is_dicom", "read_file"]

_HEADER_TAGS = (MARK_TAGS | TILED_TAGS).union(
    int(Tag(keyword))
    for keyword in (
        *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"),
        *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "InstanceNumber", "FrameOfReferenceUID"),
        *("Modality", *IDENTIFYING),
        *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
        *("PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
        *("BodyPartExamined", "PatientSex", "PatientAge", "Manufacturer", "ManufacturerModelName", "InstitutionName"),
        *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape"),
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SequenceOfUltrasoundRegions"),
        *("DetectorInformationSequence", "SliceVector", "SpacingBetweenSlices", *CLASS_TAGS),
        *("ViewPosition", "ImageLaterality", "Laterality"),
    )
)
_PIXEL_TAGS = frozenset(
    int(Tag(keyword))
    for keyword in (
        *(f"{colour}PaletteColorLookupTable{what}" for colour in ("Red", "Green", "Blue") for what in ("Descriptor",)),
        *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
        *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
        *(f"{kind}PixelPadding{end}" for kind in ("Float", "DoubleFloat") for end in ("Value", "RangeLimit")),
        *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
    )
)
_AFTER_SERIES_UID = 0x0020000F
# Size limit of an inflated data set, as a few bytes can inflate to gigabytes.
_MOST_INFLATED = 256 << 20


class _AnonymousReader(io.BufferedReader):
    """An open file that hides its path, because pydicom puts ``name`` into its warnings."""

    @property
    def name(self) -> str:
        return "(name withheld)"


@log_warnings_once()
def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is DICOM, by its first bytes.

    Args:
        path: path of the file, which may have the 128-byte preamble or not.

    Returns:
        True if the file has the "DICM" mark, or a SOP class in its first elements; False also for anything that is not
        a readable file.
    """
    try:
        with _AnonymousReader(open_file(path)) as stream:
            return _starts_as_dicom(stream)
    except OSError:
        return False


def _starts_as_dicom(stream: io.BufferedReader) -> bool:
    """Return whether an open file starts as DICOM does; the file is left at its start."""
    head = stream.read(132)
    stream.seek(0)
    if head[128:132] == b"DICM":
        return True
    # Without preamble a data set starts in group 0002 or 0008; on anything else the parser would work through noise.
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
    except Exception:  # the parser can fail on noise in any way; the file is then not DICOM
        return False
    finally:
        stream.seek(0)


@log_warnings_once()
def read_file(path: str | os.PathLike[str], *, pixels: bool) -> Dataset | None:
    """Parse one file in a single pass.

    Files that cannot be read or parsed are never skipped silently: this could lose the last slice of a stack, which no
    check of the spacing can detect.

    Args:
        path: path of the file.
        pixels: also read the pixel data.

    Returns:
        The data set, None if the file is not DICOM.

    Raises:
        UnreadableFileError: the file cannot be opened or read.
        UnreadablePixelsError: the file is DICOM but cannot be parsed.
    """
    try:
        with reading_files(), _AnonymousReader(open_file(path), BLOCK) as stream:
            if not _starts_as_dicom(stream):
                return None
            tags = _HEADER_TAGS | _PIXEL_TAGS if pixels else _HEADER_TAGS
            dataset = _parsed(stream, tags, pixels)
            if is_tiled(dataset):  # mosaics need further elements, which are too long to read for every file
                stream.seek(0)
                dataset = _parsed(stream, tags | MOSAIC_TAGS, pixels)
            return dataset
    except UnreadableFileError:
        raise
    except Exception as error:  # the parser can fail on a damaged file in any way; its message may quote the file
        raise UnreadablePixelsError(
            f"A file cannot be parsed ({type(error).__name__}). Export the series again."
        ) from None


def _parsed(stream: io.BufferedReader, tags: frozenset[int], pixels: bool) -> Dataset:
    """Return the wanted elements of an open file at its start, with the transfer syntax in `file_meta`."""
    ordinary = ordinary_elements(stream, tags, pixels)
    if ordinary is not None:
        return ordinary
    stream.seek(0)
    _check_deflated(stream)
    wanted: list[Any] = list(tags)
    dataset = dcmread(stream, force=True, stop_before_pixels=not pixels, specific_tags=wanted)
    # For a file that ends within an element the parser returns nothing: read it up to the pixels, or at least up to
    # the series UID, so that the damage is reported for the right series.
    for stop in (PIXELS, _AFTER_SERIES_UID):
        if "SeriesInstanceUID" not in dataset and "PixelData" not in dataset:
            stream.seek(0)
            dataset = read_partial(stream, _stop_at(stop), force=True, specific_tags=wanted)
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    if not uid(meta, "TransferSyntaxUID"):  # a file without meta header: the parser has detected its encoding
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        dataset.file_meta = meta
    return dataset


def _check_deflated(stream: io.BufferedReader) -> None:
    """Check the inflated size of a deflated data set, which the parser does not limit; leaves the file at its start.

    Raises:
        ValueError: it is larger than the limit.
    """
    head = stream.read(1024)
    if DeflatedExplicitVRLittleEndian.encode() in head and head[132:140] == b"\x02\x00\x00\x00UL\x04\x00":
        stream.seek(144 + int.from_bytes(head[140:144], "little"))
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        data = stream.read()
        while data and not inflater.eof:
            size += len(inflater.decompress(data, 1 << 20))
            if size > _MOST_INFLATED:
                raise ValueError("the deflated data set is too large")
            data = inflater.unconsumed_tail
    stream.seek(0)


def _stop_at(stop: int) -> Callable[[int, str | None, int], bool]:
    return lambda tag, vr, length: tag >= stop
