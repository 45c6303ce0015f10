"""Stored pixels and tables in every word order: a big-endian file gives what its little-endian twin gives."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

from monai_rd.dicom import load_series

ROWS, COLUMNS = 7, 9  # an odd number of bytes in a frame
RANDOM = np.random.default_rng(0)


def write(
    path: Path, pixels: bytes, vr: str = "OW", tables: dict[str, tuple[str, Any]] | None = None, **tags: Any
) -> None:
    """Write a picture, grey and of 8 bits unless the tags say otherwise, in Explicit VR Little Endian."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality, ds.PatientID = generate_uid(), generate_uid(), "US", "1"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = ROWS, COLUMNS, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    for keyword, (kind, value) in (tables or {}).items():
        setattr(ds, keyword, value)
        ds[keyword].VR = kind
    ds.PixelData = pixels + bytes(len(pixels) % 2)
    ds["PixelData"].VR = vr
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)


def to_big_endian(source: Path, target: Path) -> None:
    """Turn the words round, as PS3.5 6.2 says for each VR, and write in Explicit VR Big Endian."""

    def turn(ds: Dataset) -> None:
        for element in ds:
            if element.VR == "SQ":
                for item in element.value:
                    turn(item)
            elif element.VR in ("OW", "OF", "OD"):
                size = {"OW": 2, "OF": 4, "OD": 8}[element.VR]
                element.value = np.frombuffer(element.value, f"<u{size}").byteswap().tobytes()

    ds = dcmread(source)
    turn(ds)
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dcmwrite(target, ds, implicit_vr=False, little_endian=False, force_encoding=True)


def by_dcmtk(source: Path, target: Path) -> None:
    if not shutil.which("dcmconv"):
        pytest.skip("dcmtk is not installed")
    subprocess.run(["dcmconv", "+tb", source, target], check=True, capture_output=True)


def grey(array: np.ndarray, bits: int) -> np.ndarray:
    return array / ((1 << bits) - 1) * 255


def eight_bits(path: Path, frames: int = 1, bits: int = 8) -> np.ndarray:
    array = RANDOM.integers(0, 1 << bits, (frames, ROWS, COLUMNS), dtype=np.uint8)
    write(path, array.tobytes(), NumberOfFrames=frames, BitsStored=bits, HighBit=bits - 1)
    return grey(array[None], bits)


def in_bytes(path: Path) -> np.ndarray:
    array = RANDOM.integers(0, 256, (1, ROWS, COLUMNS), dtype=np.uint8)
    write(path, array.tobytes(), "OB")
    return array[None].astype(float)


def colours(path: Path, planar: int) -> np.ndarray:
    array = RANDOM.integers(0, 256, (3, 2, ROWS, COLUMNS), dtype=np.uint8)
    order = (1, 0, 2, 3) if planar else (1, 2, 3, 0)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": planar}
    write(path, array.transpose(order).tobytes(), NumberOfFrames=2, **tags)
    return array.astype(float)


def chroma_of_two(path: Path) -> np.ndarray:
    luma = RANDOM.integers(0, 256, (ROWS, 10), dtype=np.uint8)
    pairs = np.full((ROWS, 5, 4), 128, np.uint8)  # without colour
    pairs[..., :2] = luma.reshape(ROWS, 5, 2)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422", "PlanarConfiguration": 0, "Columns": 10}
    write(path, pairs.tobytes(), **tags)
    return np.broadcast_to(luma, (3, 1, ROWS, 10)).astype(float)


def deep(path: Path, bits: int) -> np.ndarray:
    """More or fewer bits than a word or a byte, without gaps."""
    array = RANDOM.integers(0, 1 << min(bits, 31), (2, ROWS, COLUMNS)).astype("<u8")
    packed = np.unpackbits(array.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")[:, :bits]
    tags = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "NumberOfFrames": 2}
    tags |= {"WindowCenter": 1 << (bits - 1), "WindowWidth": 1 << bits, "VOILUTFunction": "LINEAR_EXACT"}
    write(path, np.packbits(packed.ravel(), bitorder="little").tobytes(), **tags)
    return (array / (1 << bits) * 255)[None]


