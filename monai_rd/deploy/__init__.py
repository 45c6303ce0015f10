"""What becomes of a trained bundle: files for other runtimes, and services that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.deploy.export import FORMATS, export
    from monai_rd.deploy.trained import TrainedBundle

__getattr__ = lazy_names(__name__, {"export": ("FORMATS", "export"), "trained": ("TrainedBundle",)})

__all__ = ["FORMATS", "TrainedBundle", "export"]
