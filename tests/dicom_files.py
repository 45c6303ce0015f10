"""DICOM files that the project writes itself, for its tests."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

NAME, PATIENT_ID = "Secretname^Anna", "SECRET-4711"
Change = Callable[[int, Dataset], None]
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
ROWS, COLUMNS = 10, 14
SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def oblique() -> tuple[float, ...]:
    """Two orthonormal in-plane directions along no world axis, as written in a file (8 digits)."""
    q, _ = np.linalg.qr(np.array([[0.9, 0.1, 0.3], [-0.2, 0.95, 0.1], [-0.25, 0.2, 0.9]]))
    return tuple(float(f"{v:.8f}") for v in (*q[:, 0], *q[:, 1]))


def make_series(
    folder: Path,
    *,
    slices: int = 6,
    orientation: tuple[float, ...] = AXIAL,
    origin: tuple[float, float, float] = (-31.5, 12.25, 40.0),
    spacing: tuple[float, float] = (0.8, 0.6),  # between rows, between columns
    distance: float = 2.5,
    shape: tuple[int, int] = (ROWS, COLUMNS),
    modality: str = "CT",
    rescale: tuple[float, float] | None = (2.0, -1024.0),
    change: Change | None = None,
    skip: tuple[int, ...] = (),
    seed: int = 0,
) -> tuple[str, np.ndarray]:
    """Write a CT series with shuffled names and InstanceNumbers; return its UID and stored values [slice, row, col]."""
    folder.mkdir(parents=True, exist_ok=True)
    shuffled = random.Random(seed)
    names, numbers = list(range(slices)), list(range(1, slices + 1))
    shuffled.shuffle(names)
    shuffled.shuffle(numbers)
    stored = np.random.default_rng(seed).integers(0, 2000, (slices, *shape), dtype=np.int16)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    normal = np.cross(orientation[:3], orientation[3:])
    for k in range(slices):
        if k in skip:
            continue
        ds = Dataset()
        ds.SOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
        ds.SOPInstanceUID = generate_uid()
        ds.PatientName, ds.PatientID = NAME, PATIENT_ID
        ds.PatientBirthDate, ds.PatientSex, ds.StudyDate, ds.StudyTime = "19700101", "O", "20200101", "120000"
        ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName, ds.Manufacturer = "", "1", "", "test"
        ds.PositionReferenceIndicator, ds.SeriesNumber, ds.InstanceNumber = "", 1, numbers[k]
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID, ds.Modality = study, series, frame, modality
        ds.ImageOrientationPatient = list(orientation)
        ds.ImagePositionPatient = [f"{v:.8f}" for v in np.asarray(origin) + k * distance * normal]
        ds.PixelSpacing, ds.SliceThickness, ds.KVP, ds.AcquisitionNumber = list(spacing), 3.0, 120, 1
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *shape, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.WindowCenter, ds.WindowWidth = 40, 400  # a loader that applies the display window fails the HU tests
        if rescale is not None:
            ds.RescaleSlope, ds.RescaleIntercept = rescale
        ds.PixelData = stored[k].tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if change is not None:
            change(k, ds)
        ds.save_as(folder / f"{PATIENT_ID}_{names[k]:03d}.dcm", enforce_file_format=True)
    return str(series), stored


def set_bytes(folder: Path, keyword: str, vr: str, value: bytes) -> None:
    """Put an element into every file of a series that `make_series` wrote, byte by byte: pydicom changes odd ones."""
    tag = pydicom.tag.Tag(keyword)
    value += (b"\0" if vr in ("UI", "UN") else b" ") * (len(value) % 2)
    long = vr in ("UN", "OB", "OW", "SQ", "UT")
    length = struct.pack("<2xI" if long else "<H", len(value))
    element = struct.pack("<HH", tag.group, tag.element) + vr.encode() + length + value
    for file in folder.iterdir():
        content = file.read_bytes()
        place = 144 + int.from_bytes(content[140:144], "little")
        while True:
            group, number = struct.unpack_from("<HH", content, place)
            if (group, number) >= (tag.group, tag.element):
                break
            place = _next_element(content, place)
        after = _next_element(content, place) if (group, number) == (tag.group, tag.element) else place
        file.write_bytes(content[:place] + element + content[after:])


def _next_element(content: bytes, place: int) -> int:
    if content[place + 4 : place + 6] in (b"UN", b"OB", b"OW", b"SQ", b"UT"):
        return place + 12 + int(struct.unpack_from("<I", content, place + 8)[0])
    return place + 8 + int(struct.unpack_from("<H", content, place + 6)[0])


def enhanced(folder: Path, target: Path, **change: Any) -> str:
    """Write an enhanced CT or MR made of the series in a folder; return its series UID."""
    legacy = pytest.importorskip("highdicom.legacy")
    datasets = [pydicom.dcmread(f) for f in sorted(folder.iterdir())]
    uid = str(generate_uid())
    kinds = {"CT": legacy.LegacyConvertedEnhancedCTImage, "MR": legacy.LegacyConvertedEnhancedMRImage}
    made = kinds[datasets[0].Modality](
        datasets,
        series_instance_uid=uid,
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    )
    for keyword, value in change.items():
        setattr(made, keyword, value)
    made.save_as(target)
    return uid


def several(folder: Path, changes: Sequence[Change], slices: int = 5, **more: Any) -> tuple[str, list[np.ndarray]]:
    """Write series that share UID and planes; the same slices have the same InstanceNumber in all of them."""
    series, frame = str(generate_uid()), str(generate_uid())
    stored = []
    for number, change in enumerate(changes):

        def whole(k: int, ds: Dataset, change: Change = change, number: int = number) -> None:
            ds.SeriesInstanceUID, ds.FrameOfReferenceUID, ds.StudyInstanceUID = series, frame, frame
            ds.InstanceNumber = k + 1
            change(k, ds)

        _, values = make_series(folder / str(number), slices=slices, change=whole, seed=number, **more)
        stored.append(values)
    return series, stored


def attributes(**values: Any) -> Change:
    """Give a change that sets attributes of every file."""

    def change(k: int, ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def multi_frame(
    folder: Path, target: Path, changes: Sequence[Change], macros: Sequence[Callable[[], Dataset]], **more: Any
) -> str:
    """Write an enhanced object that holds several volumes; each of `macros` gives what its frames say of themselves."""
    several(folder, changes, **more)
    uid = enhanced_of(folder, target)
    made = pydicom.dcmread(target)
    positions = [
        str(group.PlanePositionSequence[0].ImagePositionPatient) for group in made.PerFrameFunctionalGroupsSequence
    ]
    seen: dict[str, int] = {}
    for position, group in zip(positions, made.PerFrameFunctionalGroupsSequence, strict=True):
        which = seen[position] = seen.get(position, -1) + 1
        for name in ("UnassignedPerFrameConvertedAttributesSequence", "FrameContentSequence", "MREchoSequence"):
            if name in group:
                delattr(group, name)
        group.update(macros[which]())
    made.save_as(target)
    return uid


def enhanced_of(folder: Path, target: Path) -> str:
    """Write an enhanced object made of all files below a folder, which goes; return its series UID."""
    flat = target.parent / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(folder.rglob("*.dcm"))):
        ds = pydicom.dcmread(file)
        ds.InstanceNumber = number + 1
        ds.save_as(flat / file.with_stem(f"{number:03d}").name)
    uid = enhanced(flat, target)
    shutil.rmtree(flat)
    shutil.rmtree(folder)
    return uid


def group(sequence: str, **values: Any) -> Callable[[], Dataset]:
    """Give a functional group with one macro."""

    def made() -> Dataset:
        item, whole = Dataset(), Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        setattr(whole, sequence, [item])
        return whole

    return made


def image_library(report: Dataset) -> list[Dataset]:
    """Give the references of a structured report's image library; each of its groups begins with the modality."""
    (library,) = [one for one in report.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "111028"]
    found = []
    for of_series in library.ContentSequence:
        modality, *images = of_series.ContentSequence
        assert modality.ConceptNameCodeSequence[0].CodeMeaning == "Modality"
        found += [one.ReferencedSOPSequence[0] for one in images]
    return found
