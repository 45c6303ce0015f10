"""When a teacher path is said to know its training images by heart, and a student to be behind its path."""

from __future__ import annotations

from typing import Any

import pytest

from monai_rd.report.transfer import behind, memorised

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


def validated(*areas: tuple[float | None, float | None]) -> list[dict[str, Any]]:
    """Rows with the ROC AUC of student and path; None: not measured."""
    return [
        {
            "epoch": epoch + 1,
            "validation": {} if student is None else {"val_auc": student},
            **({} if path is None else {"teacher_path": {"validation_auc": path}}),
        }
        for epoch, (student, path) in enumerate(areas)
    ]


@pytest.mark.parametrize(
    "areas",
    [
        [],
        [(0.7, 0.9)] * 2,
        [(0.7, 0.9), (0.7, 0.9), (0.88, 0.9)],  # it caught up
        [(0.9, 0.7)] * 3,  # ahead
        [(0.86, 0.9)] * 5,
        [(0.7, None), (None, 0.9)] * 5,
        [(0.88, 0.9), (0.7, 0.9), (0.7, 0.9)],
    ],
)
def test_a_student_is_not_called_behind_without_reason(areas: list[tuple[float | None, float | None]]) -> None:
    assert behind(validated(*areas)) is None


def test_a_student_behind_is_told_what_helps() -> None:
    """Epochs without validation are bridged; what was before the last three does not matter."""
    found = behind(validated((0.9, 0.9), (0.7, 0.9), (None, None), (0.75, 0.8), (0.731, 0.842)))
    assert found is not None
    assert "(ROC AUC 0.73, the teacher 0.84)" in found
    assert "--student_weights imagenet" in found


def test_rows_of_a_version_without_the_path_s_area_are_read() -> None:
    assert behind([{"epoch": 1, "validation": {"val_auc": None}, "teacher_path": {"train_accuracy": 1.0}}] * 3) is None
