"""Published data sets with a folder for each class: COVID-CT, BTC, BUSI, and the four-class chest X-rays."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from monai_rd.datasets.near_duplicates import Fingerprint, copy_groups, digest_of, fingerprint
from monai_rd.datasets.near_matches import path_advice
from monai_rd.datasets.problems import Problems
from monai_rd.datasets.published.layout import ALL, Published, images_in
from monai_rd.datasets.reading import Found, Reading
from monai_rd.datasets.splits import DEVELOPMENT
from monai_rd.datasets.studies import item_of_image
from monai_rd.errors import StudyError
from monai_rd.files import known_hash
from monai_rd.images import read_picture
from monai_rd.text import read_text
from monai_rd.walk import folders_in

__all__ = ["BTC", "BUSI", "CHEST_XRAY", "COVID_CT"]

logger = logging.getLogger(__name__)


def _has_classes(folder: Path, names: tuple[str, ...]) -> bool:
    return folder.is_dir() and {own.name for own in folders_in(folder)} == set(names)


def _split_folders(
    class_names: tuple[str, ...], split_of: Mapping[str, str]
) -> Callable[[Path, Reading, Problems], Found]:
    """Return a reader of data sets with one folder for each split and, inside, one for each class."""

    def read(place: Path, reading: Reading, problems: Problems) -> Found:
        splits: list[str] = []
        found = Found(splits=splits, copies=[])
        for folder, split in split_of.items():
            for class_name in class_names:
                for image in images_in(place / folder / class_name):
                    found.items.append(item_of_image(image) | {"label": class_name})
                    splits.append(split)
        found.copies = _copies([Path(item["image"]) for item in found.items])
        return found

    return read


def _copies(files: list[Path]) -> list[str]:
    """Content hashes, equal for equal files; "" for files that cannot be read or whose size no other file has."""
    sizes = [_size(file) for file in files]
    count = Counter(sizes)
    return [known_hash(file) if count[size] > 1 else "" for file, size in zip(files, sizes, strict=True)]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # loading the file reports why
        return -1


# ------------------------------------------------------------------------------------------------------ COVID-CT

_COVID_CT_FOLDERS = {"NonCOVID": "CT_NonCOVID", "COVID": "CT_COVID"}


def _read_covid_ct(place: Path, reading: Reading, problems: Problems) -> Found:
    """Read one list of file names for each class and split. A duplicate line of the lists is kept."""
    splits: list[str] = []
    found = Found(splits=splits)
    for split, short in {"training": "train", "validation": "val", "test": "test"}.items():
        for name, images in _COVID_CT_FOLDERS.items():
            listing = place / "Data-split" / name / f"{short}CT_{name}.txt"
            folders = [place / parent / images for parent in ("Images", "Images-processed", "")]
            folder = next((f for f in folders if f.is_dir()), None)
            if folder is None or not listing.is_file():
                missing = f"no folder of images {images}" if folder is None else f"no {listing.name}"
                problems.add(f"COVID-CT: {missing}")
                continue
            names = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
            absent = [file for file in names if not (folder / file).is_file()]
            if absent:
                problems.add(
                    f"COVID-CT: {len(absent)} of the {len(names)} images of {listing.name} are not in {folder.name}"
                    f"{path_advice(absent, [image.name for image in images_in(folder)])}"
                )
            found.items += [item_of_image(folder / file) | {"label": name} for file in names]
            splits += [split] * len(names)
    return found


COVID_CT = Published(
    name="COVID-CT",
    class_names=tuple(_COVID_CT_FOLDERS),
    counts={"training": (234, 191), "validation": (58, 60), "test": (105, 98)},
    is_in=lambda place: (place / "Data-split").is_dir(),
    read=_read_covid_ct,
    note="Two test images have copies of the other label in training: see monai-rd audit.",
)

# ----------------------------------------------------------------------------------------------------------- BTC

_BTC_CLASSES = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")

BTC = Published(
    name="BTC",
    class_names=_BTC_CLASSES,
    counts={"training": (826, 822, 395, 827), "test": (100, 115, 105, 74)},
    is_in=lambda place: all(_has_classes(place / split, _BTC_CLASSES) for split in ("Training", "Testing")),
    read=_split_folders(_BTC_CLASSES, {"Training": DEVELOPMENT, "Testing": "test"}),
    note="No patients are published: slices of one patient may stand in all three lists.",
)

# ------------------------------------------------------------------------------------------------------ chest X-ray

_CHEST_XRAY_CLASSES = ("NORMAL", "COVID19", "PNEUMONIA", "TURBERCULOSIS")

CHEST_XRAY = Published(
    name="chest X-ray (COVID-19, pneumonia, tuberculosis)",
    class_names=_CHEST_XRAY_CLASSES,
    counts={"training": (1341, 460, 3875, 650), "validation": (8, 10, 8, 12), "test": (234, 106, 390, 41)},
    is_in=lambda place: all(_has_classes(place / split, _CHEST_XRAY_CLASSES) for split in ("train", "val", "test")),
    read=_split_folders(_CHEST_XRAY_CLASSES, {"train": "training", "val": "validation", "test": "test"}),
    note="The classes come from different sources, which a network may tell apart instead: see monai-rd audit.",
)

# ---------------------------------------------------------------------------------------------------------- BUSI

# In order of malignancy: the publisher defines no order.
_BUSI_CLASSES = ("normal", "benign", "malignant")


def _is_busi(place: Path) -> bool:
    names = {name: re.compile(rf"{name} \(\d+\)\.png") for name in _BUSI_CLASSES}
    return _has_classes(place, _BUSI_CLASSES) and all(
        any(like.fullmatch(file.name) for file in images_in(place / name)) for name, like in names.items()
    )


def _read_busi(place: Path, reading: Reading, problems: Problems) -> Found:
    """Read the images without their masks; exact and near duplicates share one group in place of the patient."""
    found = Found()
    prints: list[Fingerprint] = []
    for name in _BUSI_CLASSES:
        unreadable = 0
        for file in (file for file in images_in(place / name) if "_mask" not in file.stem):
            try:
                grey = np.asarray(read_picture(file).convert("L"))
            except StudyError:
                unreadable += 1
                continue
            prints.append(fingerprint(grey, digest_of(grey)))
            found.items.append(item_of_image(file) | {"label": name})
        if unreadable:
            problems.add(f"BUSI: {unreadable} images of {name} cannot be read")
    groups = copy_groups(prints)
    name_of: dict[int, str] = {}
    for item, group, one in zip(found.items, groups, prints, strict=True):
        item["patient"] = name_of.setdefault(group, one.digest[:12])
    logger.info("BUSI: %d images, %d without their copies and near copies", len(groups), len(name_of))
    contradicting = len({(item["patient"], item["label"]) for item in found.items}) - len(name_of)
    if contradicting:
        logger.warning("BUSI: %d images have copies under another label: see monai-rd audit", contradicting)
    return found


BUSI = Published(
    name="BUSI",
    class_names=_BUSI_CLASSES,
    counts={ALL: (133, 437, 210)},
    is_in=_is_busi,
    read=_read_busi,
    note="Copies and near copies stay on one side; no patients are published, and they may stand on several.",
)
