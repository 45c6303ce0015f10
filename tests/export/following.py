"""What a manifest says of the way from a file to the network's input, done in numpy alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def follow(manifest: dict[str, Any], values: np.ndarray, unit: str) -> np.ndarray:
    """Do with slices `[D, H, W]` in HU, or a picture `[1, H, W]` of 0 to 255, what the metadata say, in numpy alone."""
    for step in manifest["preprocessing"]:
        if step["step"] == "SliceStackd" and unit == "HU":
            depth, slices = len(values), step["slices"]
            values = values[[math.floor((i + 0.5) * depth / slices) for i in range(slices)]]
        elif step["step"] == "HounsfieldWindowsd":
            ((centre, width),) = step["windows"]
            values = np.clip((values - centre) / width + 0.5, 0, 1) if unit == "HU" else values / 255
        elif step["step"] == "ResizeImaged":
            for axis, new in enumerate(step["size"], start=1):
                values = resized(values, axis, new)
        elif step["step"] == "ChannelsToBagd":
            values = np.repeat(values[:, None], 3, axis=1)
    return values[None].astype(np.float32)


def resized(values: np.ndarray, axis: int, new: int) -> np.ndarray:
    old = values.shape[axis]
    sigma = max(old / new - 1, 0) / 2
    values = np.moveaxis(values, axis, -1)
    if sigma:
        radius = math.floor(max(4 * sigma, 0.5) + 0.5)
        mass = [0.5 * math.erf(k / sigma / 2**0.5) for k in np.arange(-radius - 0.5, radius + 1)]
        values = np.apply_along_axis(np.convolve, -1, values, np.diff(mass), mode="same")
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(place.astype(int), old - 2)
    return np.moveaxis(values[..., low] * (1 - (place - low)) + values[..., low + 1] * (place - low), -1, axis)
