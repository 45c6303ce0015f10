"""Published data sets with a table of labels: ISIC2018 Task 3, HAM10000, ChestX-ray14."""

from __future__ import annotations

import logging
from pathlib import Path

from monai_rd.datasets.near_matches import path_advice
from monai_rd.datasets.problems import DataListError, Problems
from monai_rd.datasets.published.layout import ALL, Published, images_in
from monai_rd.datasets.reading import Found, Reading
from monai_rd.datasets.sheets import read_table
from monai_rd.datasets.splits import DEVELOPMENT
from monai_rd.datasets.studies import Item, item_of_image
from monai_rd.pseudonyms import patient_pseudonym
from monai_rd.text import read_text
from monai_rd.walk import folders_in

__all__ = ["CHEST_XRAY_14", "HAM10000", "HAM10000_AND_TEST", "ISIC2018"]

logger = logging.getLogger(__name__)


def _table(place: Path, stem: str) -> Path | None:
    """Return the table of this name in a folder, or in its subfolder of this name, as archives unpack."""
    paths = (folder / f"{stem}{suffix}" for folder in (place, place / stem) for suffix in (".csv", ".tab", ""))
    return next((path for path in paths if path.is_file()), None)


# --------------------------------------------------------------------------------------------- ISIC2018, HAM10000

SKIN_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
_SKIN_TRAINING = (1113, 6705, 514, 327, 1099, 115, 142)
_SKIN_TEST = (171, 909, 93, 43, 217, 44, 35)
_SKIN_VALIDATION = (21, 123, 15, 8, 22, 1, 3)


class _SkinReader:
    """Collects items from image folders and tables of their diagnoses."""

    def __init__(self, name: str, problems: Problems) -> None:
        self.name, self.problems = name, problems
        self.splits: list[str] = []
        self.lesions: list[str] = []
        self.found = Found(splits=self.splits, lesions=self.lesions)

    def add(self, split: str, folders: list[Path], table: Path | None, what: str, may_lack: bool = False) -> None:
        """Add the images that a table names.

        Args:
            split: split of the images.
            folders: folders that hold them.
            table: table of the diagnoses: a column for each class, one of them 1; or the columns image_id and dx.
            what: name of the table, for the message if it is missing.
            may_lack: whether one image may be missing; it is then left out with a warning.
        """
        if table is None:
            self.problems.add(f"{self.name}: no {what}.csv")
            return
        # Archives may unpack to a folder with their own name.
        files = {path.stem: path for folder in folders for path in images_in(folder) + images_in(folder / folder.name)}
        try:
            rows = _diagnoses(table)
        except DataListError as error:
            self.problems.add(f"{self.name}: {error}")
            return
        unclear = sum(not label for _, label, _ in rows)
        if unclear:
            self.problems.add(f"{self.name}: {unclear} of the {len(rows)} rows of {table.name} tell no single class")
        absent = [image for image, _, _ in rows if image not in files]
        if len(absent) == 1 and may_lack:
            logger.warning("%s: 1 of the %d images of %s is not there and left out", self.name, len(rows), table.name)
        elif absent:
            where = " or ".join(folder.name for folder in folders) or "any folder of images"
            self.problems.add(
                f"{self.name}: {len(absent)} of the {len(rows)} images of {table.name} are not in {where}"
                f"{path_advice(absent, files)}"
            )
        unnamed = len(files) - len({image for image, _, _ in rows} & set(files))
        if unnamed:
            logger.warning("%s: %d images are not in %s and not used", self.name, unnamed, table.name)
        for image, label, lesion in rows:
            if image in files and label:
                self.found.items.append(item_of_image(files[image]) | {"label": label})
                self.splits.append(split)
                self.lesions.append(lesion)


