"""Selection of series among those found in a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from monai_rd.dicom.index import SeriesInfo
from monai_rd.errors import Policy
from monai_rd.nearest import did_you_mean

__all__ = ["RoleRule", "SeriesRule", "choose_series"]


@dataclass(frozen=True)
class _Wanted:
    """Which series are accepted, and which of several is taken."""

    _picks: ClassVar[tuple[str, ...]] = ("most_slices", "largest")

    modality: str | None = None
    description: str | None = None
    orientation: str | None = None
    pick: str = "most_slices"

    def __post_init__(self) -> None:
        self._check("orientation", (None, "axial", "coronal", "sagittal", "oblique"))
        self._check("pick", self._picks)
        self._check_pattern("description")

    def _check(self, name: str, allowed: Sequence[str | None]) -> None:
        if getattr(self, name) not in allowed:
            words = ", ".join(str(value) for value in allowed if value)
            raise ValueError(f"series_rule: {name} '{getattr(self, name)}' is none of {words}")

    def _check_pattern(self, name: str) -> None:
        try:
            re.compile(getattr(self, name) or "")
        except re.error as error:
            raise ValueError(f"series_rule: '{getattr(self, name)}' is no regular expression: {error}") from None

    def accepts(self, one: SeriesInfo) -> bool:
        """Whether a series is of the modality and orientation, and its description matches."""
        return (
            (self.modality is None or one.modality == self.modality)
            and (self.orientation is None or one.orientation == self.orientation)
            and any(
                self.description is None or re.search(self.description, text, re.IGNORECASE)
                for text in (one.original_description, one.volume)
            )
        )

    @property
    def config(self) -> dict[str, Any]:
        """The keys of a bundle config that differ from their defaults."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) != one.default}

    def size(self, slices: int, shape: tuple[int, int]) -> int:
        """The size by which `pick` compares series."""
        return slices * (shape[0] * shape[1] if self.pick == "largest" else 1)

    def __str__(self) -> str:
        asked = [
            f"modality {self.modality}" if self.modality else "",
            self.orientation or "",
            f"description like '{self.description}'" if self.description else "",
        ]
        return ", ".join(word for word in asked if word) or "any readable series"


@dataclass(frozen=True)
class RoleRule(_Wanted):
    """Rule that selects the image of one role in a study, see `SeriesRule`.

    Args:
        modality: see `SeriesRule`.
        description: see `SeriesRule`.
        orientation: see `SeriesRule`.
        pick: which of several series to take: "most_slices" or "largest". A picture, such as a radiograph, is one
            slice.
        view: regular expression searched, ignoring case, in the view of a picture: ``ViewPosition``, after
            ``ImageLaterality`` (or ``Laterality``) and a blank if that is R, L or B, such as "PA" or "R MLO". None
            accepts any picture, and volumes.

    Raises:
        ValueError: a value that is not allowed, or an invalid regular expression.

    Example:
        >>> from monai_rd.dicom import RoleRule, SeriesRule
        >>> rule = SeriesRule(roles={"pa": RoleRule(view="PA|AP"), "lateral": RoleRule(view="LL|RL")})
        >>> list(rule.roles)
        ['pa', 'lateral']
    """

    view: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_pattern("view")

    def accepts_view(self, view: str | None) -> bool:
        """Whether the view of a picture matches; None for a volume."""
        return self.view is None or (view is not None and re.search(self.view, view, re.IGNORECASE) is not None)


