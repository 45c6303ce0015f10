"""What a model card says a student was not tested for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["limits"]

_FEW = 20  # studies of a class below which its numbers say little


def limits(facts: Mapping[str, Any]) -> list[str]:
    """Return the limits of a student in sentences, from the other facts of its card."""
    data, splits = facts["data"], facts["data"]["splits"]
    n = facts["results"]["student"]["n"]
    found = ["For research only: not a medical device, not to be used for diagnosis or treatment."]
    if data["phantom"]:
        found.append("Trained and tested on phantoms, which a program drew: the numbers say nothing about patients.")
    found += [
        f"Tested on {n} studies of the same source as the training data, and on no others: of other hospitals, "
        "scanners, protocols and populations nothing is known.",
        "One training with one seed: another seed gives other numbers, and the intervals do not count this.",
        "No comparison with readers, and no study of use in practice.",
        "Knows no finding but its own classes, whatever else a study shows.",
    ]
    if data["patients_in_several_splits"]:
        shared = data["patients_in_several_splits"]
        found.append(f"n = {shared} patients are in more than one split: the numbers are too good.")
    unknown = {split: one["without_patient"] for split, one in splits.items() if one["without_patient"]}
    if unknown and not data["phantom"]:
        counted = ", ".join(f"{split} {count} of {splits[split]['n']}" for split, count in unknown.items())
        found.append(
            f"Of some studies the patient is not known ({counted}): whether a patient is in two splits cannot be "
            "excluded for them; equal files are in one."
        )
    few = {name: count for name, count in splits["test"]["by_class"].items() if count < _FEW}
    if few:
        counted = ", ".join(f"{name} {count}" for name, count in few.items())
        found.append(f"Classes with fewer than {_FEW} test studies, whose numbers say little: {counted}.")
    blind = [kind for kind in facts["groups"]["known"] if kind not in facts["groups"]["metrics"]]
    if blind:
        found.append(
            f"Not compared between groups by {', '.join(blind)}: not known, or fewer than two groups of 5 test studies."
        )
    if facts["unread"]:
        found.append(f"Test studies left out because they could not be read: {facts['unread']}.")
    if facts["sets"] is None:
        found.append("No conformal sets: fewer than 9 validation studies.")
    else:
        found.append(
            "Conformal sets and operating points hold for studies that nobody could tell apart from those of the "
            "validation set; of others nothing is promised."
        )
    return found
