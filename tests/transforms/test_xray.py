"""Radiographs: how they arrive from DICOM, and the borders of the collimator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from scipy import ndimage

from monai_rd.errors import UnsupportedImageError
from monai_rd.transforms import CollimationCropd, DisplayIntensityd, LoadImageOrSeriesd, SliceStackd
from tests.dicom_files import make_series

ROWS, COLUMNS = 240, 200


def body(seed: int = 0) -> np.ndarray:
    """A mask [rows, columns] of a chest that leaves black air at its sides and above its shoulders."""
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    width = 0.75 + 0.12 * np.sin(2.5 * y + seed)
    return np.abs(x) < width * np.clip((y + 1.3) * 1.6, 0.25, 1)


def chest(seed: int = 0) -> np.ndarray:
    """Grey [rows, columns]: soft tissue of 140, a spine of 200, dark lungs of 15, air of 0."""
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    values = np.where(body(seed), 140.0, 0.0)
    values[body(seed) & (np.abs(x) < 0.08)] = 200
    for side in (-0.38, 0.38):
        values[((x - side) / 0.26) ** 2 + (y / 0.6) ** 2 < 1] = 15
    noise = np.random.default_rng(seed).normal(0, 4, values.shape) * (values > 0)
    return (ndimage.gaussian_filter(values, 1.5) + noise).clip(0, 255)


def shuttered(
    values: np.ndarray, border: tuple[int, int, int, int], level: float, degrees: float = 0, corner: int = 0
) -> np.ndarray:
    """Cover a frame of (top, bottom, left, right) pixels, turned and with round corners where asked for."""
    top, bottom, left, right = border
    y, x = np.indices(values.shape) - np.reshape([(ROWS - 1) / 2, (COLUMNS - 1) / 2], (2, 1, 1))
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rows, columns = (ROWS - 1) / 2 + cosine * y - sine * x, (COLUMNS - 1) / 2 + sine * y + cosine * x
    down = np.maximum(top - rows, rows - (ROWS - 1 - bottom)) + corner  # how far beyond the corner's centre
    across = np.maximum(left - columns, columns - (COLUMNS - 1 - right)) + corner
    outside = np.hypot(np.maximum(down, 0), np.maximum(across, 0)) - corner if corner else np.maximum(down, across)
    return np.where(outside <= 1e-6, values, level)


def filled(seed: int = 0) -> np.ndarray:
    """Tissue from edge to edge, with lungs."""
    return np.where(body(seed), chest(seed), 120.0) + np.random.default_rng(seed).normal(0, 4, (ROWS, COLUMNS))


def left_over(values: np.ndarray, most: float = 0.3) -> tuple[int, int, int, int]:
    """How many pixels are cut off at the top, the bottom, the left and the right."""
    image = MetaTensor(torch.from_numpy(values.T.copy()).float()[None])
    found = CollimationCropd("image", most)({"image": image})["image"]
    x, y = (round(abs(float(value))) for value in found.affine[:2, 3])
    return y, values.shape[0] - y - found.shape[2], x, values.shape[1] - x - found.shape[1]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    border=st.tuples(*[st.sampled_from([0, 1, 3, 10, 25, 50])] * 4),
    level=st.sampled_from([0, 255, 60]),
    seed=st.integers(0, 5),
)
def test_borders_are_found_to_the_pixel(border: tuple[int, int, int, int], level: float, seed: int) -> None:
    assume(level != 0 or max(border[2:]) < 50 or sum(border[:2]) < 75)  # see below
    assert left_over(shuttered(filled(seed), border, level)) == border


def test_a_black_border_that_ends_in_a_dark_lung_is_kept() -> None:
    """Where more than half of its edge shows no step, nothing tells it from air."""
    assert left_over(shuttered(filled(1), (25, 50, 3, 50), 0)) == (25, 50, 3, 0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    border=st.tuples(*[st.integers(15, 45)] * 4),
    degrees=st.floats(-2, 2),
    corner=st.sampled_from([0, 10, 20]),
    level=st.sampled_from([0, 255]),
)
def test_turned_and_rounded_borders_are_found_nearly(
    border: tuple[int, int, int, int], degrees: float, corner: int, level: float
) -> None:
    found = left_over(shuttered(filled(), border, level, degrees, corner))
    wedge = np.tan(np.deg2rad(abs(degrees))) * ROWS / 2
    for cut, planted in zip(found, border, strict=True):
        assert planted - 2 - wedge <= cut <= planted + 1 + corner / 4


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 100), shade=st.floats(0.4, 1))
def test_a_chest_without_borders_loses_nothing_of_the_body(seed: int, shade: float) -> None:
    """Dark lungs and black air: whatever is cut off is air."""
    top, bottom, left, right = left_over(chest(seed) * shade)
    kept = np.zeros((ROWS, COLUMNS), bool)
    kept[top : ROWS - bottom, left : COLUMNS - right] = True
    assert not (body(seed) & ~kept).any()
    assert (top, bottom) == (0, 0)


@pytest.mark.parametrize(
    "image",
    [
        filled(),
        np.where(np.hypot(*(np.indices((ROWS, COLUMNS)) - [[[120]], [[100]]])) < 90, 150.0, 0.0),  # a head in the air
        np.linspace(0, 255, ROWS)[:, None] * np.ones((1, COLUMNS)),  # no step anywhere
        np.where(np.hypot(*(np.indices((200, 200)) - 99.5)) < 100, 150.0, 0.0),  # a round mask
        np.zeros((ROWS, COLUMNS)),
        np.random.default_rng(0).uniform(0, 255, (ROWS, COLUMNS)),
    ],
    ids=["tissue", "head", "gradient", "round", "black", "noise"],
)
def test_an_image_without_borders_stays_as_it_is(image: np.ndarray) -> None:
    assert left_over(image) == (0, 0, 0, 0)


def test_no_side_loses_more_than_the_stated_share() -> None:
    wide = shuttered(filled(), (80, 10, 10, 10), 0)
    assert left_over(wide, most=0.3) == (0, 10, 10, 10)
    assert left_over(wide, most=0.35) == (80, 10, 10, 10)
    assert left_over(wide, most=0) == (0, 0, 0, 0)
    nested = shuttered(shuttered(filled(), (90, 0, 0, 0), 0), (40, 0, 0, 0), 255)
    assert left_over(nested, most=0.3) == (40, 0, 0, 0)  # 50 more would be too many
    assert left_over(nested, most=0.4) == (90, 0, 0, 0)


def test_borders_of_two_levels_and_a_marker() -> None:
    values = shuttered(shuttered(filled(), (0, 0, 30, 20), 255), (40, 25, 0, 0), 0)
    values[10:22, 90:100] = 255  # a side marker, on the border
    assert left_over(values) == (40, 25, 30, 20)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0 <= most < 0.5"):
        CollimationCropd("image", 0.5)
    with pytest.raises(UnsupportedImageError, match=r"a volume \[1, 4, 4, 4\]"):
        CollimationCropd("image")({"image": MetaTensor(torch.zeros(1, 4, 4, 4))})


def test_a_monochrome1_radiograph_with_voi_lut_ends_white_on_black(tmp_path: Path) -> None:
    """The VOI LUT first, then the inversion, then the border is black and gone, then 0 to 1."""
    table = np.arange(4096)[::-1] // 16  # reversed once more: high stored values are shown white
    entries = Dataset()
    entries.LUTDescriptor, entries.LUTData = [4096, 0, 8], table.astype("<u2").tobytes()
    entries["LUTDescriptor"].VR, entries["LUTData"].VR = "US", "OW"
    stored = (shuttered(filled(), (20, 10, 30, 40), 0) * 16).clip(0, 4095).astype(np.uint16)

    def radiograph(k: int, ds: Dataset) -> None:
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.WindowCenter, ds.WindowWidth
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.PhotometricInterpretation = 12, 11, 0, "MONOCHROME1"
        ds.VOILUTSequence, ds.PixelData = Sequence([entries]), stored.tobytes()

    make_series(tmp_path, slices=1, modality="DX", rescale=None, shape=(ROWS, COLUMNS), change=radiograph)
    item = CollimationCropd("image")(LoadImageOrSeriesd("image")({"image": tmp_path}))
    image = DisplayIntensityd("image", ["CR", "DX"])(SliceStackd("image", 1)(item))["image"]
    expected = (255 - table[stored][20:-10, 30:-40]) / 255
    np.testing.assert_allclose(image.numpy()[0], expected, atol=1e-5)
    spine = image.numpy()[0, :, 70 - 4 : 70 + 4].mean()
    assert spine > image.numpy().mean() + 0.2  # bone is white