@dataclass(frozen=True)
class SeriesRule(_Wanted):
    """Rule that selects the series to use of each patient or study.

    By default a series is an item of its own. With `roles` a study is one item: each role selects one image of it (a
    series, one of several volumes in a series, or a picture), and no other key is given. A role without a rule (None)
    selects nothing: its images are files that a data list names.

    Args:
        modality: such as "CT"; None accepts any.
        description: regular expression searched, ignoring case, in the series description of the file, and in the name
            of the volume if a series holds several; None accepts any.
        orientation: "axial", "coronal", "sagittal" or "oblique"; None accepts any.
        pick: which of the accepted series to take: that with "most_slices", the "largest" (most voxels), or "all".
        per: take one series for each "patient" or for each "study".
        roles: names (letters, digits and ``_.+-``), and the rule of each, or None.

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

    _picks: ClassVar[tuple[str, ...]] = ("most_slices", "largest", "all")

    per: str = "patient"
    roles: Mapping[str, RoleRule | None] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("per", ("patient", "study"))
        if self.roles is None:
            return
        if not self.roles:
            raise ValueError("series_rule: roles names no role, such as {'roles': {'pa': {'view': 'PA'}}}")
        if wrong := [name for name in self.roles if not re.fullmatch(r"[A-Za-z0-9_.+-]+", str(name))]:
            raise ValueError(f"the role {wrong[0]!r} may have letters, digits and _.+- in its name")
        others = [name for name in self.config if name != "roles"]
        if others:
            raise ValueError(f"series_rule: {others[0]} stands beside roles; give it to each role that it is meant for")

    @classmethod
    def of(cls, rule: SeriesRule | Mapping[str, Any] | None) -> SeriesRule | None:
        """Return a rule from the mapping of a bundle config; a rule or None is returned unchanged.

        Raises:
            ValueError: an unknown key, or a value of another kind.
        """
        if rule is None or isinstance(rule, SeriesRule):
            return rule
        roles = rule.get("roles")
        if roles is None:
            return cls(**_texts(cls, rule))
        if not isinstance(roles, Mapping) or not all(isinstance(one, Mapping | None) for one in roles.values()):
            raise ValueError("series_rule: roles is a table of tables, such as {'roles': {'pa': {'view': 'PA'}}}")
        others = _texts(cls, {name: value for name, value in rule.items() if name != "roles"})
        rules = {name: None if one is None else RoleRule(**_texts(RoleRule, one)) for name, one in roles.items()}
        return cls(**others, roles=rules)

    @property
    def roles_config(self) -> dict[str, Any] | None:
        """The mapping of a bundle config that `of` makes this rule from, if it has roles; else None."""
        if self.roles is None:
            return None
        told = {name: None if one is None else one.config for name, one in self.roles.items()}
        return {"roles": told}

    def role_rules(self) -> dict[str, RoleRule]:
        """Return the rules of the roles.

        Raises:
            ValueError: a role has none.
        """
        rules = {name: one for name, one in (self.roles or {}).items() if one is not None}
        if without := [name for name in self.roles or {} if name not in rules]:
            raise ValueError(
                f"the role '{without[0]}' has no rule that selects its images in a folder: give a list that names the "
                "files of each role"
            )
        return rules

    def __str__(self) -> str:
        if self.roles is not None:
            return f"of each study the roles {', '.join(self.roles)}"
        best = {"most_slices": "the most slices", "largest": "the most voxels", "all": ""}[self.pick]
        return f"{super().__str__()}; {f'of each {self.per} the one with {best}' if best else 'all of them'}"


def _texts(kind: type[_Wanted], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a rule.

    Raises:
        ValueError: an unknown key, or a value that is not text.
    """
    known = [one.name for one in fields(kind)]
    if unknown := set(given) - set(known):
        word = min(unknown)
        raise ValueError(f"series_rule: no '{word}'; there are {', '.join(known)}{did_you_mean(word, known)}")
    if wrong := [name for name, value in given.items() if not isinstance(value, (str, type(None)))]:
        raise ValueError(f"series_rule: {wrong[0]} is text, in quotes, not {given[wrong[0]]!r}")
    return dict(given)


def choose_series(series: Sequence[SeriesInfo], rule: SeriesRule, policy: Policy | None = None) -> list[SeriesInfo]:
    """Select series by a rule; series that cannot be read under the policy are never selected.

    Args:
        series: as returned by `index_dicom`.
        rule: see `SeriesRule`; without roles. Ties are broken by the lower series UID, within a series by the first
            volume.
        policy: see `SeriesInfo.problem`.

    Returns:
        The selected series, in the order of `series`.
    """
    fit = [one for one in series if one.problem(policy) is None and rule.accepts(one)]
    if rule.pick == "all":
        return fit
    best: dict[str, SeriesInfo] = {}
    for one in sorted(fit, key=lambda one: (-rule.size(one.slices, one.shape), one.series_uid)):
        best.setdefault(one.patient_key if rule.per == "patient" else one.study_uid, one)
    chosen = {one.id for one in best.values()}
    return [one for one in fit if one.id in chosen]
