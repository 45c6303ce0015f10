"""Selection of series among those found in a folder."""

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
    """Rule that selects the series to use of each patient or study.

    Args:
        modality: such as "CT"; None accepts any.
        description: regular expression searched, ignoring case, in the series description of the file, and in the name
            of the volume if a series holds several; None accepts any.
        orientation: "axial", "coronal", "sagittal" or "oblique"; None accepts any.
        pick: which of the accepted series to take: that with "most_slices", the "largest" (most voxels), or "all".
        per: take one series for each "patient" or for each "study".

    Raises:
        ValueError: a value that is not allowed, or an invalid regular expression.

    Example:
        >>> from pathlib import Path
        >>> from monai_rd.dicom import SeriesRule, choose_series, index_dicom
        >>> from monai_rd.phantoms import ct
        >>> for number in (1, 2):  # two patients with one synthetic CT series each
        ...     ct.write_study(Path(f"study_{number}"), "clear", seed=0, number=number)
        >>> rule = SeriesRule(modality="CT", orientation="axial", per="patient")
        >>> len(choose_series(index_dicom("."), rule))
        2
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
        """Return a rule from the mapping of a bundle config; a rule or None is returned unchanged.

        Raises:
            ValueError: an unknown key, or a value that is not text.
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
    """Select series by a rule; series that cannot be read under the policy are never selected.

    Args:
        series: as returned by `index_dicom`.
        rule: see `SeriesRule`. Ties are broken by the lower series UID, within a series by the first volume.
        policy: see `SeriesInfo.problem`.

    Returns:
        The selected series, in the order of `series`.
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
