"""Ultrasound: the region that is cropped to, the statistics of speckle, gain."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from scipy import special, stats

from monai_rd.dicom.header import Region
from monai_rd.errors import EmptyImageError, StudyError, UnsupportedImageError, WrongIntensityError
from monai_rd.transforms import LoadImageOrSeriesd, RandGaind, SliceStackd, SpeckleNoised, UltrasoundRegiond
from monai_rd.transforms.us import DYNAMIC_RANGE
from tests.dicom_files import NAME, PATIENT_ID, SHARED, make_series

TISSUE, SPECTRUM, FLOW = (1, 1), (3, 3), (1, 2)


def region(kind: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> Dataset:
    found = Dataset()
    found.RegionSpatialFormat, found.RegionDataType, found.RegionFlags = *kind, 2
    found.RegionLocationMinX0, found.RegionLocationMinY0 = x0, y0
    found.RegionLocationMaxX1, found.RegionLocationMaxY1 = x1, y1
    return found


def scan(folder: Path, *regions: Dataset, frames: int = 1, shape: tuple[int, int] = (30, 40)) -> np.ndarray:
    """Write an ultrasound with its regions; return its pixels [frames, rows, columns]."""
    pixels = np.random.default_rng(0).integers(1, 255, (frames, *shape), dtype=np.uint8)

    def as_ultrasound(k: int, ds: Dataset) -> None:
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.WindowCenter, ds.WindowWidth
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.NumberOfFrames, ds.PixelData = frames, pixels.tobytes()
        if regions:
            ds.SequenceOfUltrasoundRegions = Sequence(regions)

    make_series(folder, slices=1, modality="US", rescale=None, shape=shape, change=as_ultrasound)
    return pixels


def cropped(source: Path) -> MetaTensor:
    return UltrasoundRegiond("image")(LoadImageOrSeriesd("image")({"image": source}))["image"]


# ------------------------------------------------------------------------------------------------------- region


def test_the_largest_tissue_region_is_taken_exactly(tmp_path: Path) -> None:
    """A larger spectrum, a larger flow region and a smaller second view are others."""
    others = [region(SPECTRUM, 0, 0, 39, 29), region(FLOW, 0, 0, 39, 28), region(TISSUE, 30, 2, 33, 5)]
    pixels = scan(tmp_path, *others, region(TISSUE, 5, 3, 24, 17))
    image = cropped(tmp_path)
    np.testing.assert_array_equal(image.numpy()[0], pixels[0, 3:18, 5:25].T)
    assert image.meta["intensity"] == "display"
    for secret in ("regions", *NAME.split("^"), PATIENT_ID):
        assert secret not in str(image.meta)


def test_a_region_one_beyond_the_last_pixel_ends_there(tmp_path: Path) -> None:
    pixels = scan(tmp_path, region(TISSUE, 10, 10, 40, 30))
    np.testing.assert_array_equal(cropped(tmp_path).numpy()[0], pixels[0, 10:, 10:].T)


@pytest.mark.parametrize(("slices", "expected"), [(1, [5]), (5, [1, 3, 5, 7, 9])])
def test_frames_of_a_cine_are_spread_evenly(slices: int, expected: list[int], tmp_path: Path) -> None:
    pixels = scan(tmp_path, region(TISSUE, 5, 3, 24, 17), frames=10)
    stack = SliceStackd("image", slices)({"image": cropped(tmp_path)})["image"]
    np.testing.assert_array_equal(stack.numpy(), pixels[expected, 3:18, 5:25])


def test_the_loader_tells_the_regions_as_numbers(tmp_path: Path) -> None:
    damaged = region(TISSUE, 1, 1, 9, 9)
    del damaged.RegionLocationMaxX1
    scan(tmp_path, region(SPECTRUM, 0, 20, 39, 29), damaged, region(TISSUE, 5, 3, 24, 17))
    meta = LoadImageOrSeriesd("image")({"image": tmp_path})["image"].meta
    assert meta["regions"] == (Region(3, 3, 0, 20, 39, 29), Region(1, 1, 5, 3, 24, 17))


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ([region(SPECTRUM, 0, 0, 39, 29)], "without a 2D tissue region"),
        ([region(TISSUE, 7, 7, 7, 20)], "without a 2D tissue region"),
        ([region(TISSUE, 5, 3, 79, 59)], "does not lie in the image"),
    ],
)
def test_regions_that_show_no_image_are_refused(regions: list[Dataset], said: str, tmp_path: Path) -> None:
    scan(tmp_path, *regions)
    with pytest.raises(UnsupportedImageError, match=said) as caught:
        cropped(tmp_path)
    assert caught.value.series_uid


def plain(values: np.ndarray, **meta: str) -> dict[str, MetaTensor]:
    """An image [rows, columns] as loaded."""
    return {"image": MetaTensor(torch.from_numpy(values.T.copy()).float()[None], meta={"intensity": "display", **meta})}


def screen(sector: np.ndarray) -> np.ndarray:
    """A screen of 240 x 320 with an image at rows 40 to 199 and columns 60 to 259, letters and a mark beside it."""
    shown = np.zeros((240, 320))
    shown[40:200, 60:260] = sector
    for row, column in ((5, 5), (15, 5), (222, 200), (100, 290)):  # lines of letters of 7 x 5 pixels, strokes of 1
        for letter in range(4):
            shown[row : row + 7, column + 6 * letter] = 255
            shown[row + 3, column + 6 * letter : column + 6 * letter + 4] = 255
    shown[5:30, 285:315] = 200  # the mark of a manufacturer
    return shown


def test_an_image_without_regions_is_cropped_to_what_is_not_black(caplog: pytest.LogCaptureFixture) -> None:
    sector = np.random.default_rng(0).gamma(2, 40, (160, 200)).clip(0, 255)
    found = UltrasoundRegiond("image")(plain(screen(sector)))["image"]
    assert np.abs(np.array(found.shape) - [1, 200, 160]).max() <= 4
    assert not caplog.records
    np.testing.assert_allclose(found.affine[:2, 3], [60, 40], atol=2)
    with caplog.at_level(logging.WARNING):
        UltrasoundRegiond("image")(plain(screen(sector), modality="US", series_uid="1.2.3"))
    assert "Series 1.2.3: no ultrasound regions; cropped to what is not black" in caplog.text


def test_an_image_without_borders_stays_as_it_is() -> None:
    whole = np.random.default_rng(0).gamma(3, 40, (160, 200)).clip(0, 255)
    whole[60:90, 80:120] = 0  # a cyst
    found = UltrasoundRegiond("image")(plain(whole))["image"]
    np.testing.assert_array_equal(found.numpy()[0].T, whole.astype(np.float32))


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (plain(np.zeros((40, 40))), EmptyImageError, "shows nothing"),
        (plain(np.ones((40, 40)) * 99, modality="CT"), WrongIntensityError, "'CT' was given where US is expected"),
        ({"image": MetaTensor(torch.rand(1, 9, 9), meta={"intensity": "HU"})}, WrongIntensityError, "got 'HU'"),
    ],
)
def test_what_is_no_ultrasound_is_refused(image: dict[str, MetaTensor], error: type[StudyError], said: str) -> None:
    with pytest.raises(error, match=said):
        UltrasoundRegiond("image")(image)


def test_published_files() -> None:
    """Of pydicom's own, two were made smaller after their regions were written; one has none."""
    for name in ("examples_ybr_color.dcm", "examples_palette.dcm"):
        with pytest.raises(UnsupportedImageError, match="scaled or cropped after the region was written"):
            cropped(Path(get_testdata_file(name)))
    found = cropped(Path(get_testdata_file("examples_jpeg2k.dcm")))  # tissue at rows 110 to 335, letters around
    assert 90 <= -found.affine[1, 3] <= 110
    assert 220 <= found.shape[2] <= 245


