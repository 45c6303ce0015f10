"""Data sets as their publishers lay them out: recognised by their folders, with their official splits and counts.

Only the files of COVID-CT were at hand. What is known of the others is what their publishers and users say of them; a
copy that differs is used all the same, and a warning says in what.
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
    """Find out which published data set a folder is.

    Args:
        root: the folder.
        below: look into the only folder in it too, as archives unpack to one.

    Returns:
        the data set and the folder that it lies in, or None and `root`.
    """
    inside = folders_in(root)
    places = [root, *inside] if below and len(inside) == 1 else [root]
    for place in places:
        for one in PUBLISHED:
            if one.is_in(place):
                return one, place
    return None, root
