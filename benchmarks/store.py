"""The feature store: what a fill and a row cost, and how time, bytes and memory grow with items, views and processes.

    python benchmarks/store.py
    python benchmarks/store.py --rounds 1 --size 32 --teacher vit_tiny_patch16_224 --items 100 200   # tries it out

The fill is held against a plain loop that shows the same teacher the same views and keeps what it gives in memory.
The second table is about the store and not about the teacher, so its images are small and so is its teacher; every
number is of a process of its own. There a fill is also shared by two processes of one thread each.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureTyped, RandFlipd
from parts import random_teacher, transforms, write_images
from rich.console import Console
from rich.table import Table
from timing import arguments, in_child, in_turn, machine, middle, ratios
from torch import nn

from monai_rd.cache import FeatureExtractor, ReplayedViews, SkippingCacheDataset
from monai_rd.cache.batches import ItemView
from monai_rd.handlers.speed import peak_memory
from monai_rd.networks import FrozenFoundationModel, Preprocessing, Reads
from monai_rd.transforms import ChannelsToBagd, HounsfieldWindowsd, LoadImageOrSeriesd, SliceStackd, bag_collate

GRID, BATCH = 4, 32
READS = Reads(tap=True, grid=GRID)
SMALL = 16  # pixels a side of the images that are many


def real_fill(options: argparse.Namespace, place: Path, console: Console) -> None:
    """Print how a fill compares with a plain loop, and what a row costs beside the view that it belongs to."""
    teacher = random_teacher(options.teacher, options.size).to(options.device)
    items = write_images(place / "real", BATCH, options.size)
    dataset = SkippingCacheDataset(items, transforms(options.size))
    began = time.perf_counter()
    teacher.fingerprint()
    name_of_teacher = time.perf_counter() - began
    views = options.views
    settings: dict[str, Any] = {"batch_size": BATCH, "device": options.device}
    places = iter(range(1000))

    def fill() -> None:
        FeatureExtractor(dataset, teacher, READS, views, directory=place / str(next(places)), **settings).fill()

    def loop() -> None:
        replayed = ReplayedViews(dataset, views, 0)
        kept = []
        for number in range(views):
            # The second time each item is in a view of its own.
            order = [ItemView(place, 2 * number) for place in range(len(items))]
            for batch in DataLoader(replayed, sampler=order, batch_size=BATCH, collate_fn=bag_collate):
                with torch.inference_mode():
                    kept.append(teacher.read(batch["image"].to(options.device), READS).tap.half().cpu())

    times = in_turn({"fill": fill, "loop": loop}, options.rounds, options.device)
    count = len(items) * views
    table = Table(title=f"{options.teacher}, {options.size} px: {count} views of {len(items)} images")
    for column in ("", "views a second", "of the plain loop's time"):
        table.add_column(column)
    for key, title in (("fill", "fill of the store, the teacher's fingerprint with it"), ("loop", "plain loop")):
        rate = middle([count / one for one in times[key]], "{:.2f}")
        table.add_row(title, rate, middle(ratios(times[key], times["loop"])))
    console.print(table)
    console.print(f"the teacher's fingerprint alone: {name_of_teacher:.2f} s, once a training")
    reading(FeatureExtractor(dataset, teacher, READS, views, directory=place / "0", **settings), console)


def reading(extraction: FeatureExtractor, console: Console) -> None:
    """Print what it costs to read rows that are there."""
    extraction.fill()
    views, store = extraction.views, extraction.store
    row = sum(2 * part.numel() for part in store.read(views.keys[0], 0).values())
    every = range(len(views.keys))

    def show() -> None:
        for index in every:
            views.view(index, 0)

    def plain() -> None:
        for index in every:
            views.dataset[index]

    def read() -> None:
        for index in every:
            store.read(views.keys[index], 0)

    times = {
        name: [1e6 * one / len(every) for one in taken]
        for name, taken in in_turn({"row": read, "view": show, "plain": plain}, 9).items()
    }
    console.print(
        f"a row of {row / 1000:.1f} kB is read in {middle(times['row'], '{:.0f}')} microseconds; its view is made in "
        f"{middle(times['view'], '{:.0f}')}, as any random view in {middle(times['plain'], '{:.0f}')}"
    )


# ------------------------------------------------------------------------------------------- many items, small images


def small_teacher() -> FrozenFoundationModel:
    """A teacher that costs next to nothing, and whose rows are 2 kB."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(size=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    return FrozenFoundationModel(
        nn.Conv2d(3, 64, 4, 4), channels=64, kind="map", preprocessing=preprocessing, name="small"
    )


