"""The phantoms of CT volumes: no slice tells their classes apart, the sequence of slices does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from monai_rd.datasets import make_datalist
from monai_rd.dicom import index_dicom, load_series
from monai_rd.networks import TEACHERS, load_teacher
from monai_rd.phantoms import ct_3d, is_phantom, phantom_cohort, phantom_pool


def drawn(number: int, label: str) -> NDArray:
    return ct_3d.draw_study(np.random.default_rng([3, number]), label).clean


@pytest.fixture(scope="module")
def pairs() -> list[tuple[NDArray, NDArray]]:
    """The same patients in both classes: where the volumes differ, there is soft tissue in one of them."""
    return [(drawn(number, "clear"), drawn(number, "nodules")) for number in range(3)]


def alone(one: NDArray, other: NDArray) -> NDArray:
    """The soft tissue of one volume that the other has not."""
    return (one > -300) & (other < -300)


def test_every_slice_has_as_much_tissue_in_both_classes(pairs: list[tuple[NDArray, NDArray]]) -> None:
    for clear, nodules in pairs:
        here, there = (alone(a, b).sum(axis=(1, 2)) for a, b in ((clear, nodules), (nodules, clear)))
        assert here.sum() > 2000
        assert here.sum() == pytest.approx(there.sum(), rel=0.15)
        assert np.corrcoef(here, there)[0, 1] > 0.9


def test_the_brightness_of_a_slice_is_the_same(pairs: list[tuple[NDArray, NDArray]]) -> None:
    for clear, nodules in pairs:
        assert np.abs(clear.mean(axis=(1, 2)) - nodules.mean(axis=(1, 2))).max() < 3  # HU


def test_nodules_lie_above_each_other_and_vessels_do_not(pairs: list[tuple[NDArray, NDArray]]) -> None:
    for clear, nodules in pairs:
        seen_from_above = [alone(a, b).any(axis=0).sum() for a, b in ((clear, nodules), (nodules, clear))]
        assert seen_from_above[0] > 1.3 * seen_from_above[1]


def test_the_shipped_teacher_tells_the_classes_apart(pairs: list[tuple[NDArray, NDArray]]) -> None:
    """Where the class alone differs, the mean of its features changes in the same direction in every patient."""
    teacher = load_teacher("phantom_ct_3d")
    low, high = TEACHERS["phantom_ct_3d"].window or (0, 0)
    changes = []
    for pair in pairs:
        volumes = ((torch.from_numpy(np.stack(pair)).float() - low) / (high - low)).clamp(0, 1)
        features = teacher(F.interpolate(volumes[:, None], (40, 52, 52), mode="area"))  # [2, 1 window, C, d, h, w]
        clear, nodules = features.mean(dim=(1, 3, 4, 5))
        changes.append(nodules - clear)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert F.cosine_similarity(changes[one], changes[other], dim=0) > 0.8


def test_only_nodules_are_said_to_be_nodules() -> None:
    clear, nodules = (ct_3d.draw_study(np.random.default_rng([3, 0]), label) for label in ct_3d.CLASS_NAMES)
    assert not clear.findings["nodules"].any()
    assert 10 < nodules.findings["nodules"].sum() < ct_3d.SLICES
    assert set(nodules.findings) == {"nodules", *ct_3d.OTHER_FINDINGS}


@pytest.mark.slow
def test_a_cohort_and_its_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT_3D", {"training": 2, "validation": 2, "test": 2})
    monkeypatch.setattr("monai_rd.phantoms.cohort.POOL_3D", 1)
    cohort = Path(phantom_cohort(tmp_path, "ct", volumes=True))
    assert cohort.name == "phantoms_ct_3d_0"
    assert is_phantom(cohort)
    made = make_datalist(cohort)
    assert made.class_names == ct_3d.CLASS_NAMES
    assert [len(made[split]) for split in ("training", "validation", "test")] == [2, 2, 2]
    assert [one.problems for one in index_dicom(cohort)] == [()] * 6
    series = load_series(cohort / "study_0001")
    wanted = ct_3d.draw_study(np.random.default_rng([0, 1]), "nodules").image
    assert np.array_equal(series.array[0], wanted.transpose(2, 1, 0))
    pool = Path(phantom_pool(cohort))
    assert sorted(path.name for path in pool.glob("study_*")) == ["study_0006"]


def test_a_modality_without_volumes_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 2, "validation": 1, "test": 1})
    assert Path(phantom_cohort(tmp_path, "xray", volumes=True)).name == "phantoms_xray_0"
