"""What becomes of a trained bundle: files for other runtimes, and services that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.deploy.export import FORMATS, export_formats
    from monai_rd.deploy.trained import TrainedBundle

__getattr__ = lazy_names(__name__, {"export": ("FORMATS", "export_formats"), "trained": ("TrainedBundle",)})

__all__ = ["FORMATS", "TrainedBundle", "export_formats"]
