"""Compressed frames without their end marker: read where all pixels are there, refused where they are cut off."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended

from monai_rd.dicom import load_series
from monai_rd.errors import StudyError
from tests.dicom_files import make_series

SHAPE = (61, 67)  # of which no codec's blocks are a multiple
LOSSLESS, BASELINE, EXTENDED = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"


def image(seed: int, bits: int) -> np.ndarray:
    """Waves and noise above a flat lower third, as below a patient."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    waves = 0.5 + 0.2 * np.sin(x / 5) + 0.2 * np.cos(y / 7) + np.random.default_rng(seed).normal(0, 0.02, SHAPE)
    waves[2 * SHAPE[0] // 3 :] = 0
    return (waves.clip(0, 1) * ((1 << bits) - 1)).astype("u1" if bits == 8 else "u2")


def pillow(grey: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(grey).save(target, kind, **options)
    return target.getvalue()


# Name: transfer syntax, bits, how to encode.
CODECS: dict[str, tuple[str, int, Callable[[np.ndarray], bytes]]] = {
    "baseline": (BASELINE, 8, pillow),
    "baseline with restarts": (BASELINE, 8, lambda a: pillow(a, restart_marker_blocks=5)),
    "progressive": ("1.2.840.10008.1.2.4.55", 8, lambda a: pillow(a, progressive=True)),
    "extended": (EXTENDED, 12, lambda a: imagecodecs.jpeg8_encode(a, level=90, bitspersample=12)),
    "lossless": (LOSSLESS, 12, lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=12)),
    "lossless of 16 bits": (LOSSLESS, 16, lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16)),
    "JPEG-LS": ("1.2.840.10008.1.2.4.80", 12, imagecodecs.jpegls_encode),
    "JPEG 2000": (
        "1.2.840.10008.1.2.4.90",
        12,
        lambda a: imagecodecs.jpeg2k_encode(a, codecformat="J2K", level=0, reversible=True),
    ),
    "JPEG 2000 in tiles": (
        "1.2.840.10008.1.2.4.90",
        12,
        lambda a: pillow(a, "JPEG2000", no_jp2=True, tile_size=(32, 32)),
    ),
}
if getattr(getattr(imagecodecs, "HTJ2K", None), "available", False):  # not in those for Python 3.10
    htj2k = ("1.2.840.10008.1.2.4.201", 12, lambda a: imagecodecs.htj2k_encode(a, reversible=True))
    CODECS["HTJ2K"] = htj2k


def frames_of(codec: str, count: int = 1) -> list[bytes]:
    _, bits, encode = CODECS[codec]
    frames = [bytes(encode(image(seed, bits))) for seed in range(count)]
    assert all(frame.endswith(b"\xff\xd9") for frame in frames)
    return frames


def fragments(codec: str, frames: list[bytes], layout: str) -> dict[str, bytes]:
    """Write frames as one fragment each, or as several without a table, or with one of either kind."""
    if layout == "extended offset table":
        data, offsets, lengths = encapsulate_extended(frames)
        return {"PixelData": data, "ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
    count = 3 if layout.startswith("fragments") else 1
    return {"PixelData": encapsulate(frames, fragments_per_frame=count, has_bot=layout.endswith("with a table"))}


def load(path: Path, codec: str, frames: list[bytes], layout: str = "one fragment") -> np.ndarray:
    syntax, bits, _ = CODECS[codec]

    def change(k: int, ds: Dataset) -> None:
        del ds.ImagePositionPatient, ds.WindowCenter, ds.PixelData
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8 if bits == 8 else 16, bits, bits - 1, 0
        ds.NumberOfFrames, ds.file_meta.TransferSyntaxUID = len(frames), syntax
        for keyword, value in fragments(codec, frames, layout).items():
            setattr(ds, keyword, value)
        ds["PixelData"].is_undefined_length = True

    path.mkdir()
    make_series(path, slices=1, shape=SHAPE, modality="XA", rescale=None, change=change)
    return load_series(path).array


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("end", [b"", b"\xff", b"\xff\xd9" + bytes(5)], ids=["none", "half", "bytes behind it"])
def test_a_frame_that_lacks_its_end_marker(codec: str, end: bytes, tmp_path: Path) -> None:
    """Of even and odd numbers of bytes: a zero makes them even."""
    frames = frames_of(codec, 4)
    others = [frame[:-2] + end for frame in frames]
    np.testing.assert_array_equal(load(tmp_path / "other", codec, others), load(tmp_path / "whole", codec, frames))


@pytest.mark.parametrize("codec", ["baseline", "lossless", "JPEG-LS", "JPEG 2000"])
@pytest.mark.parametrize(
    "layout", ["one fragment", "fragments", "fragments with a table", "one with a table", "extended offset table"]
)
@pytest.mark.parametrize("count", [1, 3])
def test_fragments_and_tables(codec: str, layout: str, count: int, tmp_path: Path) -> None:
    frames = frames_of(codec, count)
    whole = load(tmp_path / "whole", codec, frames, layout)
    assert whole.shape[3] == count
    lacking = [frame[:-2] for frame in frames]
    np.testing.assert_array_equal(load(tmp_path / "other", codec, lacking, layout), whole)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("lost", [0.01, 0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("filled", [False, True])
def test_a_frame_that_is_cut_off(codec: str, lost: float, filled: bool, tmp_path: Path) -> None:
    """Also where zeros fill the file up to the size that it should have."""
    (frame,) = frames_of(codec)
    cut = max(5, int(lost * len(frame)))
    with pytest.raises(StudyError) as caught:
        load(tmp_path / "cut", codec, [frame[:-cut] + bytes(cut if filled else 0)])
    assert caught.value.code in ("TRUNCATED_PIXELS", "UNREADABLE_PIXELS")


@pytest.mark.parametrize("codec", ["baseline with restarts", "progressive", "JPEG 2000 in tiles"])
def test_a_frame_that_is_cut_off_between_its_parts(codec: str, tmp_path: Path) -> None:
    """Where a restart interval, a scan or a tile ends, so that no code is broken off."""
    (frame,) = frames_of(codec)
    marker = {"baseline with restarts": b"\xff\xd2", "progressive": b"\xff\xda", "JPEG 2000 in tiles": b"\xff\x90"}
    with pytest.raises(StudyError) as caught:
        load(tmp_path / "cut", codec, [frame[: frame.rfind(marker[codec])]])
    assert caught.value.code in ("TRUNCATED_PIXELS", "UNREADABLE_PIXELS")
