"""From a folder as it comes to training, validation and test lists, and to the studies to be scored."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from monai_rd.data.dicom import SeriesInfo, index_dicom
from monai_rd.data.errors import NoDicomError, count_codes
from monai_rd.files import IMAGE_SUFFIXES, NIFTI_SUFFIXES, content_hash

__all__ = ["DataList", "DataListError", "Studies", "find_studies", "make_datalist"]

logger = logging.getLogger(__name__)

SPLITS = ("training", "validation", "test")
SPLIT_NAMES = {"train": "training", "val": "validation", "valid": "validation", "testing": "test"} | {
    s: s for s in SPLITS
}
LABEL_FILES = ("labels.csv", "data.csv")
# Names of the official split files of COVID-CT (github.com/UCSD-AI4H/COVID-CT).
COVID_CT = {"NonCOVID": "CT_NonCOVID", "COVID": "CT_COVID"}
COVID_CT_SPLITS = {"training": "train", "validation": "val", "test": "test"}
COVID_CT_COUNTS = {"training": (234, 191), "validation": (58, 60), "test": (105, 98)}

Item = dict[str, Any]


class DataListError(ValueError):
    """The data list cannot be used; the message lists everything that is wrong with it, at once."""


@dataclass(frozen=True)
class DataList:
    """Items `{"image": path or list of paths, "label": class index}` of the three splits.

    Attributes:
        class_names: by class index; of two classes the second is the positive one of sensitivity, specificity and AUC.
        training: items to train on.
        validation: items to choose the best epoch by.
        test: items to report on, never used to choose anything.
    """

    class_names: tuple[str, ...]
    training: list[Item]
    validation: list[Item]
    test: list[Item]

    def __getitem__(self, split: str) -> list[Item]:
        """The items of a split, by name, as bundle configs ask for them."""
        if split not in SPLITS:
            raise KeyError(f"no split '{split}'; there are {', '.join(SPLITS)}")
        return list(getattr(self, split))

    def __str__(self) -> str:
        rows = []
        for split in SPLITS:
            counts = Counter(item["label"] for item in self[split])
            classes = ", ".join(f"{counts[index]} {name}" for index, name in enumerate(self.class_names))
            rows.append(f"{split} {len(self[split])} ({classes})")
        return "; ".join(rows)


def make_datalist(
    dataset_dir: str | os.PathLike[str],
    data_list: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> DataList:
    """Make training, validation and test lists of a data set.

    Looked for, in this order: `data_list` if given; the official layout and split of COVID-CT; `labels.csv` or
    `data.csv` in the folder; a folder of images or DICOM series for each class.

    - CSV: columns `image` (file or series folder, relative to `dataset_dir`) or `series` (a SeriesInstanceUID found
      below it), and `label`; optional `patient` and `split` (training, validation, test).
    - JSON: MONAI's data list, `{"training": [{"image": ..., "label": ...}], "validation": [...], "test": [...]}`.

    Without a split column the items are split 4:1 into development and test, and development 4:1 into training and
    validation, stratified by class and with no patient (CSV column, or DICOM PatientID) on both sides.

    Args:
        dataset_dir: folder of the data.
        data_list: a CSV or JSON file, if it is not found in the folder.
        class_names: the classes in order of their index, the positive one last; by default sorted by name (COVID-CT:
            COVID is the positive one).
        num_classes: how many classes the caller expects; None takes what is found.
        seed: of the split.

    Raises:
        FileNotFoundError: no such folder or file.
        DataListError: nothing usable there, or everything that is wrong with the list, named by row.
    """
    root = Path(dataset_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset_dir '{root}' is not a folder")
    labels = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    if data_list is not None:
        path = Path(data_list)
        if not path.is_file():
            raise FileNotFoundError(f"data_list '{path}' is not a file")
        found = (
            _from_json(path, root, class_names) if path.suffix == ".json" else _from_csv(path, root, class_names, seed)
        )
    elif (root / "Data-split").is_dir():
        found = _from_covid_ct(root, class_names)
    elif labels is not None:
        found = _from_csv(labels, root, class_names, seed)
    else:
        found = _from_class_folders(root, class_names, seed)
    if num_classes is not None and num_classes != len(found.class_names):
        raise DataListError(
            f"num_classes is {num_classes}, but the data have {len(found.class_names)}: {found.class_names}"
        )
    empty = [
        f"class '{name}' has no item in {split}"
        for split in SPLITS
        for index, name in enumerate(found.class_names)
        if not any(item["label"] == index for item in found[split])
    ]
    _refuse(empty)
    logger.info("data: %s", found)
    return found


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        shown = "\n  - ".join(problems[:30])
        more = f"\n  ... and {len(problems) - 30} more" if len(problems) > 30 else ""
        raise DataListError(f"the data list cannot be used ({len(problems)} problems):\n  - {shown}{more}")


def _class_order(labels: Iterable[str], class_names: Sequence[str] | None) -> tuple[str, ...]:
    found = sorted(set(labels))
    if class_names is None:
        order = tuple(found)
    else:
        order = tuple(str(name) for name in class_names)
        _refuse([f"label '{name}' is not among class_names {list(order)}" for name in found if name not in order])
    if len(order) < 2:
        raise DataListError(f"at least two classes are needed, found: {list(order)}")
    return order


def _from_covid_ct(root: Path, class_names: Sequence[str] | None) -> DataList:
    """The official split: one list of file names for each class and split. A duplicated line of the lists is kept."""
    order = _class_order(COVID_CT, class_names or tuple(COVID_CT))
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    problems = []
    for split, short in COVID_CT_SPLITS.items():
        for index, name in enumerate(order):
            listing = root / "Data-split" / name / f"{short}CT_{name}.txt"
            folders = [root / parent / COVID_CT[name] for parent in ("Images", "Images-processed", "")]
            folder = next((f for f in folders if f.is_dir()), None)
            if folder is None or not listing.is_file():
                problems.append(
                    f"COVID-CT: {f'no folder of images {COVID_CT[name]}' if folder is None else f'no {listing.name}'}"
                )
                continue
            names = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
            missing = sum(not (folder / file).is_file() for file in names)
            if missing:
                problems.append(
                    f"COVID-CT: {missing} of the {len(names)} images of {listing.name} are not in {folder.name}"
                )
            splits[split] += [{"image": str(folder / file), "label": index} for file in names]
            expected = COVID_CT_COUNTS[split][tuple(COVID_CT).index(name)]
            if len(names) != expected:
                logger.warning("COVID-CT: %s lists %d images, the official one %d", listing.name, len(names), expected)
    _refuse(problems)
    return DataList(order, **splits)


def _from_csv(path: Path, root: Path, class_names: Sequence[str] | None, seed: int) -> DataList:
    table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    table.columns = [str(column).strip().lower() for column in table.columns]
    source = next((column for column in ("image", "series") if column in table), None)
    if source is None or "label" not in table:
        raise DataListError(
            f"{path.name} needs the columns 'image' (or 'series') and 'label', it has: {list(table.columns)}"
        )
    series = {one.series_uid: one for one in index_dicom(root)} if source == "series" else {}
    problems: list[str] = []
    images: list[str | list[str]] = []
    for row, value in enumerate(table[source], start=2):  # row 1 is the header
        value = value.strip()
        if source == "series" and value not in series:
            problems.append(f"row {row}: no DICOM series with this SeriesInstanceUID below dataset_dir")
        elif source == "image" and (not value or not (root / value).exists()):
            problems.append(f"row {row}: the image does not exist below dataset_dir")
        elif source == "series" and series[value].problem is not None:
            problems.append(f"row {row}: {series[value].problem}")
        images.append([str(file) for file in series[value].files] if value in series else str(root / value))
    problems += [f"row {row}: no label" for row, label in enumerate(table["label"], start=2) if not label.strip()]
    twice = table[source].duplicated(keep="first")
    problems += [
        f"row {row}: the same image stands in an earlier row" for row, again in enumerate(twice, start=2) if again
    ]
    split_names = [value.strip().lower() for value in table["split"]] if "split" in table else None
    if split_names is not None:
        problems += [
            f"row {row}: split '{name}' is none of {', '.join(SPLITS)}"
            for row, name in enumerate(split_names, start=2)
            if name not in SPLIT_NAMES
        ]
    patients = [value.strip() for value in table["patient"]] if "patient" in table else None
    if patients is not None:
        problems += [f"row {row}: no patient" for row, patient in enumerate(patients, start=2) if not patient]
    _refuse(problems)
    labels = [label.strip() for label in table["label"]]
    order = _class_order(labels, class_names)
    items: list[Item] = [{"image": i, "label": order.index(n)} for i, n in zip(images, labels, strict=True)]
    if split_names is None:
        return _split(order, items, patients, seed)
    chosen = [SPLIT_NAMES[name] for name in split_names]
    if patients is not None:
        where: dict[str, set[str]] = {}
        for patient, split in zip(patients, chosen, strict=True):
            where.setdefault(patient, set()).add(split)
        rows = [row for row, patient in enumerate(patients, start=2) if len(where[patient]) > 1]
        _refuse([f"rows {rows}: a patient stands in two splits"] if rows else [])
    return DataList(order, **{s: [i for i, name in zip(items, chosen, strict=True) if name == s] for s in SPLITS})


def _from_json(path: Path, root: Path, class_names: Sequence[str] | None) -> DataList:
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or any(not isinstance(content.get(split), list) for split in SPLITS):
        raise DataListError(f"{path.name} needs the lists {', '.join(SPLITS)}, each of {{'image': ..., 'label': ...}}")
    problems, labels = [], set()
    for split in SPLITS:
        for number, item in enumerate(content[split]):
            if not isinstance(item, dict) or not {"image", "label"} <= set(item):
                problems.append(f"{split}[{number}]: needs 'image' and 'label'")
                continue
            labels.add(str(item["label"]))
            if not (root / str(item["image"])).exists():
                problems.append(f"{split}[{number}]: the image does not exist below dataset_dir")
    _refuse(problems)
    numeric = all(label.isdecimal() for label in labels)
    names = content.get("class_names", class_names)
    if names is None and numeric:
        names = [str(index) for index in range(max(map(int, labels), default=0) + 1)]
    by_index = numeric and names is not None and not labels <= {str(name) for name in names}
    order = tuple(str(name) for name in names) if by_index and names is not None else _class_order(labels, names)
    if by_index and max(map(int, labels)) >= len(order):
        raise DataListError(f"label {max(map(int, labels))} has no name among class_names {list(order)}")

    def item_of(entry: Item) -> Item:
        label = str(entry["label"])
        return {"image": str(root / str(entry["image"])), "label": int(label) if by_index else order.index(label)}

    return DataList(order, **{split: [item_of(entry) for entry in content[split]] for split in SPLITS})


def _from_class_folders(root: Path, class_names: Sequence[str] | None, seed: int) -> DataList:
    folders = {folder.name: folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    if class_names is not None:
        folders = {name: folder for name, folder in folders.items() if name in class_names}
    images: list[Any] = []
    labels: list[str] = []
    groups: list[str] = []
    for name, folder in folders.items():
        studies = find_studies(folder, empty_is_error=False)
        if studies.problems:
            logger.warning(
                "class %s: %d DICOM series left out: %s", name, len(studies.problems), _summary(studies.problems)
            )
        images += [item["image"] for item in studies.items]
        groups += [item["group"] for item in studies.items]
        labels += [name] * len(studies.items)
    if len(set(labels)) < 2:
        raise DataListError(
            "dataset_dir holds no data list and no two class folders with images. Give one of: a CSV with the columns "
            "image,label (as dataset_dir/labels.csv or --data_list FILE), a MONAI data-list JSON, a folder of images "
            "or DICOM series for each class, or COVID-CT as published"
        )
    order = _class_order(labels, class_names)
    items = [{"image": image, "label": order.index(label)} for image, label in zip(images, labels, strict=True)]
    return _split(order, items, groups, seed)


def _split(order: tuple[str, ...], items: list[Item], groups: Sequence[str] | None, seed: int) -> DataList:
    """Split 4:1 into development and test, then development 4:1 into training and validation."""
    labels = np.array([item["label"] for item in items])
    # Numbered in order of appearance: the keys of DICOM patients differ between runs, the split must not.
    group = pd.factorize(np.array(groups))[0] if groups is not None else np.arange(len(items))
    few = [
        f"class '{name}' has {count} patients or images; a split needs at least 10"
        for index, name in enumerate(order)
        if (count := len(set(group[labels == index]))) < 10
    ]
    _refuse(few)
    rank = np.argsort(np.argsort(np.bincount(labels, minlength=len(order))))  # 0 is the rarest class
    stratum = np.full(group.max() + 1, len(order))
    np.minimum.at(stratum, group, rank[labels])  # a patient stands for the rarest of its classes

    def one_fifth(patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        rest, fifth = next(iter(folds.split(patients, stratum[patients])))
        return patients[rest], patients[fifth]

    development, test = one_fifth(np.arange(len(stratum)))
    training, validation = one_fifth(development)
    pick = {"training": training, "validation": validation, "test": test}
    return DataList(order, **{s: [items[i] for i in np.flatnonzero(np.isin(group, pick[s]))] for s in SPLITS})


@dataclass(frozen=True)
class Studies:
    """What `find_studies` found: `items` to be loaded, and `problems`, the DICOM series that cannot be.

    An item is `{"image": path or list of paths, "id": ..., "group": ...}`. `id` holds no patient data: it is the
    SeriesInstanceUID of a DICOM series, and `NUMBER-HASH` of any other file: its place in the sorted list of the
    folder's files, from 1, and the start of the sha256 of its content. `group` is what must not be split: the series
    of one patient, the copies of one file.
    """

    items: list[Item]
    problems: list[SeriesInfo]


def find_studies(folder: str | os.PathLike[str], empty_is_error: bool = True) -> Studies:
    """Find every DICOM series, NIfTI volume and image in `folder` and below.

    Args:
        folder: where to look; nested and mixed content is welcome.
        empty_is_error: raise where nothing is found.

    Raises:
        FileNotFoundError: no such folder.
        DataListError: nothing in it that could be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset_dir '{root}' is not a folder")
    kinds = (*IMAGE_SUFFIXES, *NIFTI_SUFFIXES)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name.lower().endswith(kinds))
    items: list[Item] = [
        {"image": str(path), "id": f"{number}-{digest}", "group": digest}
        for number, path in enumerate(files, start=1)
        for digest in [content_hash(path)]
    ]
    try:
        series = index_dicom(root)
    except NoDicomError:
        series = []
    for one in series:
        if one.problem is None:
            items.append({"image": [str(f) for f in one.files], "id": one.series_uid, "group": one.patient_key})
    problems = [one for one in series if one.problem is not None]
    if not items and empty_is_error:
        found = f" {len(problems)} DICOM series cannot be read: {_summary(problems)}. " if problems else ""
        found += f"The first: {problems[0].problem}" if problems else ""
        raise DataListError(f"no DICOM series, NIfTI volume or image to read in '{root}'.{found}")
    return Studies(items, problems)


def _summary(problems: Iterable[SeriesInfo]) -> str:
    return count_codes(p.problem.code for p in problems if p.problem is not None)
