"""Selection of the images of a study by their roles, such as the views of a chest or the sequences of an MR study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monai_rd.dicom.choosing import RoleRule
from monai_rd.dicom.index import SeriesInfo
from monai_rd.errors import NoRoleError, Policy

__all__ = ["StudyImages", "choose_roles"]


@dataclass(frozen=True)
class StudyImages:
    """The images of one study by role.

    Attributes:
        study_uid: ``StudyInstanceUID``; of a series that has none, its series UID.
        images: for each role that the study has, in the order of the rule, a series and the number of a picture in it;
            None for a volume.
        problem: why the study cannot be used; None if it can.

    Example:
        >>> from pathlib import Path
        >>> from monai_rd.dicom import RoleRule, choose_roles, index_dicom
        >>> from monai_rd.phantoms import xray
        >>> xray.write_study(Path("image.dcm"), xray.CLASS_NAMES[0], seed=0, number=1)  # a synthetic PA view
        >>> (study,) = choose_roles(index_dicom("."), {"pa": RoleRule(view="PA"), "lateral": RoleRule(view="LL")})
        >>> list(study.images), study.problem
        (['pa'], None)
    """

    study_uid: str
    images: Mapping[str, tuple[SeriesInfo, int | None]]
    problem: NoRoleError | None = None


def choose_roles(
    series: Sequence[SeriesInfo], roles: Mapping[str, RoleRule], policy: Policy | None = None
) -> list[StudyImages]:
    """Select the image of each role of every study; series that cannot be read under the policy are never selected.

    Args:
        series: as returned by `index_dicom`.
        roles: the rules, see `SeriesRule`. Ties are broken by the lower series UID, within a series by the first.
        policy: see `SeriesInfo.problem`.

    Returns:
        One entry for each study with a series that can be read, in the order of `series`.
    """
    studies: dict[str, list[SeriesInfo]] = {}
    for one in series:
        if one.problem(policy) is None:
            studies.setdefault(one.study_uid or one.series_uid, []).append(one)
    return [_of_study(uid, own, roles) for uid, own in studies.items()]


def _of_study(uid: str, series: Sequence[SeriesInfo], roles: Mapping[str, RoleRule]) -> StudyImages:
    images: dict[str, tuple[SeriesInfo, int | None]] = {}
    for role, rule in roles.items():
        fit = [found for one in series if rule.accepts(one) for found in _images(one, rule)]
        if fit:
            images[role] = min(fit, key=lambda found: (-_size(found[0], found[1], rule), found[0].series_uid))
    taken = [(one.id, number) for one, number in images.values()]
    problem: NoRoleError | None = None
    if not images:
        problem = NoRoleError(f"no image of the study fits one of the roles {', '.join(roles)}: see `monai-rd index`")
    elif len(set(taken)) < len(taken):
        same = [role for role, one in zip(images, taken, strict=True) if taken.count(one) > 1]
        told = "one image of the study fits best to several roles"
        problem = NoRoleError(f"{told} ({', '.join(same)}): make the rules of these roles exclude each other")
    if problem is not None:
        problem.study_id = uid
    return StudyImages(uid, images, problem)


def _images(one: SeriesInfo, rule: RoleRule) -> list[tuple[SeriesInfo, int | None]]:
    """Return the pictures of a series that show the view, or its volume."""
    if not one.pictures:
        return [(one, None)] if rule.accepts_view(None) else []
    return [(one, number) for number, view in enumerate(one.views) if rule.accepts_view(view)]


def _size(one: SeriesInfo, number: int | None, rule: RoleRule) -> int:
    return rule.size(one.slices if number is None else 1, one.shape)
