"""Groups of studies that have conformal limits of their own: those of a scanner, or of a site."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from monai_rd.scanners import maker_known

__all__ = ["GROUPED_BY", "UNKNOWN_GROUP", "check_conformal_groups", "group_key"]

GROUPED_BY = ("scanner", "site")  # keys of the items of a data list
UNKNOWN_GROUP = "UNKNOWN_GROUP"  # the flag of a study whose scanner or site has no limits of its own


def check_conformal_groups(asked: str | None, validation: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Check by what conformal limits are to be grouped.

    Args:
        asked: "scanner" or "site"; None for one group.
        validation: the items of the validation set; None: they are not known yet.

    Raises:
        ValueError: another word; or no validation study tells its scanner or site.

    Example:
        >>> from monai_rd.conformal_groups import check_conformal_groups
        >>> check_conformal_groups("site", [{"site": "North"}, {"site": ""}])
    """
    if asked is None:
        return
    if asked not in GROUPED_BY:
        raise ValueError(f"conformal_groups: 'scanner' or 'site' is needed, got {asked!r}")
    if validation is not None and not any(item.get(asked) for item in validation):
        header = {"scanner": "Manufacturer and ManufacturerModelName", "site": "InstitutionName"}[asked]
        raise ValueError(
            f"conformal_groups: no validation study tells its {asked}: add a column '{asked}' to the list (of DICOM "
            f"the header tells it in {header}), or leave conformal_groups out"
        )


def group_key(kind: str, name: str) -> str:
    """Return what is stored of a group: its name if it is a scanner of a known maker, else a part of the name's hash.

    The names of sites are not for those who get a student, and a header may hold any text in place of a manufacturer.
    Whoever knows a name can find it again.

    Args:
        kind: "scanner" or "site".
        name: of the group, "" if it is not known.

    Returns:
        The name, or the first 12 hexadecimal digits of its SHA-256; "" if it is not known.
    """
    shown = not name or (kind == "scanner" and maker_known(name))
    return name if shown else hashlib.sha256(name.encode()).hexdigest()[:12]