def _diagnoses(path: Path) -> list[tuple[str, str, str]]:
    """Read the image, class ("" if it is not exactly one) and lesion ("" if unknown) of each row.

    Raises:
        DataListError: the table cannot be read, or has other columns.
    """
    table = read_table(path)
    table.columns = [str(name).strip() for name in table.columns]
    if {"image_id", "dx"} <= set(table.columns):
        labels = [dx.strip().upper() for dx in table["dx"]]
        labels = [label if label in SKIN_CLASSES else "" for label in labels]
        images = table["image_id"]
    elif {"image", *SKIN_CLASSES} <= set(table.columns):
        cells = zip(*(table[name] for name in SKIN_CLASSES), strict=True)
        marked = [[name for name, cell in zip(SKIN_CLASSES, row, strict=True) if cell in ("1", "1.0")] for row in cells]
        labels = [names[0] if len(names) == 1 else "" for names in marked]
        images = table["image"]
    else:
        needed = f"image, {', '.join(SKIN_CLASSES)}, or image_id and dx"
        raise DataListError(f"{path.name} needs the columns {needed}, it has: {list(table.columns)}")
    lesions = table["lesion_id"] if "lesion_id" in table else [""] * len(labels)
    return [(image.strip(), label, lesion) for image, label, lesion in zip(images, labels, lesions, strict=True)]


def _read_isic(place: Path, reading: Reading, problems: Problems) -> Found:
    """Read three folders of images, each with a table; the validation set may be missing."""
    reader = _SkinReader("ISIC2018", problems)
    validation = (place / "ISIC2018_Task3_Validation_Input").is_dir()
    splits = {"Training": "training" if validation else DEVELOPMENT, "Validation": "validation", "Test": "test"}
    for part, split in splits.items():
        if part != "Validation" or validation:
            folder, table = place / f"ISIC2018_Task3_{part}_Input", f"ISIC2018_Task3_{part}_GroundTruth"
            reader.add(split, [folder], _table(place, table), table)
    lesion_of = _lesions(place, problems)
    reader.found.lesions = [lesion_of.get(Path(item["image"]).stem, "") for item in reader.found.items]
    return reader.found


def _lesions(place: Path, problems: Problems) -> dict[str, str]:
    """Read the lesion ID of each training image of ISIC2018, by image name."""
    path = _table(place, "ISIC2018_Task3_Training_LesionGroupings")
    if path is None:
        logger.warning(
            "ISIC2018: no ISIC2018_Task3_Training_LesionGroupings.csv: images of one lesion may stand in training and "
            "validation"
        )
        return {}
    table = read_table(path)
    if not {"image", "lesion_id"} <= set(table.columns):
        problems.add(f"ISIC2018: {path.name} needs the columns image and lesion_id")
        return {}
    return dict(zip(table["image"], table["lesion_id"], strict=True))


ISIC2018 = Published(
    name="ISIC2018",
    class_names=SKIN_CLASSES,
    counts={"training": _SKIN_TRAINING, "validation": _SKIN_VALIDATION, "test": _SKIN_TEST},
    is_in=lambda place: (place / "ISIC2018_Task3_Training_Input").is_dir(),
    read=_read_isic,
    note="LVM-Med was pretrained on 2,000 of the training images, without their labels.",
)


def _ham_images(place: Path) -> list[Path]:
    return [folder for folder in folders_in(place) if folder.name.lower().startswith("ham10000_images")]


def _ham_test_table(place: Path) -> Path | None:
    return _table(place, "ISIC2018_Task3_Test_GroundTruth")


def _is_ham(place: Path) -> bool:
    return bool(_ham_images(place)) and _table(place, "HAM10000_metadata") is not None


def _read_ham(place: Path, reading: Reading, problems: Problems) -> Found:
    """Read the training images; they are split by lesion if there is no test set with them."""
    reader = _SkinReader("HAM10000", problems)
    table = _table(place, "HAM10000_metadata")
    reader.add(DEVELOPMENT, _ham_images(place), table, "HAM10000_metadata")
    test = _ham_test_table(place)
    if test is None:
        reader.found.splits = None
    else:
        folders = [place / f"ISIC2018_Task3_Test_{name}" for name in ("Images", "Input")]
        folders = [folder for folder in folders if folder.is_dir()]
        reader.add("test", folders, test, "ISIC2018_Task3_Test_GroundTruth", may_lack=True)
    return reader.found


HAM10000_AND_TEST = Published(
    name="HAM10000 with the test set of ISIC2018",
    class_names=SKIN_CLASSES,
    counts={"training": _SKIN_TRAINING, "test": _SKIN_TEST},
    is_in=lambda place: _is_ham(place) and _ham_test_table(place) is not None,
    read=_read_ham,
    note=ISIC2018.note,
)

