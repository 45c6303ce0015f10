"""Damaged pictures and volume files: an image or one of our errors, and never a crash, a hang, a gigabyte, a name."""

from __future__ import annotations

import gzip
import io
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from monai_rd.cache.fingerprints import item_key
from monai_rd.images import read_image
from tests.fuzzing import LENGTHS, PATIENT, damaged, outcomes_of, try_all

NUMBERS = (*LENGTHS, 2, 3, 16, 348, 32767, 65535)


def pictures() -> list[tuple[str, bytes]]:
    """Suffix and content: of each format the ways of storing that are read by code of their own."""
    dice = np.random.default_rng(0)
    colours = Image.fromarray(dice.integers(0, 256, (40, 30, 3), np.uint8).repeat(2, 0).repeat(2, 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = (
        *(("PNG", colours.convert(mode), {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        ("PNG", colours, {"exif": exif}),
        *(("JPEG", colours.convert(mode), {}) for mode in ("L", "RGB", "CMYK")),
        *(("JPEG", colours, more) for more in ({"progressive": True}, {"exif": exif})),
        *(("BMP", colours.convert(mode), {}) for mode in ("1", "P", "RGB", "RGBA")),
        *(("TIFF", colours.convert(mode), {}) for mode in ("1", "L", "P", "RGBA", "CMYK")),
        *(("TIFF", colours, {"compression": one}) for one in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        ("TIFF", colours.convert("L"), {"tiffinfo": {262: 0}}),
        ("TIFF", colours, {"big_tiff": True}),
    )
    found = []
    for kind, image, options in made:
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **options)
        found.append((f".{kind.lower()}", buffer.getvalue()))
    return found


def volumes(folder: Path) -> list[tuple[str, bytes]]:
    """NIfTI, to be compressed after the damage or not; MetaImage and NRRD in every storage, with voxels beside too."""
    values = np.random.default_rng(0).integers(-1000, 1000, (9, 8, 7)).astype(np.int16)
    found = []
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for order, dtype in (("<", "i2"), (">", "i2"), ("<", "f8")):
            image = kind(values.astype(order + dtype), np.diag([-1, 1, 2, 1]), kind.header_class(endianness=order))
            image.set_qform(np.diag([-1, 1, 2, 1]), 1)
            image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, PATIENT.encode()))
            found += [(suffix, image.to_bytes()) for suffix in (".nii", ".nii.gz")]
    image = sitk.GetImageFromArray(values)
    folder.mkdir()
    for suffix in (".mha", ".mhd", ".nrrd", ".nhdr"):
        for compressed in (False, True):
            path = folder / f"{PATIENT}{suffix}"
            sitk.WriteImage(image, str(path), compressed)
            found.append((suffix, path.read_bytes()))
    text = f"{' '.join(map(str, values.ravel()))}\n"
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 7 8 9\nencoding: ascii\n\n"
    return [*found, (".nrrd", (header + text).encode())]


def forge(broken: bytearray, dice: random.Random) -> None:
    """Another number in a text header, in the dimensions or type of NIfTI, or in the header of a PNG."""
    words = list(re.finditer(rb"\d+", bytes(broken[:600])))
    if broken[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c") and dice.random() < 0.8:
        place = dice.choice([*range(40, 56, 2), 70, 72, *range(76, 92, 4), 108, 252, 254, *range(256, 328, 4)])
        broken[place : place + 2] = struct.pack(dice.choice("<>") + "H", dice.choice(NUMBERS) & 0xFFFF)
    elif broken[:4] == b"\x89PNG" and dice.random() < 0.8:
        broken[dice.randrange(16, 29)] = dice.randrange(256)
    elif words:
        word = dice.choice(words)
        broken[word.start() : word.end()] = str(dice.choice((*NUMBERS, -1, "nan", "1e30"))).encode()


def with_checksums(content: bytes) -> bytes:
    """A damaged PNG whose chunks have the checksums of what is in them, so that it is looked at."""
    made, place = bytearray(content[:8]), 8
    while place + 12 <= len(content):
        length = struct.unpack(">I", content[place : place + 4])[0]
        body = content[place + 4 : place + 8 + length]
        made += content[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return bytes(made)


def attack(folder: Path, first: int, step: int, total: int) -> None:
    """Read every `step`-th of so many damaged files; writes what came of each."""
    originals = [*pictures(), *volumes(folder / "beside")]

    def make(number: int) -> Sequence[Callable[[], object]]:
        dice = random.Random(number)
        suffix, content = originals[number % len(originals)]
        content = damaged(content, dice, forge)
        if suffix == ".png" and dice.random() < 0.5:
            content = with_checksums(content)
        if suffix == ".nii.gz":
            content = gzip.compress(content)
        if suffix == ".nii.gz" and dice.random() < 0.2:
            content = damaged(content, dice, forge)
        target = folder / "beside" / f"{PATIENT}{suffix}"
        target.write_bytes(content)
        return (lambda: read_image(target), lambda: item_key(target))

    try_all(folder, range(first, total, step), make)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is told by Linux only")
@pytest.mark.slow
def test_no_damaged_image_does_harm(tmp_path: Path) -> None:
    codes = outcomes_of("tests.images.test_image_fuzz", 2_500, tmp_path)
    for code in ("read", "UNREADABLE_IMAGE", "BAD_GEOMETRY", "INVALID_VALUES", "TOO_LARGE"):
        assert codes[code] > 0, code


def test_seeds_are_readable_before_they_are_damaged(tmp_path: Path) -> None:
    for suffix, content in [*pictures(), *volumes(tmp_path / "beside")]:
        path = tmp_path / "beside" / f"{PATIENT}{suffix}"
        path.write_bytes(content)
        assert np.isfinite(read_image(path).values).all()
