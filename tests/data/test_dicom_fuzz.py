"""5,000 damaged DICOM files: an image or one of our errors, and never a crash, another exception, a hang, a gigabyte.

A child process reads them, as a crash in a decoder would take the tests along; it tells which file it is at.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.dicom_files import enhanced, make_series

SMALL = Path(get_testdata_file("CT_small.dcm")).parent
SEEDS = (
    *("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm"),
    *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "693_J2KI.dcm", "JPEG2000.dcm", "JPGExtended.dcm"),
    *("J2K_pixelrep_mismatch.dcm", "image_dfl.dcm", "SC_rgb_rle.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm"),
    *("SC_rgb_gdcm_KY.dcm", "SC_rgb_small_odd_jpeg.dcm", "SC_rgb_rle_16bit_2frame.dcm", "ExplVR_BigEnd.dcm"),
)
WORKERS, SECONDS = 2, 20
LENGTHS = (0, 1, 0x7F, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
# Rows, Columns, BitsAllocated, BitsStored, HighBit, SamplesPerPixel, PixelRepresentation, as little-endian tags.
FORGED = tuple(bytes([0x28, 0, tag & 0xFF, tag >> 8]) for tag in (0x10, 0x11, 0x100, 0x101, 0x102, 0x2, 0x103))


def seeds(folder: Path) -> list[bytes]:
    """The files to damage: pydicom's, each transfer syntax among them, and an enhanced CT."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_series(folder / "plain", slices=3)
        enhanced(folder / "plain", folder / "enhanced.dcm")
    return [(SMALL / name).read_bytes() for name in SEEDS] + [(folder / "enhanced.dcm").read_bytes()]


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Flip bytes, cut off, forge a length or a number of the header, or move a piece."""
    broken = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        kind = dice.randrange(6)
        reach = len(broken) if dice.random() < 0.5 else min(len(broken), 3000)
        if kind == 0:
            for _ in range(dice.choice((1, 3, 30))):
                broken[dice.randrange(reach)] = dice.randrange(256)
        elif kind == 1 and len(broken) > 200:
            del broken[dice.randrange(130, len(broken)) :]
        elif kind == 2:
            place = dice.randrange(max(1, reach - 4))
            broken[place : place + 4] = dice.choice(LENGTHS).to_bytes(4, dice.choice(("little", "big")))
        elif kind == 3:
            place = broken.find(dice.choice(FORGED))
            if place >= 0:
                broken[place + 8 : place + 10] = dice.choice((0, 1, 3, 8, 16, 255, 4096, 65535)).to_bytes(2, "little")
        elif kind == 4:
            start, place = dice.randrange(len(broken)), dice.randrange(len(broken))
            piece = broken[start : start + dice.randrange(1, 200)]
            broken[place:place] = piece
        else:
            pixels = max(broken.rfind(b"\xe0\x7f\x10\x00"), 0)  # the codestream
            for _ in range(dice.choice((1, 5))):
                broken[dice.randrange(pixels, len(broken))] = dice.randrange(256)
        if len(broken) < 140:
            break
    return bytes(broken)


def attack(folder: Path, first: int, step: int, total: int) -> None:
    """Read every `step`-th of so many damaged files; writes what came of each."""
    from monai_rd.data.dicom import index_dicom, load_series
    from monai_rd.data.errors import DicomSeriesError, Policy

    tolerant = Policy({"DUPLICATE_SLICES": "warn", "NO_HOUNSFIELD": "warn", "LOCALIZER": "warn"})
    originals = seeds(folder)
    (folder / "files").mkdir()
    target = folder / "files" / "damaged.dcm"
    with open(folder / "log", "w", buffering=1) as log:
        for number in range(first, total, step):
            dice = random.Random(number)
            target.write_bytes(damaged(originals[number % len(originals)], dice))
            signal.alarm(SECONDS)
            log.write(f"{number} ")
            outcomes = []
            for call in (lambda: load_series(target, policy=tolerant), lambda: index_dicom(target.parent)[0].row()):
                try:
                    call()
                    outcomes.append("read")
                except DicomSeriesError as error:
                    outcomes.append(error.code)
                except BaseException as error:  # the test says which
                    outcomes.append(f"ESCAPED:{type(error).__name__}")
            log.write(f"{' '.join(outcomes)}\n")
        signal.alarm(0)
        # Not ru_maxrss: that of a child begins with what its parent held.
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert peak is not None
        log.write(f"peak {int(peak[1]) // 1024} MiB\n")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is told by Linux only")
@pytest.mark.parametrize("total", [500, pytest.param(5_000, marks=pytest.mark.slow)])
def test_no_damaged_file_does_harm(total: int, tmp_path: Path) -> None:
    command = "from pathlib import Path; from tests.data.test_dicom_fuzz import attack; attack(Path({!r}), {}, {}, {})"
    root = Path(__file__).parents[2]
    running = []
    for first in range(WORKERS):
        folder = tmp_path / str(first)
        folder.mkdir()
        words = [sys.executable, "-W", "ignore", "-c", command.format(str(folder), first, WORKERS, total)]
        environment = os.environ | {"PYTHONPATH": str(root)}
        running.append(
            (folder, subprocess.Popen(words, cwd=root, env=environment, stderr=subprocess.DEVNULL, text=True))
        )
    codes: dict[str, int] = {}
    for folder, process in running:
        code = process.wait()
        lines = (folder / "log").read_text().splitlines()
        assert code == 0, f"the reader ended with {code} at damaged file {lines[-1]}"
        assert not [line for line in lines if "ESCAPED" in line]
        peak = int(lines[-1].split()[1])
        assert peak < 1024, f"{peak} MiB"
        for line in lines[:-1]:
            codes[line.split()[1]] = codes.get(line.split()[1], 0) + 1
    assert sum(codes.values()) == total
    # The damage must be of every kind: some is harmless, some is in the header, some in the pixels.
    for code in ("read", "TRUNCATED_PIXELS", "UNREADABLE_PIXELS", "NO_DICOM"):
        assert codes.get(code, 0) > total // 100, code


def test_seeds_are_readable_before_they_are_damaged(tmp_path: Path) -> None:
    from monai_rd.data.dicom import header

    for content in seeds(tmp_path):
        (tmp_path / "file").write_bytes(content)
        assert header.read_file(tmp_path / "file", pixels=True) is not None
        assert pydicom.dcmread(tmp_path / "file")
