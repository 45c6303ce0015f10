"""Chest-CT phantoms, two classes: "clear" and "opacity" (patches of ground-glass opacity).

Every study is drawn from a few random ellipsoids: body with a fat layer, two lungs with vessels, heart, spine, ribs,
trachea. Findings are added to the lungs. Findings other than opacity (nodules, emphysema, effusion, consolidation)
occur in both classes; the phantom teacher that ships with the project was pretrained on them and on densities.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from monai_rd.phantoms.drawing import PhantomStudy, coordinates, ellipse, ellipsoid
from monai_rd.phantoms.writing import Identity, write_chest_ct

__all__ = ["CLASS_NAMES", "OTHER_FINDINGS", "SUFFIX", "VERSION", "draw_study", "write_study"]

OTHER_FINDINGS = ("nodule", "emphysema", "effusion", "consolidation")
CLASS_NAMES = ("clear", "opacity")
# Number of rows and columns and their size in mm; number of slices and their distance in mm.
MATRIX, PIXEL_MM, SLICES, SLICE_MM = 96, 3.6, 12, 10.0
SUFFIX, VERSION = "", 2


def draw_study(random: np.random.Generator, label: str) -> PhantomStudy:
    """Draw one study; each finding other than that of the class occurs in 1 of 5 studies.

    `image` and `clean` (before noise) are int16 HU `[slices, rows, columns]`; rows run anterior to posterior, columns
    from the patient's right to left, slices from inferior to superior.
    """
    z, y, x = coordinates((SLICES, SLICE_MM), (MATRIX, PIXEL_MM), (MATRIX, PIXEL_MM))
    size = random.uniform(0.85, 1.1)  # of the body
    depth, width = 105 * size * random.uniform(0.92, 1.08), 145 * size * random.uniform(0.92, 1.08)
    body = ellipse(y, x, (0, 0), (depth, width))
    hu = np.full(z.shape, -1000.0, dtype=np.float32)
    hu[body < 1] = -95  # fat
    hu[ellipse(y, x, (0, 0), (depth - 12, width - 14)) < 1] = 45  # muscle
    lungs = np.zeros(z.shape, dtype=bool)
    for side in (-1, 1):
        centre = (random.uniform(-55, 55) * 0.1 - 5, side * width * random.uniform(0.47, 0.51))
        taper = np.sqrt(np.clip(1 - (z / random.uniform(75, 90)) ** 2, 0.08, 1))  # narrow at apex and base
        lungs |= ellipse(y, x, centre, (depth * 0.68 * taper, width * 0.36 * taper)) < 1
    heart = ellipsoid(
        z, y, x, (random.uniform(-40, -20), -20, 22), (45, random.uniform(38, 46), random.uniform(42, 55))
    )
    lungs &= heart > 1
    hu[lungs] = random.uniform(-880, -800)
    hu[heart < 1] = 40
    spine = (depth * 0.62, random.uniform(-3, 3))
    hu[ellipse(y, x, spine, (17, 19)) < 1] = random.uniform(250, 450)
    hu[ellipse(y, x, (-8, 0), (8, 9)) < 1] = -1000  # trachea
    lungs &= ellipse(y, x, spine, (17, 19)) > 1
    angle = np.arctan2(y / depth, x / width)
    ribs = (np.abs(np.sqrt(body) - 0.9) < 0.03) & (np.cos(11 * angle + z / 14) > 0.62)
    hu[ribs] = random.uniform(350, 600)

    change = np.zeros(z.shape, dtype=np.float32)
    inside = np.argwhere(lungs)

    def add_patch(
        to: NDArray[np.float32], radius: tuple[float, float], gain: tuple[float, float], softness: float
    ) -> None:
        """Add one soft-edged ellipsoid at a random place in the lungs; only its bounding box is computed."""
        at = tuple(inside[random.integers(len(inside))])
        axes = random.uniform(*radius, size=3) * np.array([1.4, 1, 1])
        height = random.uniform(*gain)
        reach = np.ceil(axes * (1 + 6 * softness) / (SLICE_MM, PIXEL_MM, PIXEL_MM)).astype(int)
        box = tuple(slice(max(i - r, 0), i + r + 1) for i, r in zip(at, reach, strict=True))
        distance = np.sqrt(ellipsoid(z[box], y[box], x[box], (z[at], y[at], x[at]), tuple(axes)))
        to[box] += height / (1 + np.exp((distance - 1) / softness))

    for _ in range(random.integers(50, 80)):  # vessels, thicker near the hilum
        add_patch(change, (2.5, 5.5), (250, 650), 0.2)
    findings = {name: np.zeros(SLICES, dtype=bool) for name in ("opacity", *OTHER_FINDINGS)}
    place = np.zeros(z.shape, dtype=bool)
    recipe = {
        "nodule": (random.integers(2, 5), (5.0, 9.0), (750.0, 900.0), 0.08),
        "emphysema": (random.integers(6, 12), (9.0, 16.0), (-130.0, -80.0), 0.15),
        "consolidation": (random.integers(1, 3), (14.0, 24.0), (600.0, 850.0), 0.2),
        "opacity": (random.integers(4, 8), (15.0, 28.0), (260.0, 420.0), 0.3),
    }
    for name, (count, radius, gain, softness) in recipe.items():
        if not (label == "opacity" if name == "opacity" else random.random() < 0.2):
            continue
        added = np.zeros_like(change)
        for _ in range(count):
            add_patch(added, radius, gain, softness)
        change += added
        seen = (np.abs(added) > 0.5 * abs(gain[0])) & lungs
        if name == "opacity":
            place = seen
        findings[name] = seen.sum(axis=(1, 2)) >= 4
    hu += np.where(lungs, change, 0)
    if random.random() < 0.2:
        side, level = random.choice([-1, 1]), depth * random.uniform(0.25, 0.45)
        fluid = lungs & (y > level + 0.15 * z) & (np.sign(x) == side)
        hu[fluid] = 10
        findings["effusion"] = fluid.sum(axis=(1, 2)) >= 4
    # Breathing makes the dependent lung denser, in every study: a brightness threshold must not separate the classes.
    hu += np.where(
        lungs, random.uniform(0, 60) * np.clip(y / depth, 0, 1) + random.uniform(0, 40) * np.exp(-(z + 60) / 40), 0
    )
    noiseless = gaussian_filter(hu, (0.3, 0.6, 0.6))
    noise = gaussian_filter(random.normal(size=hu.shape), (0, 0.7, 0.7)) * random.uniform(50, 100)
    hounsfield, clean = (np.clip(v, -1024, 3071).astype(np.int16) for v in (noiseless + noise, noiseless))
    return PhantomStudy(hounsfield, clean, findings, place)


def write_study(path: Path, label: str, seed: int, number: int) -> None:
    """Draw one study and write it as an axial CT series."""
    volume = draw_study(np.random.default_rng([seed, number]), label).image
    write_chest_ct(path, Identity("CT", VERSION, seed, number), volume, PIXEL_MM, SLICE_MM)