def small_extraction(place: Path, items: int, views: int) -> FeatureExtractor:
    """A training set of small images that are read anew each time, and its store."""
    listed = [{"image": str(place / "small" / f"{number}.png"), "label": number % 2} for number in range(items)]
    chain = Compose(
        [
            LoadImageOrSeriesd("image"),
            SliceStackd("image", slices=1),
            HounsfieldWindowsd("image", windows=["lung"]),
            RandFlipd("image", prob=0.5, spatial_axis=1),
            ChannelsToBagd("image", windows=1),
            EnsureTyped("image", track_meta=False),
        ]
    )
    return FeatureExtractor(
        Dataset(listed, chain), small_teacher(), READS, views, directory=place / f"store{items}", batch_size=BATCH
    )


def fill_job(place: Path, items: int, views: int) -> dict[str, float]:
    """Fill a store, or what other processes leave of it."""
    began = time.time()
    extraction = small_extraction(place, items, views)
    extraction.fill()
    size = sum(path.stat().st_size for path in extraction.store.folder.glob("*.safetensors"))
    return {"began": began, "ended": time.time(), "bytes": size, "memory": peak_memory()}


def read_job(place: Path, items: int, views: int) -> dict[str, float]:
    """Read an epoch out of a store that is full."""
    extraction = small_extraction(place, items, views)
    extraction.fill()
    extraction.views.store = extraction.store
    began = time.time()
    for batch in DataLoader(extraction.views, batch_size=BATCH, collate_fn=bag_collate):
        assert "tap" in batch["teacher_features"]
    return {"began": began, "ended": time.time(), "memory": peak_memory()}


JOBS: dict[str, Callable[[Path, int, int], dict[str, float]]] = {"fill": fill_job, "read": read_job}


def growth(options: argparse.Namespace, place: Path, console: Console) -> None:
    """Print how time, bytes and memory grow."""
    write_images(place / "small", max(options.items), SMALL)
    table = Table(title=f"images of {SMALL} px, rows of 2.5 kB")
    for column in (
        "items",
        "views",
        "processes",
        "fill, s",
        "views a second",
        "MB on disk",
        "peak of the fill, MiB",
        "of reading an epoch",
        "ms an item",
    ):
        table.add_column(column, justify="right")
    few = min(options.items)
    cases = [(items, 1, 1) for items in options.items] + [(few, views, 1) for views in (2, 8)] + [(few, 8, 2)]
    for number, (items, views, processes) in enumerate(cases):
        folder = place / f"case{number}"
        folder.mkdir()
        (folder / "small").symlink_to(place / "small")
        words = [
            sys.executable,
            __file__,
            "--threads=1",
            "--place",
            str(folder),
            "--job",
            "fill",
            "--items",
            str(items),
            "--views",
            str(views),
        ]
        started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        found = [json.loads(child.communicate()[0].strip().splitlines()[-1]) for child in started]
        if any(child.returncode for child in started):
            raise RuntimeError("a fill failed")
        seconds = max(one["ended"] for one in found) - min(one["began"] for one in found)
        read = in_child(__file__, "--threads=1", "--place", folder, "--job", "read", "--items", items, "--views", views)
        table.add_row(
            f"{items}",
            f"{views}",
            f"{processes}",
            f"{seconds:.1f}",
            f"{items * views / seconds:.0f}",
            f"{found[0]['bytes'] / 1e6:.1f}",
            f"{max(one['memory'] for one in found) / 2**20:.0f}",
            f"{read['memory'] / 2**20:.0f} MiB",
            f"{1e3 * (read['ended'] - read['began']) / items:.2f}",
        )
    console.print(table)


def main() -> None:
    """Run and print."""
    parser = arguments(__doc__, rounds=5, size=224)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--views", type=int, default=2, help="K of the first table")
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 5000, 20_000], help="of the second table")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    if options.job:
        print(json.dumps(JOBS[options.job](options.place, options.items[0], options.views)))
        return
    console = Console(width=150)
    console.print(machine(options.device, options.threads))
    with tempfile.TemporaryDirectory() as temporary:
        real_fill(options, Path(temporary), console)
        growth(options, Path(temporary), console)


if __name__ == "__main__":
    main()
