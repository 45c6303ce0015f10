"""Public data sets in their publishers' layouts: recognised by their folders, with official splits and counts.

Only the files of COVID-CT were available to us. The layouts and counts of the others follow the descriptions of their
publishers and users; a copy that differs is used all the same, with a warning about the differences.
"""

from __future__ import annotations

from pathlib import Path

from monai_rd.datasets.published.folders import BTC, BUSI, CHEST_XRAY, COVID_CT
from monai_rd.datasets.published.layout import Published
from monai_rd.datasets.published.tables import CHEST_XRAY_14, HAM10000, HAM10000_AND_TEST, ISIC2018
from monai_rd.walk import folders_in

__all__ = ["PUBLISHED", "Published", "recognise"]

PUBLISHED = (COVID_CT, BTC, BUSI, CHEST_XRAY, ISIC2018, HAM10000_AND_TEST, HAM10000, CHEST_XRAY_14)


def recognise(root: Path, below: bool) -> tuple[Published | None, Path]:
    """Determine which published data set a folder holds.

    Args:
        root: the folder.
        below: whether to look into its only subfolder too, as archives unpack to one.

    Returns:
        The data set and its folder; None and `root` if it is not recognised.
    """
    inside = folders_in(root)
    places = [root, *inside] if below and len(inside) == 1 else [root]
    for place in places:
        for one in PUBLISHED:
            if one.is_in(place):
                return one, place
    return None, root