def palette(path: Path, size: int, count: int, segmented: bool = False) -> np.ndarray:
    indices = RANDOM.integers(0, min(count, 256), (1, ROWS, COLUMNS), dtype=np.uint8)
    table = RANDOM.integers(0, 1 << (8 * size), (3, count)).astype(f"<u{size}")
    if segmented:  # three entries listed, the rest along a line, but for the first of all once more
        table[:, 3:-3] = np.rint(np.linspace(table[:, 2], table[:, -4], count - 5)[1:]).T
        table[:, -3:] = table[:, :3]
    tables: dict[str, tuple[str, Any]] = {}
    for colour, values in zip(("Red", "Green", "Blue"), table, strict=True):
        name = f"{colour}PaletteColorLookupTable"
        tables[f"{name}Descriptor"] = ("US", [count, 0, 8 * size])
        if segmented:
            again = [2, 1, 0, 0] if size == 2 else [2, 1, 0, 0, 0, 0]
            values = np.array([0, 3, *values[:3], 1, count - 6, values[-4], *again], values.dtype)
        data = values.tobytes()
        tables[("Segmented" if segmented else "") + f"{name}Data"] = ("OW", data + bytes(len(data) % 2))
    write(path, indices.tobytes(), tables=tables, PhotometricInterpretation="PALETTE COLOR")
    return grey(table[:, indices], 8 * size)


def grey_table(path: Path, vr: str, size: int, sequence: str) -> np.ndarray:
    """A VOI or modality LUT of 8- or 16-bit entries, in OW or as numbers in US."""
    array = RANDOM.integers(0, 256, (1, ROWS, COLUMNS), dtype=np.uint8)
    entries = RANDOM.integers(0, 256, 256).astype(f"<u{size}")
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], entries.tobytes()
    if vr == "US":
        table.LUTData = entries.view("<u2").tolist()
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", vr
    write(path, array.tobytes(), **{sequence: Sequence([table])})
    return entries[array][None].astype(float)


CASES: dict[str, Callable[[Path], np.ndarray]] = {
    "8 bits": eight_bits,
    "8 bits, frames of an odd size": lambda path: eight_bits(path, 3),
    "6 of 8 bits": lambda path: eight_bits(path, bits=6),
    "8 bits in OB": in_bytes,
    "RGB": lambda path: colours(path, 0),
    "RGB in planes": lambda path: colours(path, 1),
    "YBR_FULL_422": chroma_of_two,
    **{f"{bits} bits": lambda path, bits=bits: deep(path, bits) for bits in (1, 12, 16, 24, 32, 64)},  # type: ignore[misc]
    "palette of bytes": lambda path: palette(path, 1, 256),
    "palette of an odd number of bytes": lambda path: palette(path, 1, 37),
    "palette of words": lambda path: palette(path, 2, 300),
    "segmented palette of bytes": lambda path: palette(path, 1, 200, segmented=True),
    "segmented palette of words": lambda path: palette(path, 2, 300, segmented=True),
    **{
        f"{sequence} of {8 * size} bits in {vr}": lambda path, a=(vr, size, sequence): grey_table(path, *a)  # type: ignore[misc]
        for vr in ("OW", "US")
        for size in (1, 2)
        for sequence in ("VOILUTSequence", "ModalityLUTSequence")
    },
}


@pytest.mark.parametrize("turned", [None, to_big_endian, by_dcmtk], ids=["little", "big", "big by dcmtk"])
@pytest.mark.parametrize("case", CASES)
def test_pixels_and_tables_in_any_word_order(
    case: str, turned: Callable[[Path, Path], None] | None, tmp_path: Path
) -> None:
    file = tmp_path / "little.dcm"
    expected = CASES[case](file)
    if turned is not None:
        file = tmp_path / "big.dcm"
        turned(tmp_path / "little.dcm", file)
        assert dcmread(file).file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    shown = load_series(file).array.transpose(0, 3, 2, 1)
    np.testing.assert_allclose(shown, expected.astype(float), atol=1e-3)  # of 64 bits: objects
