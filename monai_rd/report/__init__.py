"""What a training ends with, and what is shown of data: metrics, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.report.final import FinalReport
    from monai_rd.report.metrics import classification_metrics, multi_label_metrics

__getattr__ = lazy_names(
    __name__, {"final": ("FinalReport",), "metrics": ("classification_metrics", "multi_label_metrics")}
)

__all__ = ["FinalReport", "classification_metrics", "multi_label_metrics"]
