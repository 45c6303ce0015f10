"""Which of the series that lie under a folder to take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monai_rd.dicom.index import SeriesInfo
from monai_rd.errors import Policy
from monai_rd.nearest import did_you_mean

__all__ = ["SeriesRule", "choose_series"]


@dataclass(frozen=True)
class SeriesRule:
    """Which series of a patient to take.

    Args:
        modality: such as "CT"; None takes any.
        description: a regular expression searched in the series description as it stands in the file, and in the name
            of a volume where a series holds several, case ignored; None takes any.
        orientation: "axial", "coronal", "sagittal" or "oblique"; None takes any.
        pick: among those left, "most_slices", "largest" (voxels), or "all".
        per: one series for each "patient" or "study".

    Raises:
        ValueError: a word that is none of these, or no regular expression.
    """

    modality: str | None = None
    description: str | None = None
    orientation: str | None = None
    pick: str = "most_slices"
    per: str = "patient"

    def __post_init__(self) -> None:
        allowed = {
            "orientation": (None, "axial", "coronal", "sagittal", "oblique"),
            "pick": ("most_slices", "largest", "all"),
            "per": ("patient", "study"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                words = ", ".join(str(value) for value in values if value)
                raise ValueError(f"series_rule: {name} '{getattr(self, name)}' is none of {words}")
        try:
            re.compile(self.description or "")
        except re.error as error:
            raise ValueError(f"series_rule: '{self.description}' is no regular expression: {error}") from None

    @classmethod
    def of(cls, rule: SeriesRule | Mapping[str, str] | None) -> SeriesRule | None:
        """Make a rule of what a bundle config says.

        Raises:
            ValueError: an unknown word.
        """
        if rule is None or isinstance(rule, SeriesRule):
            return rule
        unknown = set(rule) - set(cls.__dataclass_fields__)
        if unknown:
            word = min(unknown)
            meant = did_you_mean(word, cls.__dataclass_fields__)
            raise ValueError(f"series_rule: no '{word}'; there are {', '.join(cls.__dataclass_fields__)}{meant}")
        if wrong := [name for name, value in rule.items() if not isinstance(value, (str, type(None)))]:
            raise ValueError(f"series_rule: {wrong[0]} is text, in quotes, not {rule[wrong[0]]!r}")
        return cls(**rule)

    def __str__(self) -> str:
        asked = [
            f"modality {self.modality}" if self.modality else "",
            self.orientation or "",
            f"description like '{self.description}'" if self.description else "",
        ]
        kind = ", ".join(word for word in asked if word) or "any readable series"
        best = {"most_slices": "the most slices", "largest": "the most voxels", "all": ""}[self.pick]
        return f"{kind}; {f'of each {self.per} the one with {best}' if best else 'all of them'}"


def choose_series(series: Sequence[SeriesInfo], rule: SeriesRule, policy: Policy | None = None) -> list[SeriesInfo]:
    """Take series by a rule; what the policy does not let be read is never taken.

    Args:
        series: as `index_dicom` gives them.
        rule: see `SeriesRule`. Between equals the lower series UID decides, and in one series the first volume.
        policy: see `SeriesInfo.problem`.

    Returns:
        The chosen ones, in the order of `series`.
    """
    fit = [
        one
        for one in series
        if one.problem(policy) is None
        and (rule.modality is None or one.modality == rule.modality)
        and (rule.orientation is None or one.orientation == rule.orientation)
        and any(
            rule.description is None or re.search(rule.description, text, re.IGNORECASE)
            for text in (one.original_description, one.volume)
        )
    ]
    if rule.pick == "all":
        return fit

    def size(one: SeriesInfo) -> int:
        return one.slices * (one.shape[0] * one.shape[1] if rule.pick == "largest" else 1)

    best: dict[str, SeriesInfo] = {}
    for one in sorted(fit, key=lambda one: (-size(one), one.series_uid)):
        best.setdefault(one.patient_key if rule.per == "patient" else one.study_uid, one)
    chosen = {one.id for one in best.values()}
    return [one for one in fit if one.id in chosen]
