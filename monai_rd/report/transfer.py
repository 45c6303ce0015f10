"""Whether the teacher path has something left to teach, and whether it reaches the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["APART", "BEHIND", "KNOWN", "LONG", "behind", "memorised"]

# From this accuracy on the path predicts at least 19 of 20 labels itself: KL then teaches the same as cross entropy.
KNOWN = 0.95
# Smallest gap to the validation accuracy. An accuracy of 0.7 to 0.8 on 40 images has a standard error of 0.07; a gap of
# up to twice that is not counted as memorisation.
APART = 0.15
# Smallest lead of the path over the student, in ROC AUC on validation: about the standard error of such a difference on
# 100 images with AUCs of 0.8.
BEHIND = 0.05
LONG = 3  # last measured epochs: excludes passing gaps, and those from lagging batch statistics early in the training


def memorised(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a message if the teacher path had memorised the labelled training images at the end, else None.

    It had if in each of the last 3 epochs with both numbers its accuracy was at least 0.95 on training batches and at
    least 0.15 higher than on validation.

    Args:
        history: rows of `HistoryHandler`.
    """
    both = [
        (row["epoch"], path["train_accuracy"], path["validation_accuracy"])
        for row in history
        if (path := row.get("teacher_path", {})).keys() >= {"train_accuracy", "validation_accuracy"}
    ]
    since = None
    for place, (epoch, train, validation) in enumerate(reversed(both)):
        if train < KNOWN or train - validation < APART:
            break
        since = epoch if place + 1 >= LONG else None
    if since is None:
        return None
    _, train, validation = both[-1]
    remedy = (
        "what it still teaches comes from the unlabelled ones: give more of them, or a larger --unlabelled_share, and "
        "compare with --method pseudo, whose teacher is a linear probe and memorises less"
        if any("unlabelled_confidence" in row.get("teacher_path", {}) for row in history)
        else "give --unlabelled images, whose labels it cannot know, or more labelled ones"
    )
    return (
        f"The reprogrammed teacher knows the labelled training images by heart from epoch {since} on (accuracy "
        f"{train:.2f}, on validation {validation:.2f}). On them KL now repeats the labels: {remedy}."
    )


def behind(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a message if at the end the student ranked validation images worse than the teacher path, else None.

    It did if in each of the last 3 epochs with both numbers its ROC AUC was lower by at least 0.05.

    Args:
        history: rows of `HistoryHandler`.
    """
    both = [
        (row["validation"]["val_auc"], row["teacher_path"]["validation_auc"])
        for row in history
        if row.get("validation", {}).get("val_auc") is not None and "validation_auc" in row.get("teacher_path", {})
    ]
    if len(both) < LONG or any(path - student < BEHIND for student, path in both[-LONG:]):
        return None
    student, path = both[-1]
    return (
        f"The student ranks validation images worse than the reprogrammed teacher (ROC AUC {student:.2f}, the teacher "
        f"{path:.2f}): part of what the teacher knows has not reached it. If its curve still rises, give more epochs; "
        "else more --unlabelled images help, and, if it starts from random weights, --student_weights imagenet."
    )
