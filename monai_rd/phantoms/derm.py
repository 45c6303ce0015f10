"""Dermoscopy phantoms in ISIC 2018's seven classes; a cohort has four of them: BCC, BKL, MEL, NV.

Skin of many tones under light of many colours, with hairs, bubbles, ruler marks and dark corners. NV: symmetric, one or
two browns. MEL: asymmetric, irregular border, several colours with a blue veil. BKL: sharp border, waxy, white dots
and dark openings. BCC: pink, little pigment, branching vessels and blue nests. The others, for studies of rare classes:
AKIEC: pink without a clear border, scales and many small white openings. DF: a white scar in a brown rim that fades.
VASC: sharp red to purple lagoons without pigment. Colours follow from the absorption of light by melanin and blood, so
that no single colour identifies a class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import gaussian_filter

from monai_rd.phantoms.drawing import PhantomStudy, coordinates, ellipse, occurs, smooth_noise, soft
from monai_rd.phantoms.writing import MARK

__all__ = ["CLASS_NAMES", "OTHER_FINDINGS", "RARE_CLASSES", "SUFFIX", "VERSION", "draw_study", "write_study"]

CLASS_NAMES, RARE_CLASSES = ("BCC", "BKL", "MEL", "NV"), ("AKIEC", "DF", "VASC")
OTHER_FINDINGS = ("hair", "bubble", "ruler", "freckle")
MATRIX, PIXEL_MM = 112, 0.15
SUFFIX, VERSION = ".png", 1
# Of each class: how irregular its border is, and the least and largest width of it.
IRREGULAR = {"NV": 0.06, "MEL": 0.2, "BKL": 0.1, "BCC": 0.12, "AKIEC": 0.18, "DF": 0.05, "VASC": 0.1}
EDGE = {
    **{"NV": (0.08, 0.2), "MEL": (0.05, 0.2), "BKL": (0.02, 0.06), "BCC": (0.1, 0.3)},
    **{"AKIEC": (0.25, 0.5), "DF": (0.2, 0.4), "VASC": (0.05, 0.15)},
}
# Absorption of red, green and blue by melanin and by blood; backscatter of deep melanin.
MELANIN, BLOOD, VEIL = np.array([0.55, 0.95, 1.35]), np.array([0.12, 0.85, 0.65]), np.array([0.38, 0.44, 0.55])


def draw_study(random: np.random.Generator, label: str) -> PhantomStudy:
    """Draw one study; each finding other than that of the class occurs in 1 of 5 studies, hairs in 2 of 5.

    `label` is one of `CLASS_NAMES` or `RARE_CLASSES`.
    `clean` holds melanin, blood and depth of pigment (each 0 to about 1), `[1, rows, columns, 3]`; `image` is the RGB
    picture from 0 to 1, `[1, rows, columns, 3]`.
    """
    y, x = coordinates((MATRIX, PIXEL_MM), (MATRIX, PIXEL_MM))
    shape = y.shape
    fine, middle, coarse = (smooth_noise(random, shape, sigma) for sigma in (1.0, 3.0, 9.0))
    melanin = random.uniform(0.08, 0.5) * (1 + 0.08 * coarse + 0.05 * fine)
    blood = random.uniform(0.08, 0.22) * (1 + 0.15 * coarse)
    deep, white = np.zeros(shape), np.zeros(shape)

    at = tuple(random.uniform(-1.5, 1.5, size=2))
    radius, ratio, turn = random.uniform(3.0, 5.5), random.uniform(1.0, 1.4), random.uniform(0, np.pi)
    angle = np.arctan2(y - at[0], x - at[1])
    outline = sum(random.normal() / n * np.cos(n * angle + random.uniform(0, 2 * np.pi)) for n in range(2, 9))
    irregular = IRREGULAR[label] * random.uniform(0.6, 1.4)
    distance = np.sqrt(ellipse(y, x, at, (radius * ratio**0.5, radius / ratio**0.5), turn)) * (1 + irregular * outline)
    lesion = soft(distance + 0.03 * middle, random.uniform(*EDGE[label]))
    across = (np.cos(turn) * (y - at[0]) + np.sin(turn) * (x - at[1])) / radius  # -1 to 1 over the lesion

    def inside(reach: float) -> tuple[float, float]:
        way, far = random.uniform(0, 2 * np.pi), radius * reach * np.sqrt(random.random())
        return at[0] + far * np.sin(way), at[1] + far * np.cos(way)

    def blob(least: float, most: float, reach: float = 0.8, softness: float = 0.12) -> NDArray:
        axes = tuple(random.uniform(least, most, size=2))
        return soft(np.sqrt(ellipse(y, x, inside(reach), axes, random.uniform(0, np.pi))) + 0.1 * middle, softness)

    if label == "NV":
        tone = np.full(shape, random.uniform(0.3, 0.9))
        if random.random() < 0.5:  # a second brown in the middle or at the rim
            tone *= 1 + random.uniform(-0.4, 0.5) * soft(distance / 0.55, 0.15)
        melanin = melanin + lesion * tone * (1 + 0.12 * np.abs(fine))
    elif label == "MEL":
        tone = random.uniform(0.4, 0.9) * (1 + random.uniform(0.2, 0.5) * across) + 0.15 * middle
        melanin = melanin + lesion * np.clip(tone, 0.1, None)
        for _ in range(random.integers(1, 4)):
            melanin = melanin + lesion * blob(0.5, 1.6) * random.uniform(0.3, 0.7)
        for _ in range(random.integers(0, 3)):
            deep = np.maximum(deep, lesion * blob(0.8, 1.8, 0.6, 0.3) * random.uniform(0.4, 0.8))
        blood = blood + lesion * blob(1, 2) * random.uniform(0, 0.3)
    elif label == "BKL":
        melanin = melanin + lesion * (random.uniform(0.2, 0.75) + 0.06 * middle)
        blood = blood * (1 - 0.4 * lesion)  # waxy: yellow-brown
        for _ in range(random.integers(1, 9)):
            white = np.maximum(white, lesion * blob(0.15, 0.3, 0.85) * random.uniform(0.4, 0.9))
        for _ in range(random.integers(0, 7)):
            melanin = melanin + lesion * blob(0.18, 0.4, 0.85) * random.uniform(0.5, 1.0)
    elif label == "AKIEC":
        melanin = melanin * (1 - 0.2 * lesion) + lesion * random.uniform(0.0, 0.3)
        blood = blood + lesion * (random.uniform(0.15, 0.45) + 0.08 * middle)
        for _ in range(random.integers(6, 16)):
            white = np.maximum(white, lesion * blob(0.12, 0.22, 0.9) * random.uniform(0.3, 0.7))
        for _ in range(random.integers(1, 5)):
            white = np.maximum(white, lesion * blob(0.3, 1.0, 0.8, 0.4) * random.uniform(0.3, 0.7))
    elif label == "DF":
        scar = soft(distance / random.uniform(0.3, 0.6) + 0.1 * middle, 0.3)
        melanin = melanin + lesion * (1 - 0.8 * scar) * random.uniform(0.15, 0.45) * (1 + 0.15 * np.abs(fine))
        blood = blood + lesion * random.uniform(0.0, 0.25)
        white = np.maximum(white, scar * random.uniform(0.25, 0.6))
    elif label == "VASC":
        blood = blood + lesion * random.uniform(0.1, 0.5)
        for _ in range(random.integers(3, 10)):
            lagoon = lesion * blob(0.6, 1.6, 0.8, 0.06)
            blood = blood + lagoon * random.uniform(0.6, 1.6)
            deep = np.maximum(deep, lagoon * random.uniform(0.0, 0.3))
    else:
        melanin = melanin * (1 - 0.3 * lesion) + lesion * random.uniform(0.0, 0.4)
        blood = blood + lesion * random.uniform(0.05, 0.3)
        for _ in range(random.integers(1, 5)):
            blood = blood + _branching(random, y, x, inside(0.6), radius) * lesion * random.uniform(0.5, 0.9)
        for _ in range(random.integers(0, 5)):
            nest = lesion * blob(0.3, 0.8, 0.8)
            melanin, deep = melanin + 0.4 * nest, np.maximum(deep, nest * random.uniform(0.5, 0.8))

    findings = {name: np.array([False]) for name in (*OTHER_FINDINGS, "lesion")}
    findings["lesion"][:] = True
    if occurs(random):
        findings["freckle"][:] = True
        for _ in range(random.integers(4, 12)):
            spot = np.sqrt(ellipse(y, x, tuple(random.uniform(-8, 8, size=2)), tuple(random.uniform(0.3, 0.8, size=2))))
            melanin = melanin + soft(spot, 0.2) * random.uniform(0.2, 0.6)
    clean = np.stack([melanin, blood, deep], axis=-1)
    colour = np.exp(-(melanin[..., None] * MELANIN + blood[..., None] * BLOOD)) * np.array([0.95, 0.86, 0.8])
    colour += deep[..., None] * (VEIL * random.uniform(0.7, 1.1) - colour)
    colour += 0.6 * white[..., None] * (np.array([0.95, 0.92, 0.82]) - colour)
    if occurs(random) or occurs(random):
        findings["hair"][:] = True
        for _ in range(random.integers(3, 12)):
            way, offset, bend = random.uniform(0, np.pi), random.uniform(-7, 7), random.uniform(-0.03, 0.03)
            along, beside = np.cos(way) * x + np.sin(way) * y, np.cos(way) * y - np.sin(way) * x
            line = soft(np.abs(beside - offset - bend * along**2) / random.uniform(0.08, 0.16), 0.3)
            line = line * (np.abs(along - random.uniform(-4, 4)) < random.uniform(4, 9))
            colour = colour + 0.8 * line[..., None] * (np.array([0.12, 0.09, 0.07]) - colour)
    if occurs(random):
        findings["bubble"][:] = True
        for _ in range(random.integers(2, 7)):
            ring = np.sqrt(ellipse(y, x, tuple(random.uniform(-7.5, 7.5, size=2)), (1, 1))) / random.uniform(0.4, 1.1)
            colour = colour + (0.35 * soft(np.abs(ring - 1) / 0.2, 0.3) + 0.06 * soft(ring, 0.1))[..., None]
    if occurs(random):
        findings["ruler"][:] = True
        marks = (np.abs(x % 1.0 - 0.5) < 0.1) & (np.abs(y - random.choice([-1, 1]) * 7.3) < 0.5)
        colour[marks] = 0.1
    # The light: its colour, uneven, with dark corners; then the camera.
    light = np.array([1.0, 1.0, 1.0]) * np.exp(random.normal(size=3) * 0.12)
    corner = 1 - random.uniform(0, 0.5) * np.clip(np.hypot(y, x) / 11.5, 0, 1) ** random.uniform(2, 5)
    slope = 1 + random.uniform(-0.012, 0.012) * y + random.uniform(-0.012, 0.012) * x
    colour = gaussian_filter(colour, (0.6, 0.6, 0)) * light * (corner * slope)[..., None] * random.uniform(0.85, 1.1)
    if random.random() < 0.3:  # the tube of the dermatoscope
        colour = colour * soft(np.hypot(y, x) / random.uniform(8.2, 10), 0.015)[..., None]
    image = np.clip(colour + 0.015 * random.normal(size=colour.shape), 0, 1)
    return PhantomStudy(image[None].astype(np.float32), clean[None].astype(np.float32), findings, distance[None] < 1)


def _branching(
    random: np.random.Generator, y: NDArray, x: NDArray, start: tuple[float, float], reach: float
) -> NDArray:
    """Draw one vessel with two branches, 0 to 1."""
    drawn = np.zeros(y.shape)
    way, width = random.uniform(0, 2 * np.pi), random.uniform(0.1, 0.18)
    for turn in (0.0, random.uniform(0.4, 0.9), -random.uniform(0.4, 0.9)):
        way_of = way + turn
        along = np.cos(way_of) * (x - start[1]) + np.sin(way_of) * (y - start[0])
        beside = np.cos(way_of) * (y - start[0]) - np.sin(way_of) * (x - start[1]) - 0.25 * np.sin(along * 1.7)
        length = reach * random.uniform(0.4, 0.9)
        drawn = np.maximum(drawn, soft(np.abs(beside) / width, 0.25) * (along > -0.1) * (along < length))
    return drawn


def write_study(path: Path, label: str, seed: int, number: int) -> None:
    """Draw one study and write it as an RGB picture whose metadata say that it is a phantom."""
    picture = draw_study(np.random.default_rng([seed, number]), label).image[0]
    note = PngInfo()
    note.add_text("Description", MARK)
    Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(path, pnginfo=note)
