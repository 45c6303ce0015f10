"""Reports on a trained student and on data: metrics, tables, figures, HTML pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.report.final import FinalReport
    from monai_rd.report.labelled import LabelledReport
    from monai_rd.report.metrics import classification_metrics, multi_label_metrics
    from monai_rd.report.page import Section, write_page
    from monai_rd.report.style import save_figure

__getattr__ = lazy_names(
    __name__,
    {
        "final": ("FinalReport",),
        "labelled": ("LabelledReport",),
        "metrics": ("classification_metrics", "multi_label_metrics"),
        "page": ("Section", "write_page"),
        "style": ("save_figure",),
    },
)

__all__ = [
    "FinalReport",
    "LabelledReport",
    "Section",
    "classification_metrics",
    "multi_label_metrics",
    "save_figure",
    "write_page",
]
