"""Whether the teacher path knows its training images by heart, so that nothing is left for it to teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["APART", "KNOWN", "LONG", "memorised"]

# From here on at most one label in twenty is not what the path says itself: KL asks for what cross entropy asks for.
KNOWN = 0.95
# So far behind is validation then. An accuracy of 0.7 to 0.8 on 40 images has a standard error of 0.07: twice that is
# not taken for knowledge by heart.
APART = 0.15
LONG = 3  # measured epochs at the end: what passes, or comes of batch statistics that lag at the beginning, is not it


def memorised(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Say that the teacher path had memorised the labelled training images when the training ended, or None.

    It has where in each of the last 3 epochs with both numbers its accuracy was at least 0.95 on training batches and
    at least 0.15 higher than on validation.

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
        "what it still teaches comes from the unlabelled ones: give more of them, or a larger --unlabelled_share"
        if any("unlabelled_confidence" in row.get("teacher_path", {}) for row in history)
        else "give --unlabelled images, whose labels it cannot know, or more labelled ones"
    )
    return (
        f"The reprogrammed teacher knows the labelled training images by heart from epoch {since} on (accuracy "
        f"{train:.2f}, on validation {validation:.2f}). On them KL now repeats the labels: {remedy}."
    )
