"""DICOM series, data lists, and the phantom cohort."""

from monai_rd.data.datalist import DataList, DataListError, Studies, find_studies, make_datalist
from monai_rd.data.dataset import TolerantDataset
from monai_rd.data.dicom import SeriesInfo, SeriesVolume, index_dicom, load_series
from monai_rd.data.errors import DicomSeriesError, StudyError, UnreadableImageError
from monai_rd.data.phantoms import is_phantom, phantom_cohort

__all__ = [
    "DataList",
    "DataListError",
    "DicomSeriesError",
    "SeriesInfo",
    "SeriesVolume",
    "Studies",
    "StudyError",
    "TolerantDataset",
    "UnreadableImageError",
    "find_studies",
    "index_dicom",
    "is_phantom",
    "load_series",
    "make_datalist",
    "phantom_cohort",
]
