"""What a reference tells of studies, and that it tells nothing of one of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import Dataset

from monai_rd.drift import Reference, reference, reference_of_training
from monai_rd.drift.reference import Histogram, statistics_of
from monai_rd.inference import Decision, Prediction
from monai_rd.transforms import scope_of
from tests.drift.streams import MODEL, NAMES, studies


def test_no_bin_and_no_category_is_of_fewer_than_five(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    made = studies(random, 44, scanners=["Maker A"])
    made[7] = replace(made[7], facts={**made[7].facts, "scanner": "Eva's own"})
    Reference.of(made, MODEL, "validation set").write(tmp_path / "reference.json")
    text = (tmp_path / "reference.json").read_text()
    content = json.loads(text)
    assert content["categories"]["scanner"] == {"Maker A": 43, "other": 1}
    counts = content["numbers"]["median"]["counts"]
    assert min(counts) >= 5
    assert sum(counts) == 44
    assert len(counts) == 8
    for one in made:
        assert one.id not in text
        assert one.scored not in text
        assert f"{one.probabilities['opacity']}" not in text
    assert "Eva" not in text
    assert Reference.read(tmp_path / "reference.json") == Reference.of(made, MODEL, "validation set")


@pytest.mark.parametrize("count", [1, 4, 5, 9, 10, 11, 100, 103, 1000])
def test_a_histogram_counts_every_study_once(count: int) -> None:
    values = np.random.default_rng(count).integers(0, 40, count) / 40
    found = Histogram.of(values.tolist())
    assert sum(found.counts) == count
    assert list(found.edges) == sorted(set(found.edges))
    again = np.searchsorted(found.edges, values)
    assert np.bincount(again, minlength=len(found.counts)).tolist() == list(found.counts)
    assert all(one >= min(5, count) or (one == 0 and place in (0, len(found.counts) - 1))
               for place, one in enumerate(found.counts))  # fmt: skip


def test_values_beyond_a_shared_end_have_a_bin_of_their_own() -> None:
    """Black corners are 0 in every training image: a frame that is not black anymore must be seen."""
    found = Histogram.of([0.0] * 30)
    assert found.counts == (0, 30, 0)
    assert np.searchsorted(found.edges, [-0.1, 0.0, 0.1]).tolist() == [0, 1, 2]


def test_several_labels_and_sets_are_statistics() -> None:
    bare = Prediction("1", facts={"kernel": "B30f"})
    one = replace(
        bare.answered([0.9, 0.2], NAMES, True, "THICK_SLICES|WRONG_BODY_PART", [], Decision()), sets=(("present",), ())
    )
    assert statistics_of(one) == {
        "probability of clear": 0.9,
        "probability of opacity": 0.2,
        "says clear": "yes",
        "says opacity": "no",
        "conformal set": "abstains",
        "flags": "WRONG_BODY_PART",
        "kernel": "B30f",
    }


def test_a_patient_of_the_training_counts_once() -> None:
    items = [{"image": torch.full((1, 3, 8, 8), n / 40), "patient": f"p{n // 2}", "scanner": "GE M"} for n in range(40)]
    items += [{"image": torch.rand(1, 3, 8, 8), "patient": ""} for _ in range(3)]
    p = np.linspace(0, 1, 43)
    made = reference_of_training(Dataset(items), np.stack([1 - p, p], 1), NAMES, False, Decision(), MODEL, None)
    assert made.studies == 23
    assert made.source == "validation and test set"
    assert made.categories["scanner"] == {"GE M": 20, "other": 3}
    assert sum(made.numbers["probability of opacity"].counts) == 23
    low, _, high = made.numbers["median"].quantiles
    assert 0 < low < 0.2
    assert 0.7 < high < 1


def test_studies_out_of_scope_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In use a student refuses them."""
    usual = {"image": torch.linspace(0, 1, 64).reshape(1, 1, 8, 8).expand(1, 3, 8, 8), "modality": "CT"}
    scope = scope_of([usual], [usual])
    items = [usual] * 30 + [{**usual, "image": usual["image"] * 0 + 0.9}, {**usual, "modality": "MR"}] * 5
    rows = np.tile([0.3, 0.7], (len(items), 1))
    made = reference_of_training(Dataset(items), rows, NAMES, False, Decision(), MODEL, scope)
    assert made.studies == 30
    assert made.categories["flags"] == {"none": 30, "other": 0}
    monkeypatch.setattr(reference, "_MOST", 12)
    assert reference_of_training(Dataset(items), rows, NAMES, False, Decision(), MODEL, scope).studies == 12


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": 3, "class_names": 4}'])
def test_another_file_is_no_reference(text: str, tmp_path: Path) -> None:
    (tmp_path / "reference.json").write_text(text)
    with pytest.raises(ValueError, match=r"reference.json is damaged, or no reference.json of a training"):
        Reference.read(tmp_path / "reference.json")
    with pytest.raises(FileNotFoundError, match="Older versions did not"):
        Reference.read(tmp_path / "none.json")
