"""What follows from a study that is not as it should be, code by code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from monai_rd.datasets import DataListError, find_studies
from monai_rd.dicom import index_dicom, load_series
from monai_rd.errors import DicomSeriesError, Policy
from tests.dicom_files import COLUMNS, CORONAL, ROWS, make_series


def test_without_a_word_everything_but_a_localizer_is_an_error() -> None:
    policy = Policy()
    assert policy["LOCALIZER"] == "skip"
    assert policy["MISSING_SLICES"] == policy["UNREADABLE_PIXELS"] == "error"
    skipping = Policy({"default": "skip", "TILTED_STACK": "warn", "LOCALIZER": "error"})
    assert [skipping[code] for code in ("MIXED_SHAPE", "TILTED_STACK", "LOCALIZER")] == ["skip", "warn", "error"]


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ({"MISING_SLICES": "skip"}, "there is no code 'MISING_SLICES'; the codes: .*MISSING_SLICES"),
        ({"MISSING_SLICES": "ignore"}, "'ignore' for MISSING_SLICES is none of error, skip, warn"),
        ({"UNREADABLE_PIXELS": "warn"}, "UNREADABLE_PIXELS cannot be 'warn'.* possible for .*TILTED_STACK"),
        ({"default": "warn"}, "default cannot be 'warn'"),
    ],
)
def test_a_wrong_policy_says_what_is_right(actions: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Policy(actions)


def gap(k: int, ds: Dataset) -> None:
    if k > 2:
        ds.ImagePositionPatient = [-31.5, 12.25, 40 + 2.5 * (k + 2)]


def uneven(k: int, ds: Dataset) -> None:
    if k == 3:
        ds.ImagePositionPatient = [-31.5, 12.25, 40 + 2.5 * k + 0.6]


def tilted(k: int, ds: Dataset) -> None:
    ds.ImagePositionPatient = [-31.5, 12.25 + k * 0.7, 40 + 2.5 * k]


def coronal_at_the_end(k: int, ds: Dataset) -> None:
    if k == 5:
        ds.ImageOrientationPatient = list(CORONAL)


def small_at_the_end(k: int, ds: Dataset) -> None:
    if k == 5:
        ds.Rows, ds.PixelData = 5, ds.PixelData[: 5 * COLUMNS * 2]


def twice_at_the_end(k: int, ds: Dataset) -> None:
    if k == 5:
        ds.ImagePositionPatient, ds.InstanceNumber = [-31.5, 12.25, 40 + 2.5 * 4], 1000


def no_rescale(k: int, ds: Dataset) -> None:
    del ds.RescaleSlope


CASES = [
    ("MISSING_SLICES", gap, 6, (0, 0, 17.5 / 5)),
    ("IRREGULAR_SPACING", uneven, 6, (0, 0, 2.5)),
    ("TILTED_STACK", tilted, 6, (0, -0.7, 2.5)),
    ("MIXED_ORIENTATION", coronal_at_the_end, 5, (0, 0, 2.5)),
    ("MIXED_SHAPE", small_at_the_end, 5, (0, 0, 2.5)),
    ("DUPLICATE_SLICES", twice_at_the_end, 5, (0, 0, 2.5)),
    ("NO_HOUNSFIELD", no_rescale, 6, (0, 0, 2.5)),
]


@pytest.mark.parametrize(("code", "change", "slices", "step"), CASES, ids=[case[0] for case in CASES])
def test_warn_reads_what_can_be_read(
    code: str,
    change: Callable[[int, Dataset], None],
    slices: int,
    step: tuple[float, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uid, stored = make_series(tmp_path, change=change)
    with pytest.raises(DicomSeriesError) as caught:
        load_series(tmp_path)
    assert caught.value.code == code
    with pytest.raises(DicomSeriesError):
        load_series(tmp_path, policy=Policy({"default": "skip"}))
    assert not caplog.records

    volume = load_series(tmp_path, policy=Policy({code: "warn"}))
    assert volume.tolerated == (code,)
    expected = stored * 1.0 if code == "NO_HOUNSFIELD" else stored * 2.0 - 1024
    np.testing.assert_array_equal(volume.array[0], expected[:slices].transpose(2, 1, 0))
    np.testing.assert_allclose(volume.affine[:3, 2], step, atol=1e-6)
    assert volume.intensity == ("arbitrary" if code == "NO_HOUNSFIELD" else "HU")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert uid in record.getMessage()
    assert code in record.getMessage()

    (info,) = index_dicom(tmp_path)
    assert [problem.code for problem in info.problems] == [code]
    assert info.problem() is not None
    assert info.problem(Policy({code: "warn"})) is None
    assert info.slices == slices


def test_two_problems_need_two_words(tmp_path: Path) -> None:
    def both(k: int, ds: Dataset) -> None:
        tilted(k, ds)
        no_rescale(k, ds)

    make_series(tmp_path, change=both)
    with pytest.raises(DicomSeriesError) as caught:
        load_series(tmp_path, policy=Policy({"TILTED_STACK": "warn"}))
    assert caught.value.code == "NO_HOUNSFIELD"
    volume = load_series(tmp_path, policy=Policy({"TILTED_STACK": "warn", "NO_HOUNSFIELD": "warn"}))
    assert volume.array.shape == (1, COLUMNS, ROWS, 6)
    assert [one.code for one in index_dicom(tmp_path)[0].problems] == ["TILTED_STACK", "NO_HOUNSFIELD"]


def test_shifts_in_no_line_are_no_tilt(tmp_path: Path) -> None:
    def zigzag(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = [-31.5, 12.25 + 3 * (k % 2), 40 + 2.5 * k]

    make_series(tmp_path, change=zigzag)
    with pytest.raises(DicomSeriesError) as caught:
        load_series(tmp_path, policy=Policy({"TILTED_STACK": "warn"}))
    assert caught.value.code == "IRREGULAR_SPACING"


def test_of_three_slices_with_a_gap_one_is_missing(tmp_path: Path) -> None:
    make_series(tmp_path, slices=4, skip=(2,))
    with pytest.raises(DicomSeriesError) as caught:
        load_series(tmp_path)
    assert caught.value.code == "MISSING_SLICES"


def test_a_folder_follows_the_policy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_series(tmp_path / "good")
    bad, _ = make_series(tmp_path / "bad", skip=(2,), seed=1)

    def scout(k: int, ds: Dataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    make_series(tmp_path / "scout", slices=1, change=scout, seed=2)
    with pytest.raises(DataListError, match=f"MISSING_SLICES: Series {bad}") as caught:
        find_studies(tmp_path)
    assert "LOCALIZER" not in str(caught.value)
    skipped = find_studies(tmp_path, policy={"MISSING_SLICES": "skip"})
    assert len(skipped.items) == 1
    assert sorted(problem.code for problem in skipped.problems) == ["LOCALIZER", "MISSING_SLICES"]
    assert "2 DICOM series left out" in caplog.text
    warned = find_studies(tmp_path, policy={"MISSING_SLICES": "warn"})
    assert len(warned.items) == 2
    with pytest.raises(DataListError, match="LOCALIZER: Series"):
        find_studies(tmp_path, policy={"default": "skip", "LOCALIZER": "error"})
