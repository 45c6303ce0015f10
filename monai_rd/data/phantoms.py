"""A small chest-CT phantom cohort, written as real DICOM series: the data of the embedded default run.

Every study is drawn from a few random ellipsoids: body with a fat layer, two lungs with vessels, heart, spine, ribs,
trachea. Findings are added to the lungs. The cohort's two classes are "clear" and "opacity" (patches of ground-glass
opacity); the other findings (nodules, emphysema, effusion, consolidation) occur in both classes; the shipped teacher
was pretrained on them and on densities. No patient is imitated: a model trained here knows phantoms and nothing else.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.ndimage import gaussian_filter

__all__ = ["OTHER_FINDINGS", "PhantomStudy", "draw_study", "is_phantom", "phantom_cohort"]

logger = logging.getLogger(__name__)

OTHER_FINDINGS = ("nodule", "emphysema", "effusion", "consolidation")
CLASS_NAMES = ("clear", "opacity")
# Rows and columns, and their size in mm; slices lie 10 mm apart.
MATRIX, PIXEL_MM, SLICES, SLICE_MM = 96, 3.6, 12, 10.0
SPLIT = {"training": 40, "validation": 40, "test": 160}
MARKER = "phantoms.json"
# A change of what is drawn is a new version: an older cohort on disk is then made anew.
VERSION = 1


@dataclass(frozen=True)
class PhantomStudy:
    """One drawn study.

    Attributes:
        hounsfield: int16 `[slices, rows, columns]` in HU; rows run anterior to posterior, columns from the patient's
            right to left, slices from inferior to superior.
        noiseless: the same before noise was added.
        findings: for each finding's name, which slices show it, bool `[slices]`; "opacity" among them.
    """

    hounsfield: NDArray[np.int16]
    noiseless: NDArray[np.int16]
    findings: dict[str, NDArray[np.bool_]]


def draw_study(random: np.random.Generator, opacity: bool) -> PhantomStudy:
    """Draw one study, with or without ground-glass opacities; each other finding comes in 1 of 5 studies."""
    z, y, x = _coordinates()
    size = random.uniform(0.85, 1.1)  # of the body
    depth, width = 105 * size * random.uniform(0.92, 1.08), 145 * size * random.uniform(0.92, 1.08)
    body = _ellipse(y, x, (0, 0), (depth, width))
    hu = np.full(z.shape, -1000.0, dtype=np.float32)
    hu[body < 1] = -95  # fat
    hu[_ellipse(y, x, (0, 0), (depth - 12, width - 14)) < 1] = 45  # muscle
    lungs = np.zeros(z.shape, dtype=bool)
    for side in (-1, 1):
        centre = (random.uniform(-55, 55) * 0.1 - 5, side * width * random.uniform(0.47, 0.51))
        taper = np.sqrt(np.clip(1 - (z / random.uniform(75, 90)) ** 2, 0.08, 1))  # narrow at apex and base
        lungs |= _ellipse(y, x, centre, (depth * 0.68 * taper, width * 0.36 * taper)) < 1
    heart = _ellipsoid(
        z, y, x, (random.uniform(-40, -20), -20, 22), (45, random.uniform(38, 46), random.uniform(42, 55))
    )
    lungs &= heart > 1
    hu[lungs] = random.uniform(-880, -800)
    hu[heart < 1] = 40
    spine = (depth * 0.62, random.uniform(-3, 3))
    hu[_ellipse(y, x, spine, (17, 19)) < 1] = random.uniform(250, 450)
    hu[_ellipse(y, x, (-8, 0), (8, 9)) < 1] = -1000  # trachea
    lungs &= _ellipse(y, x, spine, (17, 19)) > 1
    angle = np.arctan2(y / depth, x / width)
    ribs = (np.abs(np.sqrt(body) - 0.9) < 0.03) & (np.cos(11 * angle + z / 14) > 0.62)
    hu[ribs] = random.uniform(350, 600)

    change = np.zeros(z.shape, dtype=np.float32)
    inside = np.argwhere(lungs)

    def add_patch(
        to: NDArray[np.float32], radius: tuple[float, float], gain: tuple[float, float], softness: float
    ) -> None:
        """Add one soft-edged ellipsoid somewhere in the lungs; only the box it fills is computed."""
        at = tuple(inside[random.integers(len(inside))])
        axes = random.uniform(*radius, size=3) * np.array([1.4, 1, 1])
        height = random.uniform(*gain)
        reach = np.ceil(axes * (1 + 6 * softness) / (SLICE_MM, PIXEL_MM, PIXEL_MM)).astype(int)
        box = tuple(slice(max(i - r, 0), i + r + 1) for i, r in zip(at, reach, strict=True))
        distance = np.sqrt(_ellipsoid(z[box], y[box], x[box], (z[at], y[at], x[at]), tuple(axes)))
        to[box] += height / (1 + np.exp((distance - 1) / softness))

    for _ in range(random.integers(50, 80)):  # vessels, thicker near the hilum
        add_patch(change, (2.5, 5.5), (250, 650), 0.2)
    findings = {name: np.zeros(SLICES, dtype=bool) for name in ("opacity", *OTHER_FINDINGS)}
    recipe = {
        "nodule": (random.integers(2, 5), (5.0, 9.0), (750.0, 900.0), 0.08),
        "emphysema": (random.integers(6, 12), (9.0, 16.0), (-130.0, -80.0), 0.15),
        "consolidation": (random.integers(1, 3), (14.0, 24.0), (600.0, 850.0), 0.2),
        "opacity": (random.integers(4, 8), (15.0, 28.0), (260.0, 420.0), 0.3),
    }
    for name, (count, radius, gain, softness) in recipe.items():
        if not (opacity if name == "opacity" else random.random() < 0.2):
            continue
        added = np.zeros_like(change)
        for _ in range(count):
            add_patch(added, radius, gain, softness)
        change += added
        seen = (np.abs(added) > 0.5 * abs(gain[0])) & lungs
        findings[name] = seen.sum(axis=(1, 2)) >= 4
    hu += np.where(lungs, change, 0)
    if random.random() < 0.2:
        side, level = random.choice([-1, 1]), depth * random.uniform(0.25, 0.45)
        fluid = lungs & (y > level + 0.15 * z) & (np.sign(x) == side)
        hu[fluid] = 10
        findings["effusion"] = fluid.sum(axis=(1, 2)) >= 4
    # Breathing makes the dependent lung denser, in every study: a brightness threshold must not tell the classes apart.
    hu += np.where(
        lungs, random.uniform(0, 60) * np.clip(y / depth, 0, 1) + random.uniform(0, 40) * np.exp(-(z + 60) / 40), 0
    )
    noiseless = gaussian_filter(hu, (0.3, 0.6, 0.6))
    noise = gaussian_filter(random.normal(size=hu.shape), (0, 0.7, 0.7)) * random.uniform(50, 100)
    hounsfield, clean = (np.clip(v, -1024, 3071).astype(np.int16) for v in (noiseless + noise, noiseless))
    return PhantomStudy(hounsfield, clean, findings)


def phantom_cohort(directory: str | os.PathLike[str], seed: int = 0) -> str:
    """Write the phantom cohort as DICOM series with a `labels.csv`; a cohort that is already there is used as it is.

    Deterministic: one seed gives the same bytes. One patient a study; columns of the CSV: image (folder of the series),
    label, patient, split. The writing is atomic: a killed run leaves no half cohort behind.

    Args:
        directory: where the cohort's folder `phantoms_SEED` is put.
        seed: of the random generator.

    Returns:
        Path of the cohort's folder.
    """
    target = Path(directory) / f"phantoms_{seed}"
    made = {"version": VERSION, "seed": seed, "split": SPLIT}
    if _is_complete(target, made):
        return str(target)
    logger.info("writing the phantom chest-CT cohort: %d DICOM series of %d slices", sum(SPLIT.values()), SLICES)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)  # a killed process of the same number may have left one
    try:
        _write_cohort(unfinished, seed)
        (unfinished / MARKER).write_text(json.dumps(made))
        if not _is_complete(target, made):  # unless another process was faster
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return str(target)


def _write_cohort(folder: Path, seed: int) -> None:
    rows = []
    for number in range(sum(SPLIT.values())):
        split = next(name for name, end in zip(SPLIT, np.cumsum(list(SPLIT.values())), strict=True) if number < end)
        label = number % 2
        study = draw_study(np.random.default_rng([seed, number]), opacity=bool(label))
        name = f"study_{number:04d}"
        _write_series(folder / name, study.hounsfield, seed, number)
        rows.append((name, CLASS_NAMES[label], f"PHANTOM-{number:04d}", split))
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "patient", "split"), *rows])


def _is_complete(target: Path, made: dict[str, object]) -> bool:
    return (target / MARKER).is_file() and json.loads((target / MARKER).read_text()) == made


def is_phantom(directory: str | os.PathLike[str]) -> bool:
    """Say whether `directory` holds a cohort that `phantom_cohort` wrote."""
    return (Path(directory) / MARKER).is_file()


def _coordinates() -> tuple[NDArray[np.float32], ...]:
    """Millimetres from the centre, `[slices, rows, columns]` each: up, back, left."""
    axes = (np.arange(SLICES) * SLICE_MM, np.arange(MATRIX) * PIXEL_MM, np.arange(MATRIX) * PIXEL_MM)
    return tuple(a.astype(np.float32) for a in np.meshgrid(*(axis - axis.mean() for axis in axes), indexing="ij"))


def _ellipse(y: NDArray, x: NDArray, centre: tuple[float, float], axes: tuple) -> NDArray:
    return ((y - centre[0]) / axes[0]) ** 2 + ((x - centre[1]) / axes[1]) ** 2


def _ellipsoid(z: NDArray, y: NDArray, x: NDArray, centre: tuple[float, float, float], axes: tuple) -> NDArray:
    return ((z - centre[0]) / axes[0]) ** 2 + _ellipse(y, x, centre[1:], axes[1:])


def _write_series(folder: Path, hounsfield: NDArray[np.int16], seed: int, number: int) -> None:
    """Write one axial CT series: a file a slice, file names in no geometric order."""

    def uid(*parts: object) -> UID:
        return generate_uid(entropy_srcs=["monai_rd phantom", str(VERSION), str(seed), str(number), *map(str, parts)])

    folder.mkdir(parents=True)
    order = np.random.default_rng([seed, number, 1]).permutation(len(hounsfield))
    for index, pixels in enumerate(hounsfield):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = uid("image", index)
        image.StudyInstanceUID, image.SeriesInstanceUID = uid("study"), uid("series")
        image.FrameOfReferenceUID = uid("frame")
        image.PatientName, image.PatientID = f"PHANTOM^{number:04d}", f"PHANTOM-{number:04d}"
        image.PatientBirthDate = image.PatientSex = image.StudyDate = image.StudyTime = ""
        image.AccessionNumber = image.StudyID = image.ReferringPhysicianName = image.PositionReferenceIndicator = ""
        image.Modality, image.Manufacturer, image.SeriesDescription = "CT", "monai_rd", "phantom, not a patient"
        image.BodyPartExamined, image.ImageType = "CHEST", ["DERIVED", "PRIMARY", "AXIAL"]
        image.SeriesNumber, image.InstanceNumber, image.AcquisitionNumber = 1, int(order[index]) + 1, 1
        corner = -(MATRIX - 1) / 2 * PIXEL_MM
        image.ImagePositionPatient = [corner, corner, (index - (SLICES - 1) / 2) * SLICE_MM]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness, image.KVP = [PIXEL_MM, PIXEL_MM], SLICE_MM, 120
        image.Rows, image.Columns = pixels.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, -1024, "HU"
        image.WindowCenter, image.WindowWidth = -600, 1500
        image.PixelData = (pixels + 1024).astype("<u2").tobytes()
        image.save_as(folder / f"IM{order[index]:04d}.dcm", enforce_file_format=True)
