"""DICOM as hospitals have it: an index of series from headers, and one series as one volume or picture."""

from monai_rd.data.dicom.header import is_dicom
from monai_rd.data.dicom.index import SeriesInfo, SeriesRule, choose_series, index_dicom
from monai_rd.data.dicom.series import SeriesVolume, load_series

__all__ = [
    "SeriesInfo",
    "SeriesRule",
    "SeriesVolume",
    "choose_series",
    "index_dicom",
    "is_dicom",
    "load_series",
]
