"""Chest-radiograph phantoms in the four classes of the public chest X-ray set that the paper used.

Lungs with vessels, ribs, clavicles, heart, spine and diaphragm in projection. PNEUMONIA: one dense consolidation.
COVID19: bilateral haze, peripheral and in the lower lungs. TURBERCULOSIS (the data set's own spelling): nodules and
cavities at the apices. Effusions, nodules, large hearts and tubes occur in every class. Half of the files are
MONOCHROME1; exposure and window vary; some have a VOI LUT; all are collimated, with borders without signal.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation
from scipy.ndimage import gaussian_filter

from monai_rd.phantoms.drawing import PhantomStudy, coordinates, ellipse, occurs, smooth_noise, soft
from monai_rd.phantoms.writing import Identity, put_pixels

__all__ = ["CLASS_NAMES", "OTHER_FINDINGS", "SUFFIX", "VERSION", "draw_study", "write_study"]

CLASS_NAMES = ("COVID19", "NORMAL", "PNEUMONIA", "TURBERCULOSIS")
OTHER_FINDINGS = ("effusion", "nodule", "big heart", "tube")
MATRIX, PIXEL_MM = 112, 3.0
SUFFIX, VERSION = ".dcm", 2


def draw_study(random: np.random.Generator, label: str) -> PhantomStudy:
    """Draw one study; each finding other than that of the class occurs in 1 of 5 studies.

    `clean` is the patient's projected density, 0 (air) to about 1, `[1, rows, columns]`; `image` is the radiograph, 0
    (black) to 1 (white). Rows run from the shoulders down, columns from the patient's right to left.
    """
    y, x = coordinates((MATRIX, PIXEL_MM), (MATRIX, PIXEL_MM))
    y, x = y + random.uniform(-8, 8), x + random.uniform(-8, 8)
    shape = y.shape
    fine, coarse = smooth_noise(random, shape, 1.2), smooth_noise(random, shape, 5)
    size, width = random.uniform(0.92, 1.08), random.uniform(0.92, 1.08)
    body = np.abs(x) < 180 * width - 0.005 * np.clip(-y - 60, 0, None) ** 2
    density = np.where(body, 0.62 + 0.06 * np.cos(x / 95), 0.0)
    density[body & (y < -105 * size)] += 0.08  # shoulders

    findings = {name: np.array([False]) for name in (*OTHER_FINDINGS, "lesion")}
    big = occurs(random)
    findings["big heart"][:] = big
    lungs, sides = np.zeros(shape), []
    floor = {side: random.uniform(62, 78) * size - (8 if side < 0 else 0) for side in (-1, 1)}
    for side in (-1, 1):
        centre = side * width * random.uniform(66, 72)
        half = np.clip(58 * width * np.sqrt(np.clip((y + 125 * size) / (150 * size), 0, 1)), 1, None)
        lateral = soft(np.abs(x - centre) / half, 0.04)
        dome = floor[side] + 0.006 * (x - centre) ** 2
        lung = lateral * soft((y - dome) / 10 + 1, 0.3) * soft((-115 * size - y) / 10 + 1, 0.3)
        lungs = np.maximum(lungs, lung)
        sides.append((side, centre, half, lung))
    air = random.uniform(0.36, 0.44)
    density -= air * lungs
    hilum = np.exp(-((np.abs(np.abs(x) - 30) / 22) ** 2) - ((y + 15) / 35) ** 2)
    density += lungs * (0.10 * hilum + 0.03 * np.abs(coarse) + 0.03 * fine * (0.3 + hilum))  # vessels
    heart = ellipse(y, x, (32, 18), (45, random.uniform(42, 50) * (1.35 if big else 1)), 0.3)
    density += 0.24 * soft(np.sqrt(heart), 0.05) * (y < 80)
    density += 0.16 * soft(np.abs(x) / random.uniform(22, 30), 0.12)  # mediastinum and spine
    density += 0.05 * soft(np.abs(x) / 14, 0.1) * (np.sin(y / 4.5) > -0.3)
    curve, distance = random.uniform(0.0035, 0.0055), random.uniform(20, 24)
    for sign, weight in ((1, 0.075), (-1, 0.03)):  # posterior and anterior ribs
        phase = (y - sign * curve * (np.abs(x) - 70) ** 2 + (40 if sign < 0 else 0)) % distance
        density += weight * soft(np.abs(phase - distance / 2) / 4.5, 0.15) * (np.abs(x) < 132 * width) * (y < 70)
    for side in (-1, 1):
        clavicle = np.abs(y + 95 * size + side * random.uniform(0.1, 0.25) * (x - side * 10))
        density += 0.12 * soft(clavicle / 5, 0.15) * (side * x > 12) * (side * x < 125)

    place = np.zeros(shape, dtype=bool)

    def shade(distance: NDArray, gain: float, softness: float, lung: NDArray, of_class: bool = True) -> None:
        nonlocal density
        density = density + gain * soft(distance, softness) * lung
        np.logical_or(place, (distance < 1) & (lung > 0.5) & of_class, out=place)

    def spot(lung_of: int, high: tuple[float, float], out: tuple[float, float]) -> tuple[float, float]:
        """Draw a place in one lung: `high` in mm downwards, `out` from the middle (-1) to the edge (1) of the lung."""
        side, centre, half, _ = sides[lung_of]
        row = random.uniform(*high) * size
        there = float(half[int(np.argmin(np.abs(y[:, 0] - row))), 0])
        return row, centre + side * random.uniform(*out) * there

    if occurs(random):
        findings["effusion"][:] = True
        which = int(random.integers(2))
        side, centre, _, lung = sides[which]
        level = floor[side] - random.uniform(12, 35) - 0.5 * np.clip(side * (x - centre), 0, None)
        density += 0.38 * lung * soft((level - y) / 8 + 1, 0.3)
    if occurs(random):
        findings["nodule"][:] = True
        for _ in range(random.integers(1, 4)):
            which = int(random.integers(2))
            shade(
                np.sqrt(ellipse(y, x, spot(which, (-60, 50), (-0.6, 0.7)), (1, 1))) / random.uniform(5, 9),
                random.uniform(0.12, 0.22), 0.12, sides[which][3], of_class=False,
            )  # fmt: skip
    if occurs(random):
        findings["tube"][:] = True
        side = random.choice([-1, 1])
        line = np.abs(x - side * (25 + 18 * np.sin(y / random.uniform(35, 60)))) < 2
        density[line & (y < random.uniform(-20, 40))] += 0.3
        at = (random.uniform(-60, 40), random.uniform(-90, 90))
        density[np.abs(np.sqrt(ellipse(y, x, at, (7, 7))) - 1) < 0.3] += 0.25
    if label == "PNEUMONIA":
        which = int(random.integers(2))
        at, radii = spot(which, (-60, 45), (-0.4, 0.5)), tuple(random.uniform((20, 18), (38, 32)))
        solid = np.sqrt(ellipse(y, x, at, radii, random.uniform(-0.5, 0.5))) + 0.12 * coarse
        shade(solid, random.uniform(0.22, 0.34), 0.12, sides[which][3] * (1 - 0.25 * (fine > 1)))
    elif label == "COVID19":
        for which in (0, 1):
            for _ in range(random.integers(2, 5)):
                at, radii = spot(which, (-35, 60), (0.3, 0.9)), tuple(random.uniform((16, 12), (32, 22)))
                hazy = np.sqrt(ellipse(y, x, at, radii)) + 0.15 * coarse
                shade(hazy, random.uniform(0.07, 0.14), 0.3, sides[which][3])
    elif label == "TURBERCULOSIS":
        for which in random.permutation(2)[: random.integers(1, 3)]:
            for _ in range(random.integers(4, 9)):
                round_ = np.sqrt(ellipse(y, x, spot(which, (-98, -45), (-0.7, 0.8)), (1, 1)))
                shade(round_ / random.uniform(3, 8), random.uniform(0.06, 0.15), 0.2, sides[which][3])
            if random.random() < 0.6:
                round_ = np.sqrt(ellipse(y, x, spot(which, (-92, -55), (-0.4, 0.5)), (1, 1)))
                shade(
                    np.abs(round_ / random.uniform(9, 14) - 1) / 0.25, random.uniform(0.12, 0.2), 0.3, sides[which][3]
                )
    findings["lesion"][:] = label != "NORMAL"

    clean = gaussian_filter(density, 0.6)
    # Exposure, scatter, detector curve, and quantum noise where little radiation passes.
    scatter = random.uniform(0.1, 0.3)
    seen = (1 - scatter) * clean + scatter * gaussian_filter(clean, 12)
    noise = gaussian_filter(random.normal(size=shape), 0.5) * random.uniform(0.01, 0.03) * (0.5 + clean)
    image = np.clip((seen + noise) * random.uniform(0.85, 1.05) + random.uniform(-0.05, 0.08), 0, 1)
    image = image ** random.uniform(0.75, 1.3)
    return PhantomStudy(image[None].astype(np.float32), clean[None].astype(np.float32), findings, place[None])


def write_study(path: Path, label: str, seed: int, number: int) -> None:
    """Draw one study and write it as a collimated 12-bit DX image: half MONOCHROME1, one in four with a VOI LUT."""
    random = np.random.default_rng([seed, number])
    picture = draw_study(random, label).image[0]
    around = random.integers(0, 14, size=(2, 2))  # rows above and below, columns left and right
    low, high = sorted(random.uniform((0.05, 0.75), (0.2, 0.95)))
    inverse = bool(random.random() < 0.5)
    grey = np.pad(picture, around)  # unexposed behind the collimator: displayed black
    stored = low + (high - low) * grey
    stored = np.rint(4095 * (1 - stored if inverse else stored))
    image = Identity("DX", VERSION, seed, number).header(DigitalXRayImageStorageForPresentation)
    image.ImageType, image.BodyPartExamined = ["DERIVED", "PRIMARY"], "CHEST"
    image.ViewPosition, image.PatientOrientation, image.ImageLaterality = "PA", ["L", "F"], "U"
    image.PresentationIntentType, image.PixelIntensityRelationship = "FOR PRESENTATION", "LOG"
    image.PixelIntensityRelationshipSign, image.PresentationLUTShape = 1, "INVERSE" if inverse else "IDENTITY"
    image.ImagerPixelSpacing = [PIXEL_MM, PIXEL_MM]
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, 0, "US"
    image.BurnedInAnnotation, image.LossyImageCompression = "NO", "00"
    image.CollimatorShape = "RECTANGULAR"
    rows, columns = grey.shape
    (above, below), (left, right) = around.tolist()
    image.CollimatorLeftVerticalEdge, image.CollimatorRightVerticalEdge = left, columns - right + 1
    image.CollimatorUpperHorizontalEdge, image.CollimatorLowerHorizontalEdge = above, rows - below + 1
    put_pixels(image, stored, "MONOCHROME1" if inverse else "MONOCHROME2", bits=12)
    first, last = 4095 * low, 4095 * high
    if inverse:
        first, last = 4095 - last, 4095 - first
    if random.random() < 0.25:
        image.VOILUTSequence = [_lookup(first, last, random.uniform(0.8, 1.2))]
    else:
        error = random.uniform(0.9, 1.1)
        image.WindowCenter, image.WindowWidth = round((first + last) / 2, 1), round((last - first) * error, 1)
    image.save_as(path, enforce_file_format=True)


def _lookup(first: float, last: float, gamma: float) -> Dataset:
    """Return a 12-bit VOI LUT that maps the values from `first` to `last` to the whole display range."""
    table = Dataset()
    values = np.clip((np.arange(4096) - first) / (last - first), 0, 1) ** gamma
    table.LUTDescriptor = [4096, 0, 12]
    table.LUTData = np.rint(4095 * values).astype("<u2").tobytes()
    return table
