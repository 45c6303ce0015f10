"""Temperature scaling finds the temperature that made the labels, and no infinite one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax

from monai_rd.losses.temperature import fit_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_finds_the_temperature_that_labels_were_drawn_with(temperature: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 4)) * 3
    labels = [random.choice(4, p=p) for p in softmax(logits / temperature, axis=1)]
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


def test_of_several_labels_likewise() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 3)) * 2 + [-2, 0, 1]
    labels = (random.random(logits.shape) < expit(logits / 2)).astype(int)
    assert fit_temperature(logits, labels, multi_label=True) == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_small_set_without_errors_does_not_make_the_network_certain(multi_label: bool) -> None:
    labels = np.arange(20) % 2
    logits = np.stack([5.0 - 10 * labels, 10.0 * labels - 5], axis=1)
    fitted = fit_temperature(logits, np.eye(2)[labels] if multi_label else labels, multi_label)
    odds = logits[1, 1] / fitted * (1 if multi_label else 2)
    assert expit(odds) == pytest.approx(11 / 12, abs=1e-3)  # Platt's target of 10 of 10


def test_answers_against_the_truth_end_at_the_bound() -> None:
    labels = np.arange(40) % 2
    assert fit_temperature(np.stack([labels * 9.0, 9 - labels * 9.0], axis=1), labels) == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize(
    ("logits", "labels", "told"),
    [
        (np.zeros((3, 2)), [0, 1], "logits"),
        (np.zeros((0, 2)), [], "logits"),
        (np.full((2, 2), np.nan), [0, 1], "diverged"),
    ],
)
def test_refuses_what_cannot_be_fitted(logits: np.ndarray, labels: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fit_temperature(logits, labels)
