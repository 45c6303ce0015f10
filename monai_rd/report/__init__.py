"""What a run says at its end: metrics with intervals, as a table and as JSON."""

from monai_rd.report.final import FinalReport
from monai_rd.report.metrics import classification_metrics

__all__ = ["FinalReport", "classification_metrics"]
