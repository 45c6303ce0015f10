"""One large CT, from its files to the input of a 3D network and a score: this package against MONAI's own transforms.

    python benchmarks/volumes.py                        # 600 slices of 512 x 512, 0.7 x 0.7 x 0.8 mm
    python benchmarks/volumes.py --slices 60            # tries it out

Every way gives a volume of 1.5 x 1.5 x 3 mm, 224 x 224 x 160 voxels, in [0, 1]. Each runs in a process of its own,
which measures its peak memory, and the ways take turns. MONAI's `Spacing` does not smooth before it reduces; the last
way does so first, as MONAI's `Resize` can.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import in_child, machine, middle, ratios

from monai_rd.phantoms.writing import Identity, write_axial_series

PIXEL_MM, SLICE_MM, SIDE = 0.7, 0.8, 512
SPACING, FIELD, WINDOW = (1.5, 1.5, 3.0), (336.0, 336.0, 480.0), (-1000.0, 1000.0)


def write_chest(folder: Path, slices: int) -> None:
    """Write a body with two lungs and noise as a DICOM series."""
    random = np.random.default_rng(0)
    y, x = np.meshgrid(*[(np.arange(SIDE) - SIDE / 2) * PIXEL_MM] * 2, indexing="ij")
    body = (x / 165) ** 2 + (y / 115) ** 2 < 1
    volume = np.empty((slices, SIDE, SIDE), np.int16)
    for number in range(slices):
        hu = np.where(body, 40, -1000)
        taper = 1 - ((number - slices / 2) * SLICE_MM / 150) ** 2
        for middle_mm in (-75, 75):
            if taper > 0:
                hu[((x - middle_mm) / 55) ** 2 + (y / 80) ** 2 < taper] = -850
        volume[number] = hu + random.normal(0, 20, hu.shape)
    attributes = {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
    write_axial_series(folder, Identity("CT", 0, 0, 0), volume + 1024, PIXEL_MM, SLICE_MM, attributes)


def ours(folder: str) -> Any:
    """The transforms of rd_ct for a 3D student."""
    from monai_rd.transforms import HounsfieldWindowsd, LoadImageOrSeriesd, Sizes, VolumeViewd

    sizes = Sizes(spatial_dims=3, spacing=SPACING, field=FIELD)
    item: Any = LoadImageOrSeriesd("image")({"image": folder})
    item = VolumeViewd("image", sizes, region="lung", empty=-1024)(item)
    return HounsfieldWindowsd("image", [(sum(WINDOW) / 2, WINDOW[1] - WINDOW[0])])(item)["image"]


def ours_and_a_score(folder: str) -> Any:
    """The same view for the teacher, and the probabilities of a `resnet10_3d` that sees it at 3 x 3 x 4 mm."""
    from monai_rd.networks import Student
    from monai_rd.transforms import ResizeVolumed, Sizes

    image = ours(folder).as_subclass(torch.Tensor)
    size = Sizes(spatial_dims=3, spacing=(3, 3, 4), field=FIELD).student
    with torch.inference_mode():
        Student("resnet10_3d").eval()(ResizeVolumed("image", size)({"image": image})["image"][None])
    return image


def monai(folder: str, smooth: bool = False) -> Any:
    """MONAI's transforms for the same volume."""
    from monai.transforms import (
        Compose,
        CropForeground,
        GaussianSmooth,
        LoadImage,
        Orientation,
        ResizeWithPadOrCrop,
        ScaleIntensityRange,
        Spacing,
    )

    sigma = [max(new / old - 1, 0) / 2 for new, old in zip(SPACING, (PIXEL_MM, PIXEL_MM, SLICE_MM), strict=True)]
    return Compose(
        [
            LoadImage(reader="PydicomReader", image_only=True, ensure_channel_first=True),
            Orientation(axcodes="RAS", labels=None),
            *([GaussianSmooth(sigma)] if smooth else []),
            Spacing(SPACING, mode="bilinear"),
            ScaleIntensityRange(*WINDOW, 0, 1, clip=True),
            CropForeground(select_fn=lambda values: values > 0.25),
            ResizeWithPadOrCrop([round(mm / own) for mm, own in zip(FIELD, SPACING, strict=True)]),
        ]
    )(folder)


WAYS: dict[str, Callable[[str], Any]] = {
    "monai_rd": ours,
    "monai_rd and a score": ours_and_a_score,
    "MONAI": monai,
    "MONAI, smoothed": lambda folder: monai(folder, smooth=True),
}


def main() -> None:
    """Measure all ways in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.way:
        start = time.perf_counter()
        shape = list(WAYS[chosen.way](chosen.folder).shape)
        took, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(json.dumps({"seconds": took, "peak": peak, "shape": shape}))
        return
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    peaks: dict[str, float] = dict.fromkeys(WAYS, 0.0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "series"
        write_chest(folder, chosen.slices)
        for _ in range(chosen.rounds):
            for name in WAYS:
                found = in_child(__file__, "--way", name, "--folder", folder)
                seconds[name].append(found["seconds"])
                peaks[name] = max(peaks[name], found["peak"])
    console = Console()
    told = machine(torch.device("cpu"), torch.get_num_threads())
    console.print(f"{told}; {chosen.slices} slices of {SIDE} x {SIDE}; {chosen.rounds} rounds")
    table = Table("way", "seconds", "over MONAI", "peak memory, GiB")
    for name, times in seconds.items():
        over = middle(ratios(times, seconds["MONAI"]))
        table.add_row(name, middle(times, "{:.1f}"), over, f"{peaks[name]:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
