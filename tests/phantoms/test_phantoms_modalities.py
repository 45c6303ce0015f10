"""What the phantoms of each modality have of it: its units, its headers, and the traps of its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from monai_rd.dicom import load_series
from monai_rd.phantoms import MODALITIES, ct, derm, mr, phantom_cohort, us, xray


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """24 studies of each modality."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 8, "validation": 8, "test": 8})
        folder = tmp_path_factory.mktemp("cohorts")
        return {modality: Path(phantom_cohort(folder, modality)) for modality in MODALITIES}


def pictures(cohort: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(cohort.glob("study_*.dcm"))]


# ------------------------------------------------------------------------------------------------------------- CT


def test_ct_is_in_hounsfield_units_and_in_no_order(cohorts: dict[str, Path]) -> None:
    series = load_series(cohorts["ct"] / "study_0003")
    drawn = ct.draw_study(np.random.default_rng([0, 3]), "opacity").image
    # The volume is [1, X, Y, Z]; the drawing [slices, rows, columns].
    assert np.array_equal(series.array[0], drawn.transpose(2, 1, 0))
    assert series.intensity == "HU"
    # Neither file names nor instance numbers follow the geometry.
    headers = [pydicom.dcmread(path) for path in sorted((cohorts["ct"] / "study_0003").iterdir())]
    heights = [header.ImagePositionPatient[2] for header in sorted(headers, key=lambda h: h.InstanceNumber)]
    assert heights != sorted(heights)
    assert heights != sorted(heights, reverse=True)


def test_opacities_show_in_the_density_and_only_where_they_are_said() -> None:
    """The same random draws with and without opacities differ in the slices that `findings` names."""
    for number in range(3):
        clear, opaque = (ct.draw_study(np.random.default_rng([1, number]), label) for label in ct.CLASS_NAMES)
        assert not clear.findings["opacity"].any()
        assert opaque.findings["opacity"].any()
        assert clear.image.shape == (ct.SLICES, 96, 96)
        assert clear.image.min() >= -1024
        assert opaque.image.max() <= 3071


# ------------------------------------------------------------------------------------------------------------- MR


def test_mr_has_a_scale_of_its_own_in_every_study(cohorts: dict[str, Path]) -> None:
    series = [load_series(folder, window=False) for folder in sorted(cohorts["mr"].glob("study_*"))]
    assert {(one.modality, one.intensity, one.array.shape) for one in series} == {
        ("MR", "arbitrary", (1, mr.MATRIX, mr.MATRIX, mr.SLICES))
    }
    brightest = [float(np.percentile(one.array, 99)) for one in series]
    assert max(brightest) > 10 * min(brightest)
    first = [pydicom.dcmread(next(folder.iterdir())) for folder in sorted(cohorts["mr"].glob("study_*"))]
    for keyword in ("WindowCenter", "RescaleSlope"):
        assert 0 < sum(keyword in header for header in first) < len(first)


