"""DICOM input: an index of series from headers, and loading of one series as a volume or picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.dicom.choosing import RoleRule, SeriesRule, choose_series
    from monai_rd.dicom.index import SeriesInfo, index_dicom
    from monai_rd.dicom.parsing import is_dicom
    from monai_rd.dicom.roles import StudyImages, choose_roles
    from monai_rd.dicom.series import SeriesVolume, load_series

# Decoding pixels needs pydicom 3 and imagecodecs; reading NIfTI (in MONAI Label, with pydicom 2) needs neither.
__getattr__ = lazy_names(
    __name__,
    {
        "parsing": ("is_dicom",),
        "choosing": ("RoleRule", "SeriesRule", "choose_series"),
        "index": ("SeriesInfo", "index_dicom"),
        "roles": ("StudyImages", "choose_roles"),
        "series": ("SeriesVolume", "load_series"),
    },
)

__all__ = [
    "RoleRule",
    "SeriesInfo",
    "SeriesRule",
    "SeriesVolume",
    "StudyImages",
    "choose_roles",
    "choose_series",
    "index_dicom",
    "is_dicom",
    "load_series",
]
