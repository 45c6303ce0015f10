"""What becomes of a trained bundle: files for other runtimes, answers as DICOM, and services that give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.deploy.dicom_output import secondary_capture, structured_report
    from monai_rd.deploy.export import FORMATS, export_formats

__getattr__ = lazy_names(
    __name__,
    {
        "dicom_output": ("secondary_capture", "structured_report"),
        "export": ("FORMATS", "export_formats"),
    },
)

__all__ = ["FORMATS", "export_formats", "secondary_capture", "structured_report"]