def test_a_published_file_with_its_region() -> None:
    file = SHARED / "dicom" / "ct_14_transfer_syntaxes" / "testImages" / "US-YBR_FULL_422-EVRLE.dcm"
    if not file.is_file():
        pytest.skip("the published DICOM files are not here; the project does not ship them")
    whole = LoadImageOrSeriesd("image")({"image": file})["image"]
    assert torch.equal(cropped(file).as_tensor(), whole.as_tensor()[:, 184:, 75:])
    assert cropped(file).shape == (3, 616, 480)


# ------------------------------------------------------------------------------------------------- random changes

GREY = torch.full((4, 256, 256), 0.5)


@pytest.mark.parametrize("looks", [1, 4])
@pytest.mark.parametrize("grain", [0.0, 1.0])
def test_speckle_follows_its_model(looks: int, grain: float) -> None:
    noise = SpeckleNoised("image", (looks, looks), grain, prob=1)
    noise.set_random_state(3)
    offset = DYNAMIC_RANGE * (noise({"image": GREY})["image"].numpy() - 0.5)  # dB
    unit = 10 / np.log(10)
    assert abs(offset.mean() - unit * (special.digamma(looks) - np.log(looks))) < 0.05 * (1 + 3 * grain)
    assert abs(offset.std() / (unit * np.sqrt(special.polygamma(1, looks))) - 1) < 0.02 * (1 + grain)
    intensity = 10 ** (offset[0].ravel()[:: 1 if grain == 0 else 37] / 10)
    assert stats.kstest(intensity, stats.gamma(looks, scale=1 / looks).cdf).pvalue > 1e-3
    neighbours = np.corrcoef(offset[:, :, 1:].ravel(), offset[:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.02 if grain == 0 else neighbours > 0.4
    assert abs(np.corrcoef(offset[0].ravel(), offset[1].ravel())[0, 1]) < 0.05  # other in each slice


def test_one_look_has_the_textbook_spread() -> None:
    """Fully developed speckle after logarithmic compression: 5.57 dB."""
    noise = SpeckleNoised("image", (1, 1), 0, prob=1)
    noise.set_random_state(0)
    assert abs(DYNAMIC_RANGE * float(noise({"image": GREY})["image"].std()) - 5.57) < 0.05


@pytest.mark.parametrize("transform", [SpeckleNoised("image", prob=1), RandGaind("image", prob=1)])
def test_what_is_black_stays_black_and_the_range_is_kept(transform: SpeckleNoised | RandGaind) -> None:
    stack = torch.rand(3, 32, 32)
    stack[:, :, :5] = 0
    transform.set_random_state(1)
    found = transform({"image": stack})["image"].as_tensor()
    assert (found[:, :, :5] == 0).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, stack)
    transform.set_random_state(1)
    assert torch.equal(transform({"image": stack})["image"].as_tensor(), found)


def test_gain_depends_on_depth_only() -> None:
    gain = RandGaind("image", gain=5, depth_gain=3, prob=1)
    spreads = []
    for seed in range(20):
        gain.set_random_state(seed)
        offset = DYNAMIC_RANGE * (gain({"image": GREY[:, :64, :16]})["image"].numpy() - 0.5)
        np.testing.assert_allclose(offset, np.broadcast_to(offset[:1, :, :1], offset.shape), atol=1e-4)
        assert np.abs(offset).max() <= 8 + 1e-3
        bends = np.abs(np.diff(offset[0, :, 0], n=2)) > 1e-3  # straight between 6 sliders
        assert bends.sum() <= 8
        spreads.append(np.ptp(offset[0, :, 0]))
    assert 1 < np.mean(spreads) < 6


@pytest.mark.parametrize(("looks", "grain"), [((0, 4), 1.0), ((4, 2), 1.0), ((1, 2), -1.0)])
def test_impossible_speckle_is_refused(looks: tuple[int, int], grain: float) -> None:
    with pytest.raises(ValueError, match="are needed, got"):
        SpeckleNoised("image", looks, grain)
