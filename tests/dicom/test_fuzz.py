"""Damaged DICOM files: an image or one of our errors, and never a crash, another exception, a hang, a gigabyte."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.dicom.test_end_markers import frames_of, load
from tests.dicom.test_mosaic import mosaic
from tests.dicom_files import enhanced, make_series
from tests.fuzzing import PATIENT, damaged, outcomes_of, try_all

SMALL = Path(get_testdata_file("CT_small.dcm")).parent
SEEDS = (
    *("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm"),
    *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "693_J2KI.dcm", "JPEG2000.dcm", "JPGExtended.dcm"),
    *("J2K_pixelrep_mismatch.dcm", "image_dfl.dcm", "SC_rgb_rle.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm"),
    *("SC_rgb_gdcm_KY.dcm", "SC_rgb_small_odd_jpeg.dcm", "SC_rgb_rle_16bit_2frame.dcm", "ExplVR_BigEnd.dcm"),
)
# Rows, Columns, BitsAllocated, BitsStored, HighBit, SamplesPerPixel, PixelRepresentation, as little-endian tags.
FORGED = tuple(bytes([0x28, 0, tag & 0xFF, tag >> 8]) for tag in (0x10, 0x11, 0x100, 0x101, 0x102, 0x2, 0x103))


def seeds(folder: Path) -> list[bytes]:
    """The files to damage: pydicom's, each transfer syntax among them, an enhanced CT, mosaics, frames without end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_series(folder / "plain", slices=3)
        enhanced(folder / "plain", folder / "enhanced.dcm")
        made = [folder / "enhanced.dcm"]
        for new in (True, False):
            mosaic(folder / f"mosaic {new}", new=new)
            made.append(folder / f"mosaic {new}" / "0.dcm")
        for codec in ("lossless", "JPEG 2000 in tiles"):
            load(folder / codec, codec, [frame[:-2] for frame in frames_of(codec, 2)], "fragments")
            made += (folder / codec).iterdir()
    return [(SMALL / name).read_bytes() for name in SEEDS] + [file.read_bytes() for file in made]


def forge(broken: bytearray, dice: random.Random) -> None:
    """Another number in an element of the header."""
    place = broken.find(dice.choice(FORGED))
    if place >= 0:
        broken[place + 8 : place + 10] = dice.choice((0, 1, 3, 8, 16, 255, 4096, 65535)).to_bytes(2, "little")


def attack(folder: Path, first: int, step: int, total: int) -> None:
    """Read every `step`-th of so many damaged files; writes what came of each."""
    from monai_rd.dicom import index_dicom, load_series
    from monai_rd.errors import Policy

    tolerant = Policy({"DUPLICATE_SLICES": "warn", "NO_HOUNSFIELD": "warn", "LOCALIZER": "warn"})
    originals = seeds(folder)
    (folder / "files").mkdir()
    target = folder / "files" / f"{PATIENT}.dcm"

    def make(number: int) -> Sequence[Callable[[], object]]:
        target.write_bytes(damaged(originals[number % len(originals)], random.Random(number), forge))
        return (lambda: load_series(target, policy=tolerant), lambda: index_dicom(target.parent)[0].row())

    try_all(folder, range(first, total, step), make)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is told by Linux only")
@pytest.mark.parametrize("total", [150, pytest.param(2_500, marks=pytest.mark.slow)])
def test_no_damaged_file_does_harm(total: int, tmp_path: Path) -> None:
    codes = outcomes_of("tests.dicom.test_fuzz", total, tmp_path)
    # The damage must be of every kind: some is harmless, some is in the header, some in the pixels.
    for code in ("read", "TRUNCATED_PIXELS", "UNREADABLE_PIXELS", "NO_DICOM"):
        assert codes[code] > total // 100, code


def test_seeds_are_readable_before_they_are_damaged(tmp_path: Path) -> None:
    from monai_rd.dicom import parsing

    for content in seeds(tmp_path):
        (tmp_path / "file").write_bytes(content)
        assert parsing.read_file(tmp_path / "file", pixels=True) is not None
        assert pydicom.dcmread(tmp_path / "file")
