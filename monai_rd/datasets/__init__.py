"""Data sets: reading data lists, splitting them, finding duplicates, and auditing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.datasets.datalist import (
        DataList,
        labelled_studies,
        make_datalist,
        make_folds,
        studies_to_score,
        write_datalist,
    )
    from monai_rd.datasets.problems import DataListError
    from monai_rd.datasets.studies import Studies, find_studies

__getattr__ = lazy_names(
    __name__,
    {
        "datalist": (
            "DataList",
            "labelled_studies",
            "make_datalist",
            "make_folds",
            "studies_to_score",
            "write_datalist",
        ),
        "problems": ("DataListError",),
        "studies": (
            "Studies",
            "find_studies",
        ),
    },
)

__all__ = [
    "DataList",
    "DataListError",
    "Studies",
    "find_studies",
    "labelled_studies",
    "make_datalist",
    "make_folds",
    "studies_to_score",
    "write_datalist",
]
