"""The data of a training: items cached in memory or on disk, repeatable random views, teacher features, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.cache.batches import Loaders, TrainingBatches, TrainingItems, training_items
    from monai_rd.cache.datasets import DiskCacheDataset, SkippingCacheDataset, cached_dataset, is_on_device
    from monai_rd.cache.feature_extraction import FeatureExtractor, feature_dataset
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
        "feature_extraction": (
            "FeatureExtractor",
            "feature_dataset",
        ),
        "tolerant": ("TolerantDataset",),
        "views": ("ReplayedViews",),
    },
)

__all__ = [
    "DiskCacheDataset",
    "FeatureExtractor",
    "Loaders",
    "ReplayedViews",
    "SkippingCacheDataset",
    "TolerantDataset",
    "TrainingBatches",
    "TrainingItems",
    "cached_dataset",
    "feature_dataset",
    "is_on_device",
    "training_items",
]
