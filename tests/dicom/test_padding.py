"""What lies outside the field of view has one value in a whole series; floating-point pixels are read or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_rd.dicom import load_series
from monai_rd.errors import Policy, StudyError
from tests.dicom_files import COLUMNS, ROWS, enhanced, make_series

PADDING, SLICES = -2000, 3
WINDOW = {"WindowCenter": 1500, "WindowWidth": 3000, "VOILUTFunction": "LINEAR_EXACT"}


def padded(path: Path, modality: str, low: Callable[[int], int] = lambda k: 100 * k + 50, **tags: Any) -> np.ndarray:
    """Write slices whose lowest values differ, with padding in their first row; return them, NaN outside."""
    expected = np.empty((SLICES, ROWS, COLUMNS))

    def change(k: int, ds: Dataset) -> None:
        pixels = np.frombuffer(ds.PixelData, np.int16).reshape(ROWS, COLUMNS) + low(k)
        expected[k] = pixels
        pixels[0, :3], expected[k, 0, :3] = PADDING, np.nan
        ds.PixelData, ds.PixelPaddingValue = pixels.astype(np.int16).tobytes(), PADDING
        for keyword, value in tags.items():
            setattr(ds, keyword, value)

    make_series(path, slices=SLICES, modality=modality, rescale=(2.0, 10.0), change=change)
    return expected * 2 + 10


def slices_of(source: Path, **options: Any) -> np.ndarray:
    return load_series(source, **options).array[0].transpose(2, 1, 0)


@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_of_mr_in_a_window_is_black(tmp_path: Path, photometric: str, multi_frame: bool) -> None:
    source = tmp_path / "plain"
    plain = "MONOCHROME2" if multi_frame else photometric  # which the object made of them can change
    expected = (padded(source, "MR", PhotometricInterpretation=plain, **WINDOW) / 3000).clip(0, 1) * 255
    if multi_frame:
        enhanced(source, tmp_path / "enhanced.dcm", PhotometricInterpretation=photometric)
        source = tmp_path / "enhanced.dcm"
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_allclose(slices_of(source), np.nan_to_num(expected, nan=0), atol=1e-3)


@pytest.mark.parametrize("modality", ["MR", "PT", "NM"])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_without_a_window_is_the_lowest_value_of_the_series(
    tmp_path: Path, modality: str, photometric: str
) -> None:
    expected = padded(tmp_path, modality, PhotometricInterpretation=photometric)
    if photometric == "MONOCHROME1" and modality == "MR":
        expected = np.nanmin(expected) + np.nanmax(expected) - expected
    found = slices_of(tmp_path, window=False)
    np.testing.assert_array_equal(found, np.where(np.isnan(expected), np.nanmin(expected), expected))
    assert len(set(found[:, 0, :3].ravel())) == 1


def test_padding_of_a_ct_is_air_in_hu_and_the_lowest_value_where_there_are_none(tmp_path: Path) -> None:
    expected = padded(tmp_path / "hu", "CT")
    np.testing.assert_array_equal(slices_of(tmp_path / "hu"), np.nan_to_num(expected, nan=-1024))
    expected = padded(tmp_path / "other", "CT", RescaleType="MGML")
    found = slices_of(tmp_path / "other", policy=Policy({"NO_HOUNSFIELD": "warn"}))
    np.testing.assert_array_equal(found, np.nan_to_num(expected, nan=np.nanmin(expected)))


def test_a_slice_that_is_all_padding(tmp_path: Path) -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.PixelPaddingValue = PADDING
        if k == 1:
            ds.PixelData = np.full((ROWS, COLUMNS), PADDING, np.int16).tobytes()

    _, stored = make_series(tmp_path, slices=3, modality="PT", rescale=None, change=change)
    found = slices_of(tmp_path)
    assert (found[1] == stored[[0, 2]].min()).all()
    np.testing.assert_array_equal(found[[0, 2]], stored[[0, 2]])


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_frames_of_a_picture_share_their_range_and_padding_is_black(tmp_path: Path, photometric: str) -> None:
    frames = np.random.default_rng(0).integers(0, 2000, (3, ROWS, COLUMNS)) + np.array([0, 500, 1500])[:, None, None]
    frames[:, 0, :3] = PADDING

    def change(k: int, ds: Dataset) -> None:
        del ds.ImagePositionPatient, ds.WindowCenter
        ds.NumberOfFrames, ds.PixelData = 3, frames.astype(np.int16).tobytes()
        ds.PixelPaddingValue, ds.PhotometricInterpretation = PADDING, photometric

    make_series(tmp_path, slices=1, modality="XA", rescale=None, change=change)
    inside = np.where(frames == PADDING, np.nan, frames)
    expected = (inside - np.nanmin(inside)) / (np.nanmax(inside) - np.nanmin(inside)) * 255
    expected = np.nan_to_num(255 - expected if photometric == "MONOCHROME1" else expected, nan=0)
    np.testing.assert_allclose(slices_of(tmp_path), expected, atol=1e-3)


def test_an_empty_padding_value_is_none(tmp_path: Path) -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.PixelPaddingValue = None

    _, stored = make_series(tmp_path, rescale=(1.0, 0.0), change=change)
    np.testing.assert_array_equal(slices_of(tmp_path), stored)


# ---------------------------------------------------------------------------------------- floating-point pixels


def floats(path: Path, size: int, modality: str, values: np.ndarray, **tags: Any) -> None:
    """Write slices of floating-point pixels, as parametric maps have them."""

    def change(k: int, ds: Dataset) -> None:
        content = values[k].astype(f"<f{size}").tobytes()
        del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.WindowCenter, ds.WindowWidth
        ds.BitsAllocated, ds.SOPClassUID = 8 * size, "1.2.840.10008.5.1.4.1.1.30"
        setattr(ds, "FloatPixelData" if size == 4 else "DoubleFloatPixelData", content)
        for keyword, value in tags.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)

    make_series(path, slices=len(values), modality=modality, rescale=None, change=change)


def noise(slices: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 50, (slices, ROWS, COLUMNS)).astype(np.float32)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_floating_point_volumes(tmp_path: Path, size: int, modality: str) -> None:
    floats(tmp_path, size, modality, noise(), RescaleSlope="0.5", RescaleIntercept="3")
    volume = load_series(tmp_path)
    np.testing.assert_allclose(volume.array[0].transpose(2, 1, 0), noise() * 0.5 + 3, rtol=1e-6)
    assert volume.intensity == ("HU" if modality == "CT" else "arbitrary")


@pytest.mark.parametrize("size", [4, 8])
def test_floating_point_pictures(tmp_path: Path, size: int) -> None:
    floats(tmp_path, size, "OT", noise(1), ImagePositionPatient=None)
    expected = (noise(1) - noise(1).min()) / np.ptp(noise(1)) * 255
    np.testing.assert_allclose(slices_of(tmp_path), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["number", "range", "not a number"])
@pytest.mark.parametrize("size", [4, 8])
def test_padding_of_floating_point_pixels(tmp_path: Path, size: int, kind: str) -> None:
    values, name = noise(), ("Float" if size == 4 else "DoubleFloat") + "PixelPadding"
    values[:, 0, :3] = np.nan if kind == "not a number" else -9999.5
    tags = {f"{name}Value": float(values[0, 0, 0])}
    if kind == "range":
        values[:, 0, 0] = -1e6
        tags[f"{name}RangeLimit"] = -2e6
    floats(tmp_path, size, "MR", values, **tags)
    values[:, 0, :3] = np.nan
    np.testing.assert_allclose(slices_of(tmp_path), np.nan_to_num(values, nan=np.nanmin(values)), rtol=1e-6)


@pytest.mark.parametrize("modality", ["MR", "OT"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e200])
def test_floating_point_pixels_that_are_no_numbers(tmp_path: Path, wrong: float, modality: str) -> None:
    values = noise(1).astype(float)
    values[0, 2, 2:4] = wrong
    floats(tmp_path, 8, modality, values, **({"ImagePositionPatient": None} if modality == "OT" else {}))
    with pytest.raises(StudyError, match=f"2 of {ROWS * COLUMNS} values") as caught:
        load_series(tmp_path)
    assert caught.value.code == "INVALID_VALUES"


def test_several_kinds_of_pixels_in_one_file(tmp_path: Path) -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.FloatPixelData, ds.SOPInstanceUID = noise(1).tobytes(), generate_uid()

    make_series(tmp_path / "two", slices=1, change=change)
    with pytest.raises(StudyError, match="PixelData and FloatPixelData"):
        load_series(tmp_path / "two")

    def empty(k: int, ds: Dataset) -> None:
        ds.FloatPixelData = b""

    _, stored = make_series(tmp_path / "one", slices=1, rescale=(1.0, 0.0), change=empty)
    np.testing.assert_array_equal(slices_of(tmp_path / "one"), stored)
