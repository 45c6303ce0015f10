"""Writing phantoms as DICOM, with a header that marks them as phantoms; the same phantom gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

__all__ = ["MARK", "Identity", "put_pixels", "write_axial_series", "write_chest_ct"]

MARK = "phantom, not a patient"
FIRST_DAY = date(2026, 1, 1)  # of study 0; each further study is one day later, so that queries by date can be tested


@dataclass(frozen=True)
class Identity:
    """The identity of a phantom study, from which its UIDs and header are made.

    Attributes:
        modality: DICOM modality.
        version: version of the drawing.
        seed: seed of the cohort.
        number: number of the study.
    """

    modality: str
    version: int
    seed: int
    number: int

    def uid(self, *parts: object) -> UID:
        """Return the UID of a part of the study."""
        words = (self.modality, self.version, self.seed, self.number, *parts)
        return generate_uid(entropy_srcs=["monai_rd phantom", *map(str, words)])

    def header(self, storage: UID) -> Dataset:
        """Return the header of the study's first image, without pixels."""
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = storage
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = self.uid("image", 0)
        header.StudyInstanceUID, header.SeriesInstanceUID = self.uid("study"), self.uid("series")
        header.PatientName, header.PatientID = f"PHANTOM^{self.number:04d}", f"PHANTOM-{self.number:04d}"
        header.PatientBirthDate = header.PatientSex = header.StudyTime = ""
        header.StudyDate = f"{FIRST_DAY + timedelta(self.number):%Y%m%d}"
        header.AccessionNumber = header.StudyID = header.ReferringPhysicianName = ""
        header.Modality, header.Manufacturer, header.SeriesDescription = self.modality, "monai_rd", MARK
        header.SeriesNumber = header.InstanceNumber = 1
        return header


def put_pixels(image: Dataset, pixels: NDArray, photometric: str, bits: int = 16) -> None:
    """Store unsigned pixels `[rows, columns]`, `[frames, rows, columns]` or `[rows, columns, 3]` in an image."""
    colours = photometric == "RGB"
    image.Rows, image.Columns = pixels.shape[:2] if colours else pixels.shape[-2:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 3 if colours else 1, photometric
    if colours:
        image.PlanarConfiguration = 0
    image.BitsAllocated = 8 if bits <= 8 else 16
    image.BitsStored, image.HighBit, image.PixelRepresentation = bits, bits - 1, 0
    image.PixelData = pixels.astype("u1" if bits <= 8 else "<u2").tobytes()


def write_axial_series(
    path: Path, identity: Identity, volume: NDArray, pixel_mm: float, slice_mm: float, attributes: Mapping[str, object]
) -> None:
    """Write an axial CT or MR series: one file per slice, with file names and instance numbers in random order.

    Args:
        path: a new folder.
        identity: identity of the study.
        volume: unsigned 16-bit values `[slices, rows, columns]`; rows run anterior to posterior, columns from the
            patient's right to left, slices from inferior to superior.
        pixel_mm: spacing of rows and of columns in mm.
        slice_mm: spacing of slices in mm.
        attributes: further attributes of the modality, by keyword.
    """
    path.mkdir()
    order = np.random.default_rng([identity.seed, identity.number, 1]).permutation(len(volume))
    across, down = (-(count - 1) / 2 * pixel_mm for count in (volume.shape[2], volume.shape[1]))
    # What the slices have in common is set once.
    image = identity.header(CTImageStorage if identity.modality == "CT" else MRImageStorage)
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = identity.uid("frame"), ""
    image.ImageType, image.AcquisitionNumber = ["DERIVED", "PRIMARY", "AXIAL"], 1
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [pixel_mm, pixel_mm], slice_mm
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    for index, pixels in enumerate(volume):
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = identity.uid("image", index)
        image.InstanceNumber = int(order[index]) + 1
        image.ImagePositionPatient = [across, down, (index - (len(volume) - 1) / 2) * slice_mm]
        put_pixels(image, pixels, "MONOCHROME2")
        image.save_as(path / f"IM{order[index]:04d}.dcm", enforce_file_format=True)


def write_chest_ct(path: Path, identity: Identity, hounsfield: NDArray, pixel_mm: float, slice_mm: float) -> None:
    """Write an axial CT series of a chest, see `write_axial_series`; `hounsfield` holds HU from -1024 on."""
    attributes = {"BodyPartExamined": "CHEST", "KVP": 120}
    attributes |= {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
    attributes |= {"WindowCenter": -600, "WindowWidth": 1500}
    write_axial_series(path, identity, hounsfield + 1024, pixel_mm, slice_mm, attributes)
