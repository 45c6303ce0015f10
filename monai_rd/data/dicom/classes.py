"""Which DICOM objects are images that a classifier may be asked about."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset
from pydicom.uid import UID

from monai_rd.data.dicom.values import text, uid

__all__ = ["CLASS_TAGS", "is_directory", "is_image", "no_image", "sop_class"]

# Attributes of objects that have rows and columns and are no images.
CLASS_TAGS = ("SegmentationType", "DoseGridScaling", "TotalPixelMatrixColumns")
_IMAGES = re.compile(r".* Image Storage( - For Presentation| - For Processing| - Trial)?")
_MORE_IMAGES = frozenset({"Enhanced US Volume Storage", "Parametric Map Storage"})
# By name images: of a beam for treatment, or a pyramid of tiles, of which no frame shows the whole.
_NO_IMAGES = frozenset(
    {
        *("RT Image Storage", "Enhanced RT Image Storage", "Enhanced Continuous RT Image Storage"),
        *("VL Whole Slide Microscopy Image Storage", "Confocal Microscopy Tiled Pyramidal Image Storage"),
    }
)
# Of objects whose class says nothing (PS3.3 C.7.3.1.1.1).
_MODALITIES_WITHOUT_IMAGES = frozenset(
    {
        *(
            "ANN",
            "ASMT",
            "AU",
            "DOC",
            "ECG",
            "EEG",
            "EMG",
            "EOG",
            "EPS",
            "FID",
            "HD",
            "KO",
            "M3D",
            "OPV",
            "OSS",
            "PLAN",
        ),
        *("POS", "PR", "REG", "RESP", "RTDOSE", "RTIMAGE", "RTINTENT", "RTPLAN", "RTRAD", "RTRECORD", "RTSEGANN"),
        *("RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF", "STAIN", "VA"),
    }
)


def sop_class(dataset: Dataset) -> UID:
    """Return the class of a DICOM object, UID("") where it does not tell."""
    return UID(uid(dataset, "SOPClassUID") or uid(dataset.file_meta, "MediaStorageSOPClassUID"))


def is_directory(dataset: Dataset) -> bool:
    """Tell whether a parsed file is a DICOMDIR, which is about files and is no study."""
    return sop_class(dataset).name == "Media Storage Directory Storage"


def is_image(dataset: Dataset) -> bool:
    """Tell whether a parsed file is an image, also where it is cut off before its Rows."""
    return not no_image(dataset)


def no_image(dataset: Dataset) -> str:
    """Say what a DICOM object is that is no image to be classified, "" for an image.

    A class of the standard tells it. Of private and unknown classes, or without one, whatever has rows and columns is
    an image unless its modality or another attribute says that it is none.
    """
    known = sop_class(dataset)
    if known.type == "SOP Class":
        image = bool(_IMAGES.fullmatch(known.name)) or known.name in _MORE_IMAGES
        return "" if image and known.name not in _NO_IMAGES else known.name.removesuffix(" Storage")
    modality = text(dataset, "Modality")
    if modality in _MODALITIES_WITHOUT_IMAGES:
        return f"{modality} object"
    if "Rows" not in dataset or any(keyword in dataset for keyword in CLASS_TAGS):
        return "object of an unknown class"
    return ""