def test_mr_is_what_was_drawn_up_to_the_scanners_scale(cohorts: dict[str, Path]) -> None:
    read = load_series(cohorts["mr"] / "study_0002", window=False).array[0].transpose(2, 1, 0)
    drawn = mr.draw_study(np.random.default_rng([0, 2]), "no_tumor").image
    assert np.corrcoef(read.ravel(), drawn.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("label", mr.CLASS_NAMES)
def test_tumours_lie_where_their_kind_does(label: str) -> None:
    """Against the same head without a tumour: nothing, inside, at the convexity, in the middle of the base."""
    for number in range(4):
        study = mr.draw_study(np.random.default_rng([7, number]), label)
        assert study.findings["tumour"].any() == (label != "no_tumor")
        if label == "pituitary_tumor":
            assert study.findings["tumour"][:3].any()
            assert not study.findings["tumour"][4:].any()


# ------------------------------------------------------------------------------------------------------------- US


def test_us_regions_hold_the_image_and_leave_the_screen_out(cohorts: dict[str, Path]) -> None:
    for image in pictures(cohorts["us"]):
        (region,) = image.SequenceOfUltrasoundRegions
        assert (region.RegionSpatialFormat, region.RegionDataType) == (1, 1)
        top, left = region.RegionLocationMinY0, region.RegionLocationMinX0
        bottom, right = region.RegionLocationMaxY1, region.RegionLocationMaxX1
        assert (bottom - top + 1, right - left + 1) == (us.MATRIX, us.MATRIX)
        assert 0 < top < bottom < image.Rows - 1
        assert 0 < left < right < image.Columns - 1
        shown = load_series(image.filename).array[0, :, :, 0].T
        inside = shown[top : bottom + 1, left : right + 1]
        drawn = us.draw_study(*_drawn_again(image)).image[0]
        assert np.abs(inside / 255 - drawn).max() < 0.003
        outside = shown.copy()
        outside[top : bottom + 1, left : right + 1] = 0
        assert (outside > 200).sum() > 50  # scales and boxes


def _drawn_again(image: pydicom.Dataset) -> tuple[np.random.Generator, str, int]:
    number = int(image.PatientID.removeprefix("PHANTOM-"))
    random = np.random.default_rng([0, number])
    frames = int(random.integers(3, 6)) if random.random() < 1 / 3 else 1
    return random, us.CLASS_NAMES[number % 3], frames


def test_us_has_cines_and_colours(cohorts: dict[str, Path]) -> None:
    images = pictures(cohorts["us"])
    frames = [int(image.get("NumberOfFrames", 1)) for image in images]
    assert set(frames) <= {1, 3, 4, 5}
    assert 0 < sum(count > 1 for count in frames) < len(images)
    assert {image.PhotometricInterpretation for image in images} == {"MONOCHROME2", "RGB"}
    cine = next(image for image, count in zip(images, frames, strict=True) if count > 1)
    loaded = load_series(cine.filename).array
    assert loaded.shape[-1] == cine.NumberOfFrames
    assert not np.array_equal(loaded[..., 0], loaded[..., 1])


def test_us_lesions_follow_the_rules_of_their_kind() -> None:
    """Behind malignant lesions it is darker than behind benign ones, over many of each."""
    depth = {}
    for label in us.CLASS_NAMES:
        clean = [us.draw_study(np.random.default_rng([3, n]), label).clean[0] for n in range(40)]
        depth[label] = np.mean([picture[60:, 24:72].mean() for picture in clean])
    assert depth["malignant"] + 0.5 < depth["normal"] < depth["benign"]


# ---------------------------------------------------------------------------------------------------------- X-ray


def test_xray_photometrics_and_windows_differ_and_all_show_white_bone(cohorts: dict[str, Path]) -> None:
    images = pictures(cohorts["xray"])
    inverse = [image.PhotometricInterpretation == "MONOCHROME1" for image in images]
    assert 6 <= sum(inverse) <= 18
    tables = ["VOILUTSequence" in image for image in images]
    assert 0 < sum(tables) < len(images)
    assert all(("WindowCenter" in image) != table for image, table in zip(images, tables, strict=True))
    for number, image in enumerate(images):
        shown = load_series(image.filename).array[0, :, :, 0].T
        drawn = xray.draw_study(np.random.default_rng([0, number]), xray.CLASS_NAMES[number % 4]).image[0]
        above, left = image.CollimatorUpperHorizontalEdge, image.CollimatorLeftVerticalEdge
        inside = shown[above : above + xray.MATRIX, left : left + xray.MATRIX]
        assert np.corrcoef(inside.ravel(), drawn.ravel())[0, 1] > 0.97, number


def test_xray_borders_are_black_and_said(cohorts: dict[str, Path]) -> None:
    borders = 0
    for image in pictures(cohorts["xray"]):
        shown = load_series(image.filename).array[0, :, :, 0].T
        inside = np.zeros(shown.shape, dtype=bool)
        inside[
            image.CollimatorUpperHorizontalEdge : image.CollimatorLowerHorizontalEdge - 1,
            image.CollimatorLeftVerticalEdge : image.CollimatorRightVerticalEdge - 1,
        ] = True
        assert inside.sum() == xray.MATRIX**2
        assert (shown[~inside] < 16).all()
        borders += (~inside).any()
    assert borders >= 20


def test_xray_lesions_lie_in_the_lungs_where_their_kind_does() -> None:
    """The same chest with and without: what is added lies low on both sides, on one side, or high."""
    for number in range(6):
        plain, covid, pneumonia, tuberculosis = (
            xray.draw_study(np.random.default_rng([4, number]), label).clean[0]
            for label in ("NORMAL", "COVID19", "PNEUMONIA", "TURBERCULOSIS")
        )
        added = [np.clip(ill - plain, 0, None) for ill in (covid, pneumonia, tuberculosis)]
        left, right = added[0][:, : xray.MATRIX // 2].sum(), added[0][:, xray.MATRIX // 2 :].sum()
        assert min(left, right) > 0.1 * max(left, right)
        left, right = added[1][:, : xray.MATRIX // 2].sum(), added[1][:, xray.MATRIX // 2 :].sum()
        assert min(left, right) < 0.1 * max(left, right)
        assert added[2][: xray.MATRIX // 2].sum() > 0.9 * added[2].sum() > 0


# ----------------------------------------------------------------------------------------------------- dermoscopy


def test_derm_is_lit_in_many_colours(cohorts: dict[str, Path]) -> None:
    from PIL import Image

    light = []
    for path in sorted(cohorts["derm"].glob("*.png")):
        with Image.open(path) as picture:
            values = np.asarray(picture, dtype=float)
        assert values.shape == (derm.MATRIX, derm.MATRIX, 3)
        assert not (values == values[..., :1]).all()
        light.append(values[40:72, 40:72, 2].mean() / values[40:72, 40:72, 0].mean())
    assert max(light) > 1.3 * min(light)


def test_derm_pigments_follow_the_rules_of_their_kind() -> None:
    melanin, blood, deep = {}, {}, {}
    for label in derm.CLASS_NAMES:
        clean = np.stack([derm.draw_study(np.random.default_rng([6, n]), label).clean[0] for n in range(30)])
        middle = clean[:, 36:76, 36:76]
        melanin[label], blood[label], deep[label] = middle.mean(axis=(0, 1, 2))
    assert melanin["BCC"] < min(melanin["NV"], melanin["MEL"], melanin["BKL"])
    assert blood["BCC"] > max(blood["NV"], blood["BKL"])
    assert deep["NV"] == deep["BKL"] == 0 < min(deep["MEL"], deep["BCC"])
