"""What trainings read: items kept in memory or on disk, views, teacher features, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.cache.batches import Loaders, TrainingBatches, TrainingItems, training_items
    from monai_rd.cache.datasets import DiskCacheDataset, SkippingCacheDataset, cached_dataset, is_on_device
    from monai_rd.cache.teaching import Teaching, taught_dataset
    from monai_rd.cache.tolerant import TolerantDataset
    from monai_rd.cache.views import ReplayedViews

__getattr__ = lazy_names(
    __name__,
    {
        "batches": (
            "Loaders",
            "TrainingBatches",
            "TrainingItems",
            "training_items",
        ),
        "datasets": (
            "DiskCacheDataset",
            "SkippingCacheDataset",
            "cached_dataset",
            "is_on_device",
        ),
        "teaching": (
            "Teaching",
            "taught_dataset",
        ),
        "tolerant": ("TolerantDataset",),
        "views": ("ReplayedViews",),
    },
)

__all__ = [
    "DiskCacheDataset",
    "Loaders",
    "ReplayedViews",
    "SkippingCacheDataset",
    "Teaching",
    "TolerantDataset",
    "TrainingBatches",
    "TrainingItems",
    "cached_dataset",
    "is_on_device",
    "taught_dataset",
    "training_items",
]
