"""DICOM series, data lists, and the phantom cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.data.batches import TrainingBatches, TrainingItems
    from monai_rd.data.caching import DiskCacheDataset, SkippingCacheDataset, cached_dataset, is_on_device
    from monai_rd.data.datalist import DataList, labelled_studies, make_datalist, make_folds, write_datalist
    from monai_rd.data.dataset import TolerantDataset
    from monai_rd.data.dicom import SeriesInfo, SeriesRule, SeriesVolume, choose_series, index_dicom, load_series
    from monai_rd.data.errors import DicomSeriesError, Policy, StudyError, UnreadableImageError
    from monai_rd.data.phantoms import is_phantom, phantom_cohort, phantom_pool
    from monai_rd.data.problems import DataListError
    from monai_rd.data.pseudonyms import project_key
    from monai_rd.data.studies import Studies, find_studies
    from monai_rd.data.teaching import Teaching, taught_dataset
    from monai_rd.data.views import ReplayedViews

__getattr__ = lazy_names(
    __name__,
    {
        "batches": ("TrainingBatches", "TrainingItems"),
        "caching": ("DiskCacheDataset", "SkippingCacheDataset", "cached_dataset", "is_on_device"),
        "datalist": ("DataList", "labelled_studies", "make_datalist", "make_folds", "write_datalist"),
        "dataset": ("TolerantDataset",),
        "dicom": ("SeriesInfo", "SeriesRule", "SeriesVolume", "choose_series", "index_dicom", "load_series"),
        "errors": ("DicomSeriesError", "Policy", "StudyError", "UnreadableImageError"),
        "phantoms": ("is_phantom", "phantom_cohort", "phantom_pool"),
        "problems": ("DataListError",),
        "pseudonyms": ("project_key",),
        "studies": ("Studies", "find_studies"),
        "teaching": ("Teaching", "taught_dataset"),
        "views": ("ReplayedViews",),
    },
)

__all__ = [
    "DataList",
    "DataListError",
    "DicomSeriesError",
    "DiskCacheDataset",
    "Policy",
    "ReplayedViews",
    "SeriesInfo",
    "SeriesRule",
    "SeriesVolume",
    "SkippingCacheDataset",
    "Studies",
    "StudyError",
    "Teaching",
    "TolerantDataset",
    "TrainingBatches",
    "TrainingItems",
    "UnreadableImageError",
    "cached_dataset",
    "choose_series",
    "find_studies",
    "index_dicom",
    "is_on_device",
    "is_phantom",
    "labelled_studies",
    "load_series",
    "make_datalist",
    "make_folds",
    "phantom_cohort",
    "phantom_pool",
    "project_key",
    "taught_dataset",
    "write_datalist",
]
