"""What becomes of a trained bundle: files for other runtimes, answers as DICOM, and services that give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.deploy.trained import TrainedBundle

__getattr__ = lazy_names(__name__, {"trained": ("TrainedBundle",)})

__all__ = ["TrainedBundle"]
