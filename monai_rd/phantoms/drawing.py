"""Drawing tools that the phantoms of all modalities share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

__all__ = ["PhantomStudy", "coordinates", "ellipse", "ellipsoid", "occurs", "smooth_noise", "soft"]


@dataclass(frozen=True)
class PhantomStudy:
    """A drawn study.

    Attributes:
        image: the acquired image, in display values or in the modality's units, `[slices, rows, columns]`, colour
            `[slices, rows, columns, 3]`; a single picture has one slice.
        clean: the tissue without noise and acquisition effects, `[slices, rows, columns]`, or several of its properties
            `[slices, rows, columns, properties]`.
        findings: by name of the finding, which slices show it, bool `[slices]`.
        place: where the finding of the study's class is, bool `[slices, rows, columns]`; nowhere if the class has none.
    """

    image: NDArray
    clean: NDArray
    findings: dict[str, NDArray[np.bool_]]
    place: NDArray[np.bool_]


def coordinates(*axes: tuple[int, float], sparse: bool = False) -> tuple[NDArray[np.float32], ...]:
    """Return the coordinates of a grid in mm from its centre; each axis is given as (number of points, spacing).

    With `sparse` each has one point along the other axes, and what is computed from them is broadcast.
    """
    lines = [np.arange(number) * distance for number, distance in axes]
    grid = np.meshgrid(*(line - line.mean() for line in lines), indexing="ij", sparse=sparse)
    return tuple(a.astype(np.float32) for a in grid)


def ellipse(y: NDArray, x: NDArray, centre: tuple, axes: tuple, angle: float = 0.0) -> NDArray:
    """Squared distance from the centre, normalised to 1 on the ellipse; `angle` rotates it, in radians."""
    y, x = y - centre[0], x - centre[1]
    if angle:
        y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    return (y / axes[0]) ** 2 + (x / axes[1]) ** 2


def ellipsoid(z: NDArray, y: NDArray, x: NDArray, centre: tuple, axes: tuple) -> NDArray:
    """Squared distance from the centre, normalised to 1 on the ellipsoid."""
    return ((z - centre[0]) / axes[0]) ** 2 + ellipse(y, x, centre[1:], axes[1:])


def soft(distance: NDArray, softness: float) -> NDArray:
    """Return 1 inside (distance below 1) and 0 outside, with an edge of the given softness."""
    return 1 / (1 + np.exp(np.clip((distance - 1) / softness, -50, 50)))


def smooth_noise(random: np.random.Generator, shape: tuple[int, ...], sigma: float | tuple[float, ...]) -> NDArray:
    """Return Gaussian noise with standard deviation 1, correlated over `sigma` points."""
    noise = gaussian_filter(random.normal(size=shape), sigma, mode="wrap")
    return noise / noise.std()


def occurs(random: np.random.Generator) -> bool:
    """Draw whether a finding occurs that is not part of the class: true in 1 of 5 studies."""
    return bool(random.random() < 0.2)