HAM10000 = Published(
    name="HAM10000",
    class_names=SKIN_CLASSES,
    counts={ALL: _SKIN_TRAINING},
    is_in=_is_ham,
    read=_read_ham,
    note="The official test set, ISIC2018_Task3_Test_GroundTruth.csv and its images, is not here. " + ISIC2018.note,
)

# ---------------------------------------------------------------------------------------------------- ChestX-ray14

_NIH_TABLES = ("Data_Entry_2017", "Data_Entry_2017_v2020")
# Class, and its number of items in the published training and test sets; order of Wang et al. 2017, Table 1.
_NIH_FINDINGS = {
    "Atelectasis": (8280, 3279),
    "Cardiomegaly": (1707, 1069),
    "Effusion": (8659, 4658),
    "Infiltration": (13782, 6112),
    "Mass": (4034, 1748),
    "Nodule": (4708, 1623),
    "Pneumonia": (876, 555),
    "Pneumothorax": (2637, 2665),
    "Consolidation": (2852, 1815),
    "Edema": (1378, 925),
    "Emphysema": (1423, 1093),
    "Fibrosis": (1251, 435),
    "Pleural_Thickening": (2242, 1143),
    "Hernia": (141, 86),
}


def _nih_table(place: Path) -> Path | None:
    return next((table for name in _NIH_TABLES if (table := _table(place, name)) is not None), None)


def _read_nih(place: Path, reading: Reading, problems: Problems) -> Found:
    """Read the table of findings and the two official lists of file names."""
    splits: list[str] = []
    found = Found(splits=splits, multi_label=True)
    path = _nih_table(place)
    assert path is not None
    table = read_table(path)
    if not {"Image Index", "Finding Labels", "Patient ID"} <= set(table.columns):
        problems.add(f"ChestX-ray14: {path.name} needs the columns Image Index, Finding Labels, Patient ID")
        return found
    labels = [tuple(name for name in cell.split("|") if name != "No Finding") for cell in table["Finding Labels"]]
    # Patient numbers are the publisher's own; file names contain them with leading zeros.
    key_of = {number: patient_pseudonym(number.lstrip("0"), reading.key) for number in set(table["Patient ID"])}
    rows: dict[str, Item] = {
        image: {"label": label, "patient": key_of[number]}
        for image, label, number in zip(table["Image Index"], labels, table["Patient ID"], strict=True)
    }
    folders = [f for f in folders_in(place) if f.name.startswith("images")]
    files = {file.name: file for folder in folders for file in images_in(folder) + images_in(folder / "images")}
    listed: set[str] = set()
    for listing, split in ((place / "train_val_list.txt", DEVELOPMENT), (place / "test_list.txt", "test")):
        if not listing.is_file():
            problems.add(f"ChestX-ray14: no {listing.name}")
            continue
        names = read_text(listing).split()
        listed.update(names)
        for where, known in ((path.name, rows.keys()), ("the folders images or images_*", files.keys())):
            absent = [name for name in names if name not in known]
            if absent:
                problems.add(
                    f"ChestX-ray14: {len(absent)} of the {len(names)} images of {listing.name} are not in {where}"
                    f"{path_advice(absent, known)}"
                )
        names = [name for name in names if name in files and name in rows]
        found.items += [item_of_image(files[name]) | rows[name] for name in names]
        splits += [split] * len(names)
    if rows.keys() - listed:
        unlisted = len(rows.keys() - listed)
        logger.warning("ChestX-ray14: %d images of %s stand in no list and are not used", unlisted, path.name)
    return found


CHEST_XRAY_14 = Published(
    name="ChestX-ray14",
    class_names=tuple(_NIH_FINDINGS),
    counts={split: tuple(both[n] for both in _NIH_FINDINGS.values()) for n, split in enumerate(("training", "test"))},
    sizes={"training": 86524, "test": 25596},
    is_in=lambda place: _nih_table(place) is not None,
    read=_read_nih,
    note="A program read the labels from reports; their publisher expects more than 90 % of them to be right.",
)
