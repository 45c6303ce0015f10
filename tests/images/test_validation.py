"""Images too large for memory, with values that are no numbers, or that lie nowhere are refused."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from monai_rd.errors import BadGeometryError, InvalidValuesError, TooLargeError, UnreadableImageError
from monai_rd.images import read_image, validation
from tests.images.image_files import nifti, refusal, saved, volume, voxels


def png_of(width: int, height: int) -> bytes:
    """A PNG that announces a size, with a row of zeros."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(width + 1)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def test_bombs_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    for side in (10_000, 50_000):
        refusal(saved(png_of(side, side), ".png", tmp_path), TooLargeError, "more than 89 million pixels")
    huge = nifti(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    refusal(saved(gzip.compress(huge), ".nii.gz", tmp_path), TooLargeError, "announces 3.52e.13 voxels")
    large = nifti(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])
    refusal(saved(gzip.compress(large), ".nii.gz", tmp_path), UnreadableImageError, "announces 2.0 GB, and there can")
    refusal(saved(nifti(dim=[3, 6, 4, 3, 1, 1, 1, 1]), ".nii", tmp_path), UnreadableImageError, "is cut off")
    endless = saved(gzip.compress(nifti() + bytes(50_000_000)), ".nii.gz", tmp_path)
    np.testing.assert_array_equal(read_image(endless).values[0], voxels())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_an_image_for_which_there_is_no_memory(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = volume(voxels(), suffix, tmp_path)
    monkeypatch.setattr(validation, "available_memory", lambda: 500)
    refusal(path, TooLargeError, "needs 0.6 kB of memory, and 0.5 kB are left")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"])
def test_values_that_are_no_numbers_are_counted(suffix: str, tmp_path: Path) -> None:
    array = voxels().astype(np.float64)
    array[0, 0, 0], array[1, 1, 1], array[2, 2, 2] = np.nan, np.inf, 1e300
    refusal(volume(array, suffix, tmp_path), InvalidValuesError, "holds 3 values of 60 that are no finite numbers")
    if suffix == ".nii":
        scaled = nifti(voxels((5, 4, 3)), scl_slope=3e38, scl_inter=0)
        refusal(saved(scaled, suffix, tmp_path), InvalidValuesError, "of 60 that are no finite numbers")


@pytest.mark.parametrize(
    ("suffix", "line", "bad"),
    [
        (".mha", "TransformMatrix", "TransformMatrix = 0 0 0 0 0 0 0 0 0"),
        (".mhd", "TransformMatrix", "TransformMatrix = 1 0 0 1 0 0 0 0 1"),
        (".mha", "ElementSpacing", "ElementSpacing = 0 1 1"),
        (".mhd", "ElementSpacing", "ElementSpacing = -1 1 1"),
        (".mha", "ElementSpacing", "ElementSpacing = 1e9 1 1"),
        (".nrrd", "space directions", "space directions: (0,0,0) (0,0,0) (0,0,0)"),
        (".nhdr", "space directions", "space directions: (1,0,0) (1,0,0) (0,0,1)"),
    ],
)
def test_volumes_that_lie_nowhere(suffix: str, line: str, bad: str, tmp_path: Path) -> None:
    path = volume(voxels(), suffix, tmp_path, np.eye(4))
    lines = path.read_bytes().split(b"\n")
    changed = [bad.encode() if one.startswith(line.encode()) else one for one in lines]
    path.write_bytes(b"\n".join(changed))
    refusal(path, BadGeometryError, "does not say where its voxels lie")
