"""Which DICOM objects are images that can be classified, by SOP class and modality."""

from __future__ import annotations

import re
from functools import lru_cache

from pydicom.dataset import Dataset
from pydicom.uid import UID

from monai_rd.dicom.values import text, uid

__all__ = ["CLASS_TAGS", "is_directory", "is_image", "no_image"]

# Attributes of objects that have rows and columns but are not images.
CLASS_TAGS = ("SegmentationType", "DoseGridScaling", "TotalPixelMatrixColumns")
_IMAGES = re.compile(r".* Image Storage( - For Presentation| - For Processing| - Trial)?")
_MORE_IMAGES = frozenset({"Enhanced US Volume Storage", "Parametric Map Storage"})
# Named "Image Storage" but refused: images of a treatment beam, and pyramids of tiles, none of which shows the whole.
_NO_IMAGES = frozenset(
    {
        *("RT Image Storage", "Enhanced RT Image Storage", "Enhanced Continuous RT Image Storage"),
        *("VL Whole Slide Microscopy Image Storage", "Confocal Microscopy Tiled Pyramidal Image Storage"),
    }
)
# Modalities (PS3.3 C.7.3.1.1.1) of objects that are not images of the patient, even as a secondary capture.
_NEVER_IMAGES = frozenset(
    ("DOC", "KO", "PR", "REG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "SEG", "SR"),
)
# The same for objects with a private or unknown SOP class.
_WITHOUT_IMAGES = _NEVER_IMAGES | {
    *("ANN", "ASMT", "AU", "ECG", "EEG", "EMG", "EOG", "EPS", "FID", "HD", "M3D", "OPV", "OSS", "PLAN", "POS", "RESP"),
    *("RTINTENT", "RTRAD", "RTSEGANN", "RWV", "SM", "SMR", "SRF", "STAIN", "VA"),
}


def _class_of(dataset: Dataset) -> tuple[str, bool]:
    """Return the name of an object's SOP class, and whether it is a SOP class of the standard."""
    return _known_class(uid(dataset, "SOPClassUID") or uid(dataset.file_meta, "MediaStorageSOPClassUID"))


@lru_cache(256)
def _known_class(class_uid: str) -> tuple[str, bool]:
    known = UID(class_uid)
    return known.name, known.type == "SOP Class"


def is_directory(dataset: Dataset) -> bool:
    """Return whether a parsed file is a DICOMDIR, which lists files and is not a study."""
    return _class_of(dataset)[0] == "Media Storage Directory Storage"


def is_image(dataset: Dataset) -> bool:
    """Return whether a parsed file is an image, even if it is cut off before its Rows."""
    return not no_image(dataset)


def no_image(dataset: Dataset) -> str:
    """Return what a DICOM object is if it is not an image that can be classified, "" for an image.

    For SOP classes of the standard, the class decides, unless the modality says that the image shows a document or the
    like. Objects of private or unknown classes, or without one, are images if they have rows and columns and neither
    modality nor other attributes contradict.
    """
    (name, known), modality = _class_of(dataset), text(dataset, "Modality")
    if known:
        image = bool(_IMAGES.fullmatch(name)) or name in _MORE_IMAGES
        if not image or name in _NO_IMAGES:
            return name.removesuffix(" Storage")
        return f"{modality} as an image" if modality in _NEVER_IMAGES else ""
    if modality in _WITHOUT_IMAGES:
        return f"{modality} object"
    if "Rows" not in dataset or any(keyword in dataset for keyword in CLASS_TAGS):
        return "object of an unknown class"
    return ""
