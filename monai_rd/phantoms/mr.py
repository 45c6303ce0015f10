"""Brain-MR phantoms, contrast-enhanced T1, in the four classes of BTC.

A head consists of scalp, skull, sulci, grey and white matter, ventricles, basal ganglia and falx. Glioma: infiltrating,
with oedema and necrosis, inside a hemisphere. Meningioma: bright, homogeneous and sharp, at the convexity. Pituitary
tumour: bright, in the middle of the skull base. Lacunes, cysts, enhancing vessels and infarcts occur in every class,
and the sagittal sinus and the normal pituitary enhance in all. Every scanner has its own scale, offset, coil
sensitivity and noise, so that grey values have no meaning before intensity normalisation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from monai_rd.phantoms.drawing import PhantomStudy, coordinates, ellipse, ellipsoid, occurs, smooth_noise, soft
from monai_rd.phantoms.writing import Identity, write_axial_series

__all__ = ["CLASS_NAMES", "OTHER_FINDINGS", "SUFFIX", "VERSION", "draw_study", "write_study"]

CLASS_NAMES = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
OTHER_FINDINGS = ("lacune", "cyst", "vessel", "infarct")
MATRIX, PIXEL_MM, SLICES, SLICE_MM = 80, 2.5, 8, 12.0
SUFFIX, VERSION = "", 2


def draw_study(random: np.random.Generator, label: str) -> PhantomStudy:
    """Draw one study; each finding other than that of the class occurs in 1 of 5 studies.

    `clean` is the tissue's signal from 0 (air) to about 1 (fat, enhancement); `image` adds the coil's sensitivity and
    noise. Both are float32 `[slices, rows, columns]`; rows run anterior to posterior, columns from the patient's right
    to left, slices from inferior to superior.
    """
    z, y, x = coordinates((SLICES, SLICE_MM), (MATRIX, PIXEL_MM), (MATRIX, PIXEL_MM))
    shape = z.shape
    fine, coarse = smooth_noise(random, shape, (0.5, 1.3, 1.3)), smooth_noise(random, shape, (0.7, 3, 3))
    grey, white, fluid = random.uniform(0.42, 0.5), random.uniform(0.54, 0.62), random.uniform(0.12, 0.22)
    narrowing = np.sqrt(np.clip(1 - ((z + 8) / 72) ** 2, 0.25, 1))  # towards the vertex
    axes = (92 * random.uniform(0.94, 1.06) * narrowing, 74 * random.uniform(0.94, 1.06) * narrowing)
    head = np.sqrt(ellipse(y, x, (0, 0), axes))
    signal = np.zeros(shape, dtype=np.float32)
    signal[head < 1] = random.uniform(0.6, 0.9)  # scalp
    signal[head < 0.92] = 0.06  # skull
    brain = head < 0.86
    signal[brain] = grey
    signal[brain & (head + 0.05 * fine < random.uniform(0.66, 0.74))] = white
    signal[brain & (head > 0.6) & (fine > random.uniform(1.0, 1.5))] = fluid  # sulci
    signal[brain & (np.abs(x) < 1.5) & (z > -20) & (np.abs(y) > 25)] = fluid  # beside the falx
    size = random.uniform(0.7, 1.4)
    for side in (-1, 1):
        ganglia = ellipsoid(z, y, x, (0, -5, side * 22), (16, 20, 9)) < 1
        signal[ganglia] = grey
        for at, radii in (((10, -18, side * 9), (18, 16, 5)), ((8, 18, side * 13), (16, 20, 5))):
            signal[ellipsoid(z, y, x, at, tuple(size * r for r in radii)) < 1 + 0.2 * coarse] = fluid
    cerebellum = brain & (z < -25) & (y > 15)
    signal[cerebellum] = np.where(fine > 0.2, grey, 0.9 * white)[cerebellum]
    signal[brain & (ellipse(y, x, (0.8 * axes[0], 0), (6, 6)) < 1)] = random.uniform(0.7, 0.95)  # sagittal sinus
    for side in (-1, 0, 1):  # the normal pituitary and the carotids beside it
        enhanced = ellipsoid(z, y, x, (-36, -14 + random.uniform(-3, 3), 13 * side), (7, 4, 4)) < 1
        signal[enhanced] = random.uniform(0.6, 0.8)

    inside = np.argwhere(brain & (head < 0.7))
    findings = {}

    def place() -> tuple[float, float, float]:
        at = tuple(inside[random.integers(len(inside))])
        return float(z[at]), float(y[at]), float(x[at])

    def blend(distance: NDArray, value: NDArray | float, softness: float) -> NDArray:
        """Draw a soft-edged object into the brain; return where it is."""
        nonlocal signal
        weight = np.where(brain, soft(distance, softness), 0)
        signal = signal + weight * (value - signal)
        return weight > 0.5

    # Number, smallest and largest half-axes (up, back, left) in mm, smallest and largest signal, softness of the edge.
    recipe: dict[str, tuple] = {
        "lacune": (random.integers(3, 7), (7, 3, 3), (11, 5, 5), (fluid, fluid + 0.15), 0.1),
        "cyst": (1, (14, 12, 10), (20, 18, 15), (fluid, fluid + 0.05), 0.05),
        "vessel": (random.integers(2, 5), (8, 3, 3), (14, 5, 5), (0.75, 1.0), 0.1),
        "infarct": (random.integers(1, 3), (14, 12, 10), (20, 20, 16), (grey - 0.16, grey - 0.08), 0.15),
    }
    for name, (count, least, most, value, softness) in recipe.items():
        seen = np.zeros(shape, dtype=bool)
        for _ in range(count if occurs(random) else 0):
            distance = np.sqrt(ellipsoid(z, y, x, place(), tuple(random.uniform(least, most)))) + 0.08 * coarse
            seen |= blend(distance, random.uniform(*value), softness)
        findings[name] = seen.sum(axis=(1, 2)) >= 3
    tumour = np.zeros(shape, dtype=bool)
    if label == "glioma_tumor":
        centre = random.uniform(-8, 26), random.uniform(-42, 42), random.choice([-1, 1]) * random.uniform(18, 40)
        half_axes = tuple(random.uniform((18, 13, 13), (26, 20, 20)))
        distance = np.sqrt(ellipsoid(z, y, x, centre, half_axes)) + random.uniform(0.1, 0.25) * coarse
        tumour = blend(distance / random.uniform(1.5, 2.0), random.uniform(0.3, 0.4), 0.15)  # oedema
        blend(distance, random.uniform(0.75, 1.0) + 0.06 * fine, 0.08)  # rim
        blend(distance / random.uniform(0.5, 0.75), random.uniform(0.2, 0.35), 0.1)  # necrosis
    elif label == "meningioma_tumor":
        turn, out = random.uniform(0, 2 * np.pi), random.uniform(0.7, 0.82)
        up = random.uniform(-4, 28)
        back, left = (out * np.interp(up, z[:, 0, 0], axis[:, 0, 0]) for axis in axes)
        half_axes = tuple(random.uniform((18, 12, 12), (26, 20, 20)))
        distance = np.sqrt(ellipsoid(z, y, x, (up, back * np.sin(turn), left * np.cos(turn)), half_axes))
        distance += 0.04 * coarse
        if random.random() < 0.4:
            blend(distance / 1.4, random.uniform(0.36, 0.44), 0.15)  # oedema
        tumour = blend(distance, random.uniform(0.85, 1.05) + 0.02 * fine, 0.05)
    elif label == "pituitary_tumor":
        centre = random.uniform(-36, -26), random.uniform(-18, -8), random.uniform(-4, 4)
        half_axes = tuple(random.uniform((16, 11, 12), (24, 17, 19)))
        distance = np.sqrt(ellipsoid(z, y, x, centre, half_axes)) + 0.05 * coarse
        tumour = blend(distance, random.uniform(0.8, 1.0) + 0.03 * fine, 0.06)
    findings["tumour"] = tumour.sum(axis=(1, 2)) >= 3

    clean = gaussian_filter(signal, (0, 0.5, 0.5))
    way = random.normal(size=3)
    way *= random.uniform(0.1, 0.5) / np.linalg.norm(way)
    coil = np.exp((way[0] * z / 48 + way[1] * y / 100 + way[2] * x / 100) - random.uniform(0, 0.3) * (1 - head) ** 2)
    noise = random.normal(size=(2, *shape)) * random.uniform(0.02, 0.05)
    image = np.hypot(clean * coil + noise[0], noise[1])  # magnitude image: Rician noise
    return PhantomStudy(image.astype(np.float32), clean.astype(np.float32), findings, tumour)


def write_study(path: Path, label: str, seed: int, number: int) -> None:
    """Draw one study and write it as an axial MR series of a random scanner."""
    random = np.random.default_rng([seed, number])
    signal = draw_study(random, label).image
    scale, offset = np.exp(random.uniform(np.log(150), np.log(2500))), random.uniform(0, 60)
    values = np.clip(np.rint(signal * scale + offset), 0, 4095)
    attributes: dict[str, object] = {"BodyPartExamined": "HEAD", "ScanningSequence": "SE", "SequenceVariant": "NONE"}
    attributes |= {"ScanOptions": "", "MRAcquisitionType": "2D", "RepetitionTime": 500, "EchoTime": 12}
    attributes |= {"EchoTrainLength": 1, "ContrastBolusAgent": "phantom"}
    slope = 1.0
    if random.random() < 1 / 3:  # some scanners use a rescale slope of their own
        slope = round(random.uniform(0.2, 5), 3)
        attributes |= {"RescaleSlope": slope, "RescaleIntercept": 0, "RescaleType": "US"}
    if random.random() < 0.5:
        top = float(np.percentile(values, random.uniform(96, 99.9))) * slope
        attributes |= {"WindowCenter": round(top / 2, 1), "WindowWidth": round(max(top, 1), 1)}
    write_axial_series(path, Identity("MR", VERSION, seed, number), values, PIXEL_MM, SLICE_MM, attributes)
