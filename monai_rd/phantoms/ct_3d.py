"""Chest-CT phantoms for networks of volumes, two classes, "clear" and "nodules", that no single slice tells apart.

The lungs hold a few round structures.
In every slice that it crosses a structure is a disc, whose radius grows and shrinks from slice to slice like that of a
ball. In "nodules" the discs lie above each other and are balls; in "clear" each is shifted against the one below, so
that they are parts of oblique vessels. Discs are drawn in the same way for both classes: only their sequence differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from monai_rd.phantoms.drawing import PhantomStudy, coordinates, ellipse, ellipsoid, occurs
from monai_rd.phantoms.writing import Identity, write_chest_ct

__all__ = ["CLASS_NAMES", "OTHER_FINDINGS", "SUFFIX", "VERSION", "draw_study", "write_study"]

CLASS_NAMES = ("clear", "nodules")
OTHER_FINDINGS = ("emphysema", "consolidation", "effusion")
# Number of rows and columns and their size in mm; number of slices and their distance in mm.
MATRIX, PIXEL_MM, SLICES, SLICE_MM = 256, 1.0, 100, 2.0
SUFFIX, VERSION = "", 1001  # the phantoms of slices, the same modality in DICOM, have versions below 1000

_RADIUS = (9.0, 13.0)  # of a structure, in mm
_SHIFT = (2.0, 2.6)  # of an oblique vessel in the slice, in mm for each mm along the patient
_TURN = np.pi / 4  # by which it leaves the course downwards and backwards to either side, at most
_SOFT_TISSUE = 30.0  # HU
_SEEN = 20  # voxels of a finding in a slice that shows it

_Mask = NDArray[np.bool_]


def draw_study(random: np.random.Generator, label: str) -> PhantomStudy:
    """Draw one study; each finding other than the nodules occurs in 1 of 5 studies.

    In both classes a generator of the same state draws the same patient, with the same discs up to their shift.

    `image` and `clean` (before noise) are int16 HU `[slices, rows, columns]`; rows run anterior to posterior, columns
    from the patient's right to left, slices from inferior to superior.
    """
    z, y, x = coordinates((SLICES, SLICE_MM), (MATRIX, PIXEL_MM), (MATRIX, PIXEL_MM), sparse=True)
    hu, lungs = _thorax(random, z, y, x)
    places = np.flatnonzero(lungs)
    hu[_vessels(random, lungs.shape) & lungs] = _SOFT_TISSUE
    discs = _discs(random, lungs, places, oblique=label == "clear")
    hu[discs] = _SOFT_TISSUE
    findings = {"nodules": _seen(discs) & (label == "nodules")}
    for name, count, radius, gain in (("emphysema", 6, (12, 20), -90.0), ("consolidation", 2, (16, 26), 700.0)):
        patches, shown = _patches(random, lungs, places, count, radius), occurs(random)
        hu[patches] += gain * shown
        findings[name] = _seen(patches) & shown
    level, shown = random.uniform(20, 40), occurs(random)
    fluid = lungs & (y > level + 0.15 * z) & (np.sign(x) == random.choice([-1, 1]))
    hu[fluid & shown] = 10
    findings["effusion"] = _seen(fluid) & shown
    # The slices are blurred one by one: none shows anything of its neighbours.
    clean = gaussian_filter(hu, (0, 0.6, 0.6), truncate=2)
    noise = gaussian_filter(random.standard_normal(hu.shape, dtype=np.float32), (0, 0.6, 0.6), truncate=2)
    noise *= random.uniform(20, 40)
    image, clean = (np.clip(values, -1024, 3071).astype(np.int16) for values in (clean + noise, clean))
    return PhantomStudy(image, clean, findings, discs & (label == "nodules"))


def write_study(path: Path, label: str, seed: int, number: int) -> None:
    """Draw one study and write it as an axial CT series."""
    volume = draw_study(np.random.default_rng([seed, number]), label).image
    write_chest_ct(path, Identity("CT", VERSION, seed, number), volume, PIXEL_MM, SLICE_MM)


def _thorax(
    random: np.random.Generator, z: NDArray[np.float32], y: NDArray[np.float32], x: NDArray[np.float32]
) -> tuple[NDArray[np.float32], _Mask]:
    """Draw a body without vessels, in HU, and where its lungs are."""
    size = random.uniform(0.88, 1.0)
    depth, width = 90 * size * random.uniform(0.95, 1.05), 118 * size * random.uniform(0.95, 1.05)
    slice_y, slice_x = y[0], x[0]  # what is the same in all slices is drawn once
    body = ellipse(slice_y, slice_x, (0, 0), (depth, width))
    one = np.full(body.shape, -1000.0, dtype=np.float32)
    one[body < 1] = -95  # fat
    one[ellipse(slice_y, slice_x, (0, 0), (depth - 8, width - 9)) < 1] = 45  # muscle
    hu = np.repeat(one[None], len(z), axis=0)
    lungs = np.zeros(hu.shape, dtype=bool)
    for side in (-1, 1):
        taper = np.sqrt(np.clip(1 - (z / random.uniform(84, 92)) ** 2, 1e-6, 1))  # pointed at apex and base
        centre = (random.uniform(-8, 2), side * width * random.uniform(0.47, 0.5))
        lungs |= ellipse(slice_y, slice_x, centre, (depth * 0.72 * taper, width * 0.38 * taper)) < 1
    heart = ellipsoid(
        z, y, x, (random.uniform(-35, -20), -18, 18), (38, random.uniform(32, 38), random.uniform(35, 42))
    )
    spine = ellipse(slice_y, slice_x, (depth * 0.62, random.uniform(-3, 3)), (14, 16)) < 1
    lungs &= (heart > 1) & ~spine & (ellipse(slice_y, slice_x, (0, 0), (depth - 14, width - 15)) < 1)  # within the ribs
    hu[lungs] = random.uniform(-880, -820)
    hu[heart < 1] = 40
    hu[:, spine] = random.uniform(250, 450)
    hu[:, ellipse(slice_y, slice_x, (-8, 0), (5, 5)) < 1] = -1000  # trachea
    around = np.arctan2(slice_y / depth, slice_x / width)
    ribs = (np.abs(np.sqrt(body) - 0.92) < 0.03) & (np.cos(11 * around + z / 14) > 0.62)
    hu[ribs] = random.uniform(350, 600)
    return hu, lungs


def _vessels(random: np.random.Generator, shape: tuple[int, ...]) -> _Mask:
    """Draw thin vessels from the hilum of each lung outwards, in all directions."""
    found = np.zeros(shape, dtype=bool)
    middle = (np.array(shape) - 1) / 2
    spacing = np.array([SLICE_MM, PIXEL_MM, PIXEL_MM])
    box = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in (1, 3, 3)), indexing="ij"), axis=-1).reshape(-1, 3)
    for side in (-1, 1):
        hilum = np.array([0.0, 0.0, side * 25.0])
        away = random.normal(loc=(0, 0, side), size=(12, 3))
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        steps = np.arange(0, 70, 1.5)
        points = hilum + away[:, None] * steps[:, None]
        radii = random.uniform(1.0, 1.8, size=(12, 1)) * (1 - steps / 100)
        first = np.round(points / spacing + middle).astype(int)
        voxels = first[:, :, None] + box
        inside = ((voxels >= 0) & (voxels < shape)).all(axis=-1)
        offsets = (voxels - middle) * spacing - points[:, :, None]
        inside &= np.linalg.norm(offsets, axis=-1) <= radii[..., None]
        found[tuple(voxels[inside].T)] = True
    return found


def _discs(random: np.random.Generator, lungs: _Mask, places: NDArray, oblique: bool) -> _Mask:
    """Draw the discs of 7 to 10 structures; the same structures whether they are oblique or not."""
    found = np.zeros(lungs.shape, dtype=bool)
    for _ in range(random.integers(7, 11)):
        for _ in range(100):  # tries, until it lies in a lung, oblique and not
            centre = _place(random, lungs, places)
            radius, angle = random.uniform(*_RADIUS), random.uniform(-_TURN, _TURN)
            shift = -random.uniform(*_SHIFT) * np.array([np.cos(angle), np.sin(angle)])
            upright, shifted = list(_stack(centre, radius, 0 * shift)), list(_stack(centre, radius, shift))
            if all(_within(lungs, *disc) for disc in (*upright, *shifted)):
                for level, at, size in shifted if oblique else upright:
                    _put(found[level], at, size)
                break
    return found


def _stack(centre: NDArray, radius: float, shift: NDArray) -> Iterator[tuple[int, NDArray, float]]:
    """The discs of a structure: slice, centre in pixels, radius in pixels."""
    reach = int(radius / SLICE_MM)
    for step in range(-reach, reach + 1):
        height = step * SLICE_MM
        yield centre[0] + step, centre[1:] + shift * height / PIXEL_MM, np.sqrt(radius**2 - height**2) / PIXEL_MM


def _within(lungs: _Mask, level: int, at: NDArray, size: float) -> bool:
    """Whether a disc lies in the lungs, by five of its points."""
    points = np.round(at + size * np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])).astype(int)
    inside = 0 <= level < len(lungs) and (points >= 0).all() and (points < lungs.shape[1:]).all()
    return bool(inside and lungs[level, points[:, 0], points[:, 1]].all())


def _put(plane: _Mask, at: NDArray, size: float) -> None:
    low, high = np.floor(at - size).astype(int), np.ceil(at + size).astype(int) + 1
    rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
    plane[low[0] : high[0], low[1] : high[1]] |= (rows - at[0]) ** 2 + (columns - at[1]) ** 2 <= size**2


def _patches(
    random: np.random.Generator, lungs: _Mask, places: NDArray, count: int, radius: tuple[float, float]
) -> _Mask:
    """Draw ellipsoids at random places of the lungs."""
    found = np.zeros(lungs.shape, dtype=bool)
    spacing = np.array([SLICE_MM, PIXEL_MM, PIXEL_MM])
    for _ in range(count):
        at, axes = _place(random, lungs, places), random.uniform(*radius, size=3) / spacing
        low, high = np.maximum(np.floor(at - axes).astype(int), 0), np.ceil(at + axes).astype(int) + 1
        box = tuple(slice(a, min(b, n)) for a, b, n in zip(low, high, lungs.shape, strict=True))
        z, y, x = np.ogrid[box]
        found[box] |= ellipsoid(z, y, x, tuple(at), tuple(axes)) <= 1
    return found & lungs


def _place(random: np.random.Generator, lungs: _Mask, places: NDArray) -> NDArray:
    """A voxel of the lungs."""
    return np.array(np.unravel_index(random.choice(places), lungs.shape))


def _seen(mask: _Mask) -> _Mask:
    """Which slices show a finding."""
    return np.count_nonzero(mask, axis=(1, 2)) >= _SEEN
