"""When a teacher path is said to know its training images by heart."""

from __future__ import annotations

from typing import Any

import pytest

from monai_rd.report.memorised import memorised

HEART, OPEN = {"train_accuracy": 0.99, "validation_accuracy": 0.7}, {"train_accuracy": 0.99, "validation_accuracy": 0.9}


def rows(*paths: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"epoch": epoch + 1, **({"teacher_path": path} if path else {})} for epoch, path in enumerate(paths)]


@pytest.mark.parametrize(
    "paths",
    [
        [],
        [{}] * 5,
        [HEART] * 2,
        [OPEN] * 5,
        [HEART, HEART, HEART, OPEN],  # it passed
        [{"train_accuracy": 0.94, "validation_accuracy": 0.6}] * 5,
        [{"train_accuracy": 0.99}, {"validation_accuracy": 0.6}] * 5,
    ],
)
def test_it_is_not_said_without_reason(paths: list[dict[str, Any]]) -> None:
    assert memorised(rows(*paths)) is None


def test_it_says_since_when_and_what_helps() -> None:
    """Epochs in which one of both numbers was not measured are bridged."""
    found = memorised(rows(OPEN, HEART, {}, HEART, {"train_accuracy": 0.9}, HEART))
    assert found is not None
    assert "from epoch 2 on (accuracy 0.99, on validation 0.70)" in found
    assert "KL now repeats the labels: give --unlabelled images" in found
    found = memorised(rows(*[{**HEART, "unlabelled_confidence": 0.9}] * 3))
    assert found is not None
    assert "a larger --unlabelled_share, and compare with --method pseudo" in found
