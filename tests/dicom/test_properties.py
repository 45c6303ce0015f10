"""Generated series: whatever their geometry, storage and order, the volume equals the truth or has the right code."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from monai_rd.dicom import load_series
from monai_rd.errors import DicomSeriesError, Policy, StudyError
from tests.dicom_files import COLUMNS, ROWS, make_series

PIXELS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
AXES = st.sampled_from([(1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, -1, 0)])


@st.composite
def orientations(draw: st.DrawFn) -> tuple[float, ...]:
    """Along the axes, or turned by any three angles; as written, with 8 digits."""
    if draw(st.booleans()):
        return tuple(map(float, draw(AXES)))
    a, b, c = (draw(st.floats(-np.pi, np.pi)) for _ in range(3))
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    return tuple(round(float(v), 8) for v in (*turn[:, 0], *turn[:, 1]))


@dataclass
class Case:
    """A series on disk and what it is."""

    folder: Path
    uid: str
    stored: np.ndarray
    geometry: dict


@st.composite
def geometries(draw: st.DrawFn, least: int = 1) -> dict:
    mm = st.floats(0.2, 5).map(lambda v: round(v, 4))
    return {
        "slices": draw(st.integers(least, 9)),
        "orientation": draw(orientations()),
        "origin": tuple(draw(st.floats(-400, 400).map(lambda v: round(v, 3))) for _ in range(3)),
        "spacing": (draw(mm), draw(mm)),
        "distance": draw(mm),
        "seed": draw(st.integers(0, 10_000)),
    }


@contextmanager
def series(geometry: dict, **options: object) -> Iterator[Case]:
    folder = Path(tempfile.mkdtemp())
    try:
        uid, stored = make_series(folder, **geometry, **options)
        yield Case(folder, uid, stored, geometry)
    finally:
        shutil.rmtree(folder)


def affine_of(geometry: dict) -> np.ndarray:
    """Voxel (column, row, slice) to RAS, from PS3.3 C.7.6.2.1.1."""
    row, column = np.array(geometry["orientation"][:3]), np.array(geometry["orientation"][3:])
    step = geometry["distance"] if geometry["slices"] > 1 else 3.0  # the slice thickness
    affine = np.eye(4)
    affine[:3] = np.stack(
        [
            row * geometry["spacing"][1],
            column * geometry["spacing"][0],
            np.cross(row, column) * step,
            np.array(geometry["origin"]),
        ],
        axis=1,
    )
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@PIXELS
@given(geometries(), st.randoms(use_true_random=False))
def test_any_geometry_in_any_order(geometry: dict, random: object) -> None:
    with series(geometry) as case:
        files = sorted(case.folder.iterdir())
        random.shuffle(files)  # type: ignore[attr-defined]
        volume = load_series(files)
        np.testing.assert_array_equal(volume.array[0], case.stored.transpose(2, 1, 0) * 2.0 - 1024.0)
        np.testing.assert_allclose(volume.affine, affine_of(geometry), atol=1e-4)


@PIXELS
@given(
    bits=st.sampled_from([(8, 8), (16, 8), (16, 10), (16, 12), (16, 15), (16, 16), (32, 24), (32, 32)]),
    signed=st.booleans(),
    shift=st.booleans(),
    slope=st.sampled_from([1.0, 0.5, 2.0, 1.0009765625, -1.0]),
    intercept=st.integers(-2048, 2048),
    seed=st.integers(0, 10_000),
)
def test_any_storage_and_rescale(
    bits: tuple[int, int], signed: bool, shift: bool, slope: float, intercept: int, seed: int
) -> None:
    """Signed or not, any number of bits, at the bottom or the top of the word with rubbish in the others."""
    allocated, used = bits
    low, high = (-(1 << (used - 1)), (1 << (used - 1)) - 1) if signed else (0, (1 << used) - 1)
    random = np.random.default_rng(seed)
    truth = random.integers(low, high, (2, ROWS, COLUMNS), endpoint=True)
    unused = allocated - used
    lift = unused if shift else 0
    rubbish = random.integers(0, 1 << unused, truth.shape) if unused and not signed else np.zeros_like(truth)
    words = (truth & ((1 << used) - 1)) << lift | (rubbish if shift else rubbish << used)
    if signed and not shift:
        words = truth & ((1 << allocated) - 1)  # sign-extended, as scanners write it

    def store(k: int, ds: Dataset) -> None:
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, used, used - 1 + lift
        ds.PixelRepresentation = int(signed)
        ds.PixelData = words[k].astype(f"<u{allocated // 8}").tobytes()

    geometry = {"slices": 2, "orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "seed": seed}
    with series(geometry, change=store, rescale=(slope, intercept)) as case:
        expected = (truth * slope + intercept).astype(np.float32)
        np.testing.assert_allclose(load_series(case.folder).array[0], expected.transpose(2, 1, 0), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("numbers", [range(120), pytest.param(range(120, 1000), marks=pytest.mark.slow)], ids=str)
def test_any_pixel_element_gives_an_image_or_a_code(numbers: range, tmp_path: Path) -> None:
    """Attributes that no scanner writes together, in all word orders: values as announced, or an error of ours."""
    for number in numbers:
        (folder := tmp_path / str(number)).mkdir()
        try:
            image_or_code(number, folder)
        except Exception as error:
            raise AssertionError(f"number {number}") from error
        shutil.rmtree(folder)


def image_or_code(number: int, folder: Path) -> None:
    """Write the series of a number, and read it."""
    dice, noise = random.Random(number), np.random.default_rng(number)

    def pick(usual: Any, *others: Any) -> Any:
        return usual if dice.random() < 0.8 else dice.choice((usual, *others))

    floats = dice.choice((("FloatPixelData",), ("DoubleFloatPixelData",), ("PixelData", "FloatPixelData"), ()))
    elements, empty = dice.choice((("PixelData",), ("PixelData",), floats)), pick(False, True)
    allocated = dice.choice((1, 8, 8, 12, 16, 16, 24, 32, 64, pick(16, 0, 40, 65)))
    colour = dice.choice(("MONOCHROME2", "MONOCHROME2", "MONOCHROME1", "RGB", "YBR_FULL"))
    frames, samples = dice.choice((1, 1, 2, 3)), pick(3 if colour in ("RGB", "YBR_FULL") else 1, 0, 1, 2, 3, 4, 5)
    modality = dice.choice(("CT", "MR", "PT", "NM", "CR", "US")) if samples == 1 else "US"
    if modality in ("CT", "MR", "PT", "NM"):
        frames = pick(1, 2)

    def content(keyword: str) -> bytes:
        if empty:
            return b""
        if keyword == "PixelData":
            return noise.bytes((ROWS * COLUMNS * frames * samples * allocated // 8 + pick(1, 0, -1, 2, 100)) // 2 * 2)
        values = noise.normal(0, pick(1, 1e6, 1e38), ROWS * COLUMNS * frames * max(samples, 1))
        values[0] = pick(0, 0, np.nan, np.inf)
        return values.clip(-3e38, 3e38).astype("<f4" if keyword == "FloatPixelData" else "<f8").tobytes()

    def change(k: int, ds: Dataset) -> None:
        ds.BitsAllocated, ds.BitsStored = allocated, pick(allocated, 1, 8, 12, 0, 70)
        ds.HighBit = pick(max(0, ds.BitsStored - 1), 0, 7, 15)
        ds.SamplesPerPixel, ds.PlanarConfiguration, ds.PixelRepresentation = samples, dice.choice((0, 1)), pick(0, 1)
        ds.PhotometricInterpretation = pick(colour, "YBR_FULL_422", "YBR_RCT", "PALETTE COLOR", "HSV", "")
        ds.NumberOfFrames, ds.PixelPaddingValue = frames, dice.choice((0, 3, 30000))
        ds.RescaleSlope, ds.RescaleIntercept = pick("1", "0", "-2.5", "1e300", "1e-300"), pick("0", "-1e38")
        absent = ["ImagePositionPatient"] if modality in ("CR", "US") else []
        odd = ("NumberOfFrames", "PixelPaddingValue", "WindowCenter", "BitsStored", "HighBit", "RescaleSlope")
        for keyword in [*absent, *(keyword for keyword in odd if pick(False, True))]:
            del ds[keyword]
        del ds.PixelData
        for keyword in elements:
            setattr(ds, keyword, content(keyword))
            if keyword == "PixelData":
                ds[keyword].VR = pick("OW", "OW", "OB", "UN", "OV")
        if not elements:
            ds.PixelDataProviderURL = "http://localhost/pixels"

    slices = dice.choice((1, 2)) if modality in ("CT", "MR", "PT", "NM") else 1
    make_series(folder, slices=slices, modality=modality, change=change)
    implicit, little = dice.choice(((False, True), (False, False), (True, True)))
    syntaxes = {(False, True): ExplicitVRLittleEndian, (False, False): ExplicitVRBigEndian}
    for file in folder.iterdir():
        ds = pydicom.dcmread(file)
        ds.decode()
        ds.file_meta.TransferSyntaxUID = syntaxes.get((implicit, little), ImplicitVRLittleEndian)
        pydicom.dcmwrite(file, ds, implicit_vr=implicit, little_endian=little, force_encoding=True)
    try:
        volume = load_series(folder, policy=Policy({"NO_HOUNSFIELD": "warn"}), window=pick(True, False))
    except StudyError:
        return
    assert np.isfinite(volume.array).all()
    assert volume.array.shape[1:3] == (COLUMNS, ROWS)


@PIXELS
@given(geometries(least=4), st.data())
def test_one_slice_removed(geometry: dict, data: st.DataObject) -> None:
    gone = data.draw(st.integers(1, geometry["slices"] - 2))
    with series(geometry, skip=(gone,)) as case, pytest.raises(DicomSeriesError) as caught:
        load_series(case.folder)
    assert caught.value.code == "MISSING_SLICES"
    assert caught.value.series_uid == case.uid


@PIXELS
@given(geometries(least=1), st.data())
def test_one_slice_doubled(geometry: dict, data: st.DataObject) -> None:
    """The same image again, as a copy of the file or as an image of its own at the same place."""
    which = data.draw(st.integers(0, geometry["slices"] - 1))
    new_uid = data.draw(st.booleans())
    with series(geometry) as case:
        file = sorted(case.folder.iterdir())[which]
        again = pydicom.dcmread(file)
        if new_uid:
            again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        again.InstanceNumber = 1000
        again.save_as(case.folder / "again.dcm")
        with pytest.raises(DicomSeriesError) as caught:
            load_series(case.folder)
        assert (caught.value.code, caught.value.series_uid) == ("DUPLICATE_SLICES", case.uid)
        volume = load_series(case.folder, policy=Policy({"DUPLICATE_SLICES": "warn"}))
        np.testing.assert_array_equal(volume.array[0], case.stored.transpose(2, 1, 0) * 2.0 - 1024.0)
        assert volume.tolerated == ("DUPLICATE_SLICES",)


@PIXELS
@given(geometries(least=3), st.floats(0.3, 40), st.floats(-np.pi, np.pi))
def test_a_tilted_gantry(geometry: dict, degrees: float, direction: float) -> None:
    row, column = np.array(geometry["orientation"][:3]), np.array(geometry["orientation"][3:])
    step = geometry["distance"] * (
        np.cross(row, column) + np.tan(np.radians(degrees)) * (np.cos(direction) * row + np.sin(direction) * column)
    )

    def tilt(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = [f"{v:.8f}" for v in np.array(geometry["origin"]) + k * step]

    off = np.tan(np.radians(degrees)) * geometry["distance"] * (geometry["slices"] - 1)
    with series(geometry, change=tilt) as case:
        if off < 0.499 * min(geometry["spacing"]):  # less than half a pixel over the whole stack
            load_series(case.folder)
            return
        if off < 0.501 * min(geometry["spacing"]):
            return
        with pytest.raises(DicomSeriesError) as caught:
            load_series(case.folder)
        assert caught.value.code == "TILTED_STACK"
        volume = load_series(case.folder, policy=Policy({"TILTED_STACK": "warn"}))
        np.testing.assert_array_equal(volume.array[0], case.stored.transpose(2, 1, 0) * 2.0 - 1024.0)
        np.testing.assert_allclose(volume.affine[:3, 2], step * [-1, -1, 1], atol=1e-4)
