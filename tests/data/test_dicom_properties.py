"""Generated series: whatever their geometry, storage and order, the volume equals the truth or has the right code."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_rd.data.dicom import load_series
from monai_rd.data.errors import DicomSeriesError, Policy
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
