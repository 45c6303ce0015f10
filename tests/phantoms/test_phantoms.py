"""The phantom cohorts: what holds for all of them. What holds for one modality stands in test_phantoms_modalities."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from monai_rd.datasets import make_datalist
from monai_rd.dicom import index_dicom, load_series
from monai_rd.phantoms import MODALITIES, is_phantom, phantom_cohort
from monai_rd.phantoms.writing import MARK

SMALL = {"training": 4, "validation": 4, "test": 4}
IN_DICOM = [modality for modality, kind in MODALITIES.items() if kind.SUFFIX in ("", ".dcm")]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT", SMALL)


@pytest.fixture(scope="module")
def cohort_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a modality's cohort of seed 0, which the tests only read."""
    place = tmp_path_factory.mktemp("cohorts")
    return lambda modality: Path(phantom_cohort(place, modality))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four studies, where no cohort that others read is made."""
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 2, "validation": 1, "test": 1})


def bytes_of(folder: str | Path) -> dict[str, str]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_seed_gives_the_same_bytes(modality: str, tmp_path: Path) -> None:
    made = (("one", 0), ("again", 0), ("other", 4))
    one, again, other = (bytes_of(phantom_cohort(tmp_path / place, modality, seed)) for place, seed in made)
    assert one == again
    images = [{made[name] for name in made if name not in ("labels.csv", "phantoms.json")} for made in (one, other)]
    assert len(images[0]) == len(one) - 2 >= 4
    assert not images[0] & images[1]


@pytest.mark.parametrize("modality", MODALITIES)
def test_labels_name_every_study_once_and_classes_take_turns(modality: str, cohort_of: Callable[[str], Path]) -> None:
    cohort, names = cohort_of(modality), MODALITIES[modality].CLASS_NAMES
    with open(cohort / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(path.name for path in cohort.glob("study_*"))
    assert [row["label"] for row in rows] == [names[number % len(names)] for number in range(12)]
    assert [row["split"] for row in rows] == ["training"] * 4 + ["validation"] * 4 + ["test"] * 4
    assert len({row["patient"] for row in rows}) == 12
    made = make_datalist(cohort)
    assert made.class_names == tuple(sorted(names)) == names
    assert [len(made[split]) for split in SMALL] == [4, 4, 4]


@pytest.mark.parametrize("modality", IN_DICOM)
def test_dicom_is_read_without_a_problem_and_says_what_it_is(modality: str, cohort_of: Callable[[str], Path]) -> None:
    cohort = cohort_of(modality)
    series = index_dicom(cohort)
    assert len(series) == 12
    assert [one.problems for one in series] == [()] * 12
    assert {one.modality for one in series} == {{"xray": "DX"}.get(modality, modality.upper())}
    for study in sorted(cohort.glob("study_*")):
        assert load_series(study).tolerated == ()
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in cohort.rglob("*.dcm")]
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)
    assert len({header.SeriesInstanceUID for header in headers}) == 12
    days = {(header.StudyInstanceUID, str(header.StudyDate)) for header in headers}  # which `predict --since` asks for
    assert sorted(day for _, day in days) == [f"202601{day:02d}" for day in range(1, 13)]
    for header in headers:
        assert str(header.PatientName).startswith("PHANTOM^")
        assert header.PatientID.startswith("PHANTOM-")
        assert header.SeriesDescription == MARK


def test_pictures_say_what_they_are(cohort_of: Callable[[str], Path]) -> None:
    for path in cohort_of("derm").glob("*.png"):
        with Image.open(path) as picture:
            assert (picture.mode, picture.text) == ("RGB", {"Description": MARK})


def test_no_two_modalities_share_a_uid(cohort_of: Callable[[str], Path]) -> None:
    found = [one.series_uid for modality in IN_DICOM for one in index_dicom(cohort_of(modality))]
    assert len(set(found)) == len(found) == 12 * len(IN_DICOM)


@pytest.mark.parametrize("modality", MODALITIES)
def test_neither_brightness_nor_other_findings_tell_the_classes_apart(modality: str) -> None:
    """No shortcut: a threshold on the mean of the whole image is no classifier, the other findings are in any class."""
    kind = MODALITIES[modality]
    studies = {
        label: [kind.draw_study(np.random.default_rng([0, n, c]), label) for n in range(24)]
        for c, label in enumerate(kind.CLASS_NAMES)
    }
    means = {label: np.array([study.image.mean() for study in drawn]) for label, drawn in studies.items()}
    for label, drawn in studies.items():
        others = np.concatenate([means[other] for other in kind.CLASS_NAMES if other != label])
        assert 0.15 < (means[label][:, None] > others).mean() < 0.85, label
        for name in kind.OTHER_FINDINGS:
            seen = [study.findings[name] for study in drawn]
            assert all(len(found) == len(study.image) for found, study in zip(seen, drawn, strict=True))
            assert 1 <= sum(found.any() for found in seen) <= 18, (label, name)


@pytest.mark.parametrize("modality", [name for name in MODALITIES])
def test_the_place_of_the_finding_is_where_its_slices_are(modality: str) -> None:
    kind = MODALITIES[modality]
    finding = {"ct": "opacity", "mr": "tumour"}.get(modality, "lesion")
    for number, label in enumerate(kind.CLASS_NAMES):
        study = kind.draw_study(np.random.default_rng([5, number]), label)
        assert study.place.shape == study.image.shape[:3]
        shown = study.place.sum(axis=(1, 2)) >= (4 if modality == "ct" else 3)
        np.testing.assert_array_equal(shown, study.findings[finding])
        assert study.place.mean() < 0.5


def test_a_finished_cohort_is_used_and_another_one_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = Path(phantom_cohort(tmp_path))
    made = (cohort / "labels.csv").stat().st_mtime_ns
    assert phantom_cohort(tmp_path) == str(cohort)
    assert (cohort / "labels.csv").stat().st_mtime_ns == made
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 2, "validation": 2, "test": 4})
    assert phantom_cohort(tmp_path) == str(cohort)
    assert len(list(cohort.glob("study_*"))) == 8
    assert json.loads((cohort / "phantoms.json").read_text())["split"]["test"] == 4


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_killed_writing_leaves_no_cohort(modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = MODALITIES[modality]
    write = kind.write_study

    def killed(path: Path, *rest: object) -> None:
        if path.stem == "study_0003":
            raise KeyboardInterrupt
        write(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "write_study", killed)
        with pytest.raises(KeyboardInterrupt):
            phantom_cohort(tmp_path, modality)
    assert list(tmp_path.iterdir()) == []
    leftover = tmp_path / f"phantoms_{modality}_0.unfinished.{os.getpid()}"  # SIGKILL lets nobody clean up
    leftover.mkdir()
    (leftover / "study_9999").write_text("half")
    assert "study_9999" not in bytes_of(phantom_cohort(tmp_path, modality))
    assert len(list(tmp_path.iterdir())) == 1


def test_only_cohorts_count_as_phantoms(cohort_of: Callable[[str], Path], tmp_path: Path) -> None:
    assert is_phantom(str(cohort_of("ct")))
    assert not is_phantom(tmp_path)


def test_an_unknown_modality_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no phantoms of modality 'pet'; there are: ct, mr, us, xray, derm"):
        phantom_cohort(tmp_path, "pet")
    assert list(tmp_path.iterdir()) == []
