"""Has the stream of studies changed since the training? Weeks of scores against a reference without patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.drift.comparison import Finding, compare
    from monai_rd.drift.reference import Reference, reference_of_training
    from monai_rd.drift.weeks import Week, read_weeks

__getattr__ = lazy_names(
    __name__,
    {
        "comparison": ("Finding", "compare"),
        "reference": ("Reference", "reference_of_training"),
        "weeks": ("Week", "read_weeks"),
    },
)

__all__ = ["Finding", "Reference", "Week", "compare", "read_weeks", "reference_of_training"]
