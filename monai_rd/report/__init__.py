"""What a run says at its end: metrics with intervals, as a table and as JSON."""

from monai_rd.report.metrics import classification_metrics
from monai_rd.report.test_report import TestReport

__all__ = ["TestReport", "classification_metrics"]
