"""The phantom cohort."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from monai_rd.data import is_phantom, load_series, phantom_cohort
from monai_rd.data.phantoms import OTHER_FINDINGS, SLICES, draw_study


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_rd.data.phantoms.cohort.SPLIT", {"training": 2, "validation": 2, "test": 2})


def bytes_of(folder: str) -> dict[str, str]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, again, other = (
        bytes_of(phantom_cohort(tmp_path / name, seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert one == again
    assert len(one) == 6 * SLICES + 2
    images = [{digest for name, digest in made.items() if name.endswith(".dcm")} for made in (one, other)]
    assert not images[0] & images[1]


def test_series_are_real_dicom_in_hounsfield_units(tmp_path: Path) -> None:
    cohort = Path(phantom_cohort(tmp_path))
    series = load_series(cohort / "study_0003")
    drawn = draw_study(np.random.default_rng([0, 3]), opacity=True).hounsfield
    # The volume is [1, X, Y, Z]; the drawing [slices, rows, columns].
    assert np.array_equal(series.array[0], drawn.transpose(2, 1, 0))
    assert series.intensity == "HU"
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(cohort.rglob("*.dcm"))]
    assert len({header.SOPInstanceUID for header in headers}) == 6 * SLICES
    assert len({header.SeriesInstanceUID for header in headers}) == 6
    # Neither file names nor instance numbers follow the geometry.
    one = [header for header in headers if header.SeriesInstanceUID == series.series_uid]
    heights = [header.ImagePositionPatient[2] for header in sorted(one, key=lambda h: h.InstanceNumber)]
    assert heights != sorted(heights)
    assert heights != sorted(heights, reverse=True)


def test_labels_name_every_study_once(tmp_path: Path) -> None:
    cohort = Path(phantom_cohort(tmp_path))
    with open(cohort / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(path.name for path in cohort.iterdir() if path.is_dir())
    assert [row["label"] for row in rows] == ["clear", "opacity"] * 3
    assert [row["split"] for row in rows] == ["training"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert len({row["patient"] for row in rows}) == 6


def test_a_finished_cohort_is_used_and_another_one_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = Path(phantom_cohort(tmp_path))
    made = (cohort / "labels.csv").stat().st_mtime_ns
    assert phantom_cohort(tmp_path) == str(cohort)
    assert (cohort / "labels.csv").stat().st_mtime_ns == made
    monkeypatch.setattr("monai_rd.data.phantoms.cohort.SPLIT", {"training": 2, "validation": 2, "test": 4})
    assert phantom_cohort(tmp_path) == str(cohort)
    assert len([path for path in cohort.iterdir() if path.is_dir()]) == 8
    assert json.loads((cohort / "phantoms.json").read_text())["split"]["test"] == 4


def test_a_killed_writing_leaves_no_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_rd.data import phantoms

    write = phantoms._write_series

    def killed(folder: Path, *rest: object) -> None:
        if folder.name == "study_0004":
            raise KeyboardInterrupt
        write(folder, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(phantoms, "_write_series", killed)
        with pytest.raises(KeyboardInterrupt):
            phantom_cohort(tmp_path)
    assert list(tmp_path.iterdir()) == []
    leftover = tmp_path / f"phantoms_0.unfinished.{os.getpid()}" / "study_0000"  # SIGKILL lets nobody clean up
    leftover.mkdir(parents=True)
    (leftover / "IM9999.dcm").write_text("half")
    assert len(bytes_of(phantom_cohort(tmp_path))) == 6 * SLICES + 2
    assert len(list(tmp_path.iterdir())) == 1


def test_only_cohorts_count_as_phantoms(tmp_path: Path) -> None:
    assert is_phantom(phantom_cohort(tmp_path / "made"))
    assert not is_phantom(tmp_path)


def test_opacities_show_in_the_density_and_only_where_they_are_said() -> None:
    """The same random draws with and without opacities differ in the slices that `findings` names."""
    for number in range(3):
        clear, opaque = (draw_study(np.random.default_rng([1, number]), opacity=flag) for flag in (False, True))
        assert not clear.findings["opacity"].any()
        assert opaque.findings["opacity"].any()
        assert set(opaque.findings) == {"opacity", *OTHER_FINDINGS}
        assert clear.hounsfield.shape == (SLICES, 96, 96)
        assert clear.hounsfield.min() >= -1024
        assert opaque.hounsfield.max() <= 3071


def test_mean_density_hardly_tells_the_classes_apart() -> None:
    """No shortcut: a threshold on the mean of the whole image is no classifier."""
    means = np.array(
        [draw_study(np.random.default_rng([2, n]), opacity=bool(n % 2)).hounsfield.mean() for n in range(60)]
    )
    pairs = means[1::2, None] > means[None, ::2]
    assert 0.2 < pairs.mean() < 0.85
