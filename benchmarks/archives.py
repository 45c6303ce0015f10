"""Studies per second out of an archive: DICOMweb, C-GET and C-MOVE against the same Orthanc, in turn.

    python benchmarks/archives.py --studies 20 --rounds 5     # needs Orthanc and its DICOMweb plugin

CT phantoms are stored once. In each round every way looks for them, fetches each as `monai-rd predict` does, checks it
and throws it away; nothing is scored. Printed are medians with quartiles, and the medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timing import in_turn, machine, middle, ratios

sys.path.insert(0, str(Path(__file__).parents[1]))

from monai_rd.integrations.archives.archive import Archive, Query
from monai_rd.integrations.archives.archive_endpoints import ArchiveSource
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.state import State
from monai_rd.phantoms import ct
from tests.dicom_files import make_series
from tests.servers import running_orthanc


def all_studies(archive: Archive, folder: Path, expected: int) -> Callable[[], None]:
    """Fetch all CT studies of an archive, none of which was answered before."""
    finder: Any = SimpleNamespace(find=Path, algorithm=SimpleNamespace(identity="none"))

    def fetch() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as remembered:
            state = State(Path(remembered))
            try:
                came = sum(1 for _ in ArchiveSource(archive, Query("CT"), state, finder))
            finally:
                state.close()
        if came != expected:
            raise RuntimeError(f"{came} of {expected} studies came")

    return fetch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--slices", type=int, help="random CT of so many slices instead of phantoms")
    parser.add_argument("--size", type=int, default=512, help="rows and columns of such a slice")
    options = parser.parse_args()
    logging.getLogger("monai_rd").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_orthanc(folder) as orthanc:
            web = open_archive(orthanc.web)
            size = images = 0
            for number in range(options.studies):
                series = folder / f"series_{number}"
                if options.slices is None:
                    ct.write_study(series, ct.CLASS_NAMES[number % len(ct.CLASS_NAMES)], 0, number)
                else:
                    make_series(series, slices=options.slices, shape=(options.size, options.size), seed=number)
                files = sorted(series.rglob("*.dcm"))
                web.store(files)
                size, images = size + sum(file.stat().st_size for file in files), images + len(files)
            ways = {
                "DICOMweb": web,
                "C-GET": open_archive(orthanc.dimse),
                "C-MOVE": open_archive(orthanc.dimse, listen=orthanc.listen),
            }
            turns = {way: all_studies(archive, folder, options.studies) for way, archive in ways.items()}
            times = in_turn(turns, options.rounds)
            for archive in ways.values():
                archive.close()
    table = Table("way", "studies per second", "time over DICOMweb's")
    for way, taken in times.items():
        speed = middle([options.studies / one for one in taken], "{:.1f}")
        table.add_row(way, speed, middle(ratios(taken, times["DICOMweb"])))
    console = Console()
    console.print(f"{machine(torch.device('cpu'), torch.get_num_threads())}, Python {platform.python_version()}")
    each = f"{images / options.studies:.0f} images, {size / options.studies / 1e6:.2f} MB each"
    console.print(f"{options.studies} studies of {each}; n = {options.rounds} rounds, median and quartiles")
    console.print(table)


if __name__ == "__main__":
    main()
