"""Breast-ultrasound phantoms in the three classes of BUSI.

Skin, fat with ligaments, gland, fascia and muscle in speckle. Benign: a smooth dark oval, wider than tall, with a
brighter band behind. Malignant: irregular, taller than wide, with a bright rim and a shadow behind. Some lesions of
either kind lack the band or shadow. Ducts, ribs, calcifications, fat lobules and lost contact occur in every class.
The pictures are screens: the image region lies among grey bars and marks, and only the header says where.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage
from scipy.ndimage import gaussian_filter

from monai_rd.phantoms.drawing import PhantomStudy, coordinates, ellipse, occurs, smooth_noise, soft
from monai_rd.phantoms.writing import Identity, put_pixels

__all__ = ["CLASS_NAMES", "OTHER_FINDINGS", "SUFFIX", "VERSION", "draw_study", "write_study"]

CLASS_NAMES = ("benign", "malignant", "normal")
OTHER_FINDINGS = ("duct", "rib", "calcification", "lost contact")
# Rows and columns of the image region, its pixel size in mm, rows and columns of the screen.
MATRIX, PIXEL_MM, SCREEN = 96, 0.4, (136, 168)
SUFFIX, VERSION = ".dcm", 2


def draw_study(random: np.random.Generator, label: str, frames: int = 1) -> PhantomStudy:
    """Draw one study; each finding other than that of the class occurs in 1 of 5 studies.

    `clean` is the tissue's echo in dB with its shadows, `[frames, rows, columns]`, rows from the probe downwards;
    `image` is the displayed picture with speckle, 0 to 1. Frames differ in speckle and by slight motion.
    """
    y, x = coordinates((MATRIX, PIXEL_MM), (MATRIX, PIXEL_MM))
    depth = y - y.min()
    shape = y.shape
    fine, coarse, wave = (smooth_noise(random, shape, sigma) for sigma in (1.5, 5, (4, 12)))
    fat, gland = random.uniform(5, 13), random.uniform(10, 16)
    level = depth + 1.2 * wave
    echo = np.full(shape, -5.0 + random.uniform(-1.5, 1.5), dtype=np.float32)  # gland
    echo += random.uniform(1, 2.5) * coarse
    fatty = random.uniform(-15, -11)
    echo[level < fat] = fatty
    for _ in range(random.integers(4, 9)):  # fat lobules between the ligaments
        at = (random.uniform(-14, 2), random.uniform(-19, 19))
        lobule = np.sqrt(ellipse(y, x, at, (random.uniform(1.5, 3.5), random.uniform(3, 7)), random.uniform(-0.4, 0.4)))
        echo += soft(lobule + 0.15 * fine, 0.08) * (fatty - echo)
        echo[np.abs(lobule - 1) < 0.08] += random.uniform(3, 7)
    behind = level - fat - gland
    echo[behind > 0] = random.uniform(-17, -13) + 2 * np.sin(level * 1.8)[behind > 0]  # muscle, striated
    echo[np.abs(behind) < 0.6] = -1  # fascia
    echo[depth < 1.4] = 0  # skin
    below = np.zeros(shape, dtype=np.float32)  # attenuation or enhancement behind objects, in dB

    findings = {name: np.zeros(frames, dtype=bool) for name in (*OTHER_FINDINGS, "lesion")}
    for name in OTHER_FINDINGS:
        if not occurs(random):
            continue
        findings[name][:] = True
        if name == "duct":
            for _ in range(random.integers(1, 4)):
                slope, offset = random.uniform(-0.3, 0.3), random.uniform(-6, 6)
                start = random.uniform(-15, 5)
                line = np.abs(y - offset - slope * x - 1.2 * np.sin(x / 4 + offset))
                echo[(line < random.uniform(0.7, 1.2)) & (x > start) & (x < start + random.uniform(10, 20))] = -26
        elif name == "rib":
            at = (random.uniform(15, 20), random.uniform(-12, 12))
            arc = np.sqrt(ellipse(y, x, at, (4, 8)))
            echo[(np.abs(arc - 1) < 0.12) & (y < at[0])] = 2
            below += np.where((np.abs(x - at[1]) < 7) & (y > at[0] - 3), -18, 0)
        elif name == "calcification":
            for _ in range(random.integers(4, 12)):
                at = (random.uniform(-12, 8), random.uniform(-16, 16))
                echo[ellipse(y, x, at, (0.5, 0.5)) < 1] = 6
        else:
            side = random.choice([-1, 1])
            below += -20 * soft((19.2 - side * x) / random.uniform(4, 9), 0.15)
    lesion = np.zeros(shape, dtype=bool)
    if label != "normal":
        malignant = label == "malignant"
        at = (random.uniform(-7, 4), random.uniform(-11, 11))
        radius, ratio = random.uniform(3.2, 6.0), random.uniform(1.05, 1.5) if malignant else random.uniform(1.25, 2.0)
        tall, wide = (
            (radius * ratio**0.5, radius / ratio**0.5) if malignant else (radius / ratio**0.5, radius * ratio**0.5)
        )
        angle = np.arctan2((y - at[0]) / tall, (x - at[1]) / wide)
        lobes = sum(random.normal() / n * np.cos(n * angle + random.uniform(0, 2 * np.pi)) for n in range(3, 9))
        turn = random.uniform(-0.25, 0.25)
        distance = np.sqrt(ellipse(y, x, at, (tall, wide), turn))
        distance = distance * (1 + (0.28 if malignant else 0.05) * lobes) + (0.1 if malignant else 0.03) * fine
        rim = random.uniform(3, 7) if random.random() < 0.7 else 0.0
        if malignant:
            echo += rim * soft(np.abs(distance - 1.25) / 0.25, 0.3)
        else:
            echo += rim * (np.abs(distance - 1.08) < 0.08)
        inner = random.uniform(-21, -13) + random.uniform(0.5, 2) * fine
        echo += soft(distance, 0.12 if malignant else 0.05) * (inner - echo)
        if random.random() < 0.75:
            column = soft(np.abs(x - at[1]) / wide, 0.12) * soft(-(y - at[0]) / tall + 1.2, 0.3)
            below += column * (random.uniform(-11, -5) if malignant else random.uniform(3, 6))
        findings["lesion"][:] = True
        lesion = distance < 1
    clean = gaussian_filter(echo + below, 0.5)

    # Attenuation that the operator's gain curve does not fully compensate.
    gain = random.uniform(-0.15, 0.05) * depth + random.uniform(0, 2) * np.sin(depth / random.uniform(5, 12))
    spread, range_db, bright = random.uniform(0.5, 0.8), random.uniform(42, 58), random.uniform(-2, 6)
    images, cleans, places = [], [], []
    for frame in range(frames):
        moved, there = (np.roll(one, (frame // 2, frame), axis=(0, 1)) for one in (clean, lesion))
        waves = gaussian_filter(random.normal(size=(2, *shape)), (0, spread, 2 * spread))
        envelope = np.hypot(*waves) / waves.std()
        shown = 20 * np.log10(envelope * 10 ** ((moved + gain) / 20) + 1e-3)
        images.append(np.clip((shown + bright + range_db - 12) / range_db, 0, 1))
        cleans.append(moved)
        places.append(there)
    image, clean = (np.stack(one).astype(np.float32) for one in (images, cleans))
    return PhantomStudy(image, clean, findings, np.stack(places))


def write_study(path: Path, label: str, seed: int, number: int) -> None:
    """Draw one study and write it as an ultrasound screen: one in three as a cine loop, half of the others in RGB."""
    random = np.random.default_rng([seed, number])
    frames = int(random.integers(3, 6)) if random.random() < 1 / 3 else 1
    study = draw_study(random, label, frames)
    top, left = random.integers(8, SCREEN[0] - MATRIX - 8), random.integers(14, SCREEN[1] - MATRIX - 20)
    screens = np.stack([_screen(frame, int(top), int(left)) for frame in study.image])
    image = Identity("US", VERSION, seed, number).header(
        UltrasoundMultiFrameImageStorage if frames > 1 else UltrasoundImageStorage
    )
    image.ImageType, image.BodyPartExamined = ["DERIVED", "PRIMARY"], "BREAST"
    image.SequenceOfUltrasoundRegions = [_region(int(top), int(left))]
    if frames > 1:
        image.NumberOfFrames, image.FrameTime = frames, 40.0
        image.FrameIncrementPointer = 0x00181063  # FrameTime
        put_pixels(image, screens, "MONOCHROME2", bits=8)
    elif random.random() < 0.5:
        put_pixels(image, np.repeat(screens[0][..., None], 3, axis=-1), "RGB", bits=8)
    else:
        put_pixels(image, screens[0], "MONOCHROME2", bits=8)
    image.save_as(path, enforce_file_format=True)


def _screen(picture: NDArray, top: int, left: int) -> NDArray:
    """Place a picture (0 to 1) on a screen with a grey bar, a depth scale, and boxes in place of text."""
    screen = np.zeros(SCREEN)
    screen[top : top + MATRIX, left : left + MATRIX] = picture
    screen[top : top + MATRIX : 12, left - 5 : left - 1] = 0.9
    bar = SCREEN[1] - 12
    screen[top : top + MATRIX, bar : bar + 6] = np.linspace(1, 0, MATRIX)[:, None]
    screen[2:5, 4:60:3] = 0.8
    screen[-6:-3, 6:90:4] = 0.8
    return np.rint(screen * 255)


def _region(top: int, left: int) -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0  # two-dimensional, tissue
    region.RegionLocationMinX0, region.RegionLocationMinY0 = left, top
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = left + MATRIX - 1, top + MATRIX - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaX = region.PhysicalDeltaY = PIXEL_MM / 10
    return region
