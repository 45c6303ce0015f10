"""From a data set as it comes to training, validation and test lists that do not leak."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_rd.data import sources
from monai_rd.data.dicom import SeriesRule
from monai_rd.data.errors import DicomSeriesError, Policy, count_codes
from monai_rd.data.problems import Problems
from monai_rd.data.pseudonyms import patient_pseudonym
from monai_rd.data.sources import Found, Reading
from monai_rd.data.splits import SPLITS, group, split_folds, split_once
from monai_rd.data.studies import Item
from monai_rd.files import atomic_write, sha256

__all__ = ["DataList", "make_datalist", "make_folds", "read_datalist", "write_datalist"]

logger = logging.getLogger(__name__)

LABEL_FILES = ("labels.csv", "labels.xlsx", "data.csv")


@dataclass(frozen=True)
class DataList:
    """Items `{"image": path or list of paths, "label": class index, "id": ..., "patient": ...}` of the three splits.

    `id` is a UID of DICOM, else ""; `patient` a pseudonym, or "" where none is known; "site" is there if the source has
    it.

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
    policy: Mapping[str, str] | None = None,
    series_rule: Mapping[str, str] | None = None,
    key: bytes | None = None,
) -> DataList:
    """Make training, validation and test lists of a data set.

    Looked for, in this order: `data_list` if given; the official layout and split of COVID-CT; `labels.csv`,
    `labels.xlsx` or `data.csv` in the folder; a folder of images or DICOM series for each class.

    - Sheet (CSV, Excel): the column `label`, and one of `image` (file or series folder, relative to `dataset_dir`),
      `series` (a SeriesInstanceUID found below it), `patient` (a PatientID found below it; `series_rule` says which of
      his series, by default the one with the most slices). Optional: `patient`, `lesion`, `site`, `split` (training,
      validation, test).
    - JSON: MONAI's data list, `{"training": [{"image": ..., "label": ...}], "validation": [...], "test": [...]}`;
      instead of `image` an item may have `series` or `sha256`, as `write_datalist` writes them.

    Without a split column the items are split 4:1 into development and test, and development 4:1 into training and
    validation, stratified by class, with no patient (column, or DICOM PatientID) and no lesion on both sides.

    Args:
        dataset_dir: folder of the data.
        data_list: a sheet or JSON file, if it is not found in the folder.
        class_names: the classes in order of their index, the positive one last; by default sorted by name (COVID-CT:
            COVID is the positive one).
        num_classes: how many classes the caller expects; None takes what is found.
        seed: of the split.
        policy: what follows from a DICOM series that cannot be read, see `Policy`.
        series_rule: which DICOM series to take where there are several, see `SeriesRule`.
        key: of the patients' pseudonyms, see `project_key`; None makes one that holds for this call.

    Raises:
        FileNotFoundError: no such folder or file.
        DataListError: nothing usable there, or everything that is wrong with the list at once: images that do not
            exist, series that cannot be read, unknown labels, duplicated rows, a patient in two splits, empty classes.
    """
    read = _collect(dataset_dir, data_list, class_names, num_classes, policy, series_rule, key)
    made = _split(read, seed)
    if read.found.splits is not None:
        _check_given_splits(read.found, read.order, read.leaks)
    read.problems.take(read.leaks)
    read.problems.refuse()
    logger.info("data: %s", made)
    return made


def read_datalist(
    dataset_dir: str | os.PathLike[str],
    data_list: str | os.PathLike[str] | None = None,
    policy: Mapping[str, str] | None = None,
    key: bytes | None = None,
) -> tuple[DataList, list[DicomSeriesError]]:
    """Read a data list as it is, for an audit: `make_datalist` without its judgement of copies, leaks and classes.

    Args:
        dataset_dir: see `make_datalist`.
        data_list: see `make_datalist`.
        policy: see `make_datalist`.
        key: see `make_datalist`.

    Returns:
        The lists, and the DICOM series that the policy left out.

    Raises:
        FileNotFoundError: no such folder or file.
        DataListError: images that do not exist and other rows that say nothing.
    """
    read = _collect(dataset_dir, data_list, None, None, policy, None, key)
    made = _split(read, 0)
    read.problems.refuse()
    return made, read.left_out


def make_folds(
    dataset_dir: str | os.PathLike[str],
    folds: int,
    data_list: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    policy: Mapping[str, str] | None = None,
    series_rule: Mapping[str, str] | None = None,
    key: bytes | None = None,
) -> list[DataList]:
    """Make the data lists of a k-fold cross-validation; a split that the source tells is not used.

    In fold i the test set is part i, the validation set part i + 1, the rest is trained on.

    Args:
        dataset_dir: see `make_datalist`.
        folds: k, at least 3.
        data_list: see `make_datalist`.
        class_names: see `make_datalist`.
        seed: of the shuffling.
        policy: see `make_datalist`.
        series_rule: see `make_datalist`.
        key: see `make_datalist`.

    Raises:
        ValueError: fewer than 3 folds.
        DataListError: see `make_datalist`.
    """
    read = _collect(dataset_dir, data_list, class_names, None, policy, series_rule, key)
    parts = split_folds(read.labels, read.groups, read.order, folds, seed, read.problems) if len(read.order) > 1 else []
    read.problems.take(read.leaks)
    read.problems.refuse()
    return [_datalist(read, part) for part in parts]


def write_datalist(
    made: DataList, dataset_dir: str | os.PathLike[str], path: str | os.PathLike[str], key: bytes
) -> None:
    """Write a data list as MONAI's JSON, atomically.

    An image or volume file stands there as `image`, its path relative to `dataset_dir`; DICOM as `series` (and `sop`, a
    single picture) by its UIDs, because the folders of exports are often named after patients; for the same reason a
    file whose path holds the ID of its patient stands there as the `sha256` of its content. Patients are pseudonyms.

    Args:
        made: the lists.
        dataset_dir: folder of the data.
        path: of the JSON.
        key: that the lists' pseudonyms were made with.
    """
    root = Path(dataset_dir).resolve()
    content: dict[str, Any] = {"class_names": list(made.class_names)}
    for split in SPLITS:
        content[split] = [_entry(item, root, key) for item in made[split]]
    atomic_write(json.dumps(content, indent=1) + "\n", Path(path))


def _entry(item: Item, root: Path, key: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {name: item[name] for name in ("label", "patient", "site") if item.get(name, "") != ""}
    if item["series"]:
        picture = {"sop": item["id"]} if item["id"] != item["series"] else {}
        return {"series": item["series"], **picture, **entry}
    file = Path(item["image"]).resolve()
    relative = file.relative_to(root)
    if item["patient"] and _tells_the_patient(relative, item["patient"], key):
        return {"sha256": sha256(file), **entry}
    return {"image": relative.as_posix(), **entry}


def _tells_the_patient(path: Path, pseudonym: str, key: bytes) -> bool:
    """Tell whether a part of a path, between any two separators, is the ID that a pseudonym stands for."""
    for part in path.parts:
        words = re.split(r"([\W_]+)", part)  # words at even places, what separates them at odd ones
        for first in range(0, len(words), 2):
            for last in range(first, len(words), 2):
                if patient_pseudonym("".join(words[first : last + 1]), key) == pseudonym:
                    return True
    return False


# ---------------------------------------------------------------------------------------------------- collecting


@dataclass(frozen=True)
class _Read:
    """A source that was read, and everything that is wrong with it.

    Attributes:
        found: items of known classes.
        order: the class names.
        problems: why rows cannot be used.
        leaks: what is wrong with rows that can be used.
        left_out: DICOM series that the policy left out.
    """

    found: Found
    order: tuple[str, ...]
    problems: Problems
    leaks: Problems
    left_out: list[DicomSeriesError]

    @property
    def labels(self) -> list[int]:
        return [self.order.index(item["label"]) for item in self.found.items]

    @property
    def groups(self) -> list[int]:
        return group([item["patient"] for item in self.found.items], self.found.lesions)


def _collect(
    dataset_dir: str | os.PathLike[str],
    data_list: str | os.PathLike[str] | None,
    class_names: Sequence[str] | None,
    num_classes: int | None,
    policy: Mapping[str, str] | None,
    series_rule: Mapping[str, str] | None,
    key: bytes | None,
) -> _Read:
    """Read a source; what is wrong with it is noted and not raised yet, except for what ends the reading."""
    root = Path(dataset_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset_dir '{root}' is not a folder")
    if data_list is not None and not Path(data_list).is_file():
        raise FileNotFoundError(f"data_list '{data_list}' is not a file")
    reading = Reading(root, Policy(policy), SeriesRule.of(series_rule), key or secrets.token_bytes(32))
    sheet = Path(data_list) if data_list is not None else None
    if sheet is None and not (root / "Data-split").is_dir():
        sheet = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    what = "row" if sheet is not None and sheet.suffix.lower() != ".json" else "item"
    problems, leaks = Problems(what), Problems(what)
    if sheet is None and (root / "Data-split").is_dir():
        found = sources.from_covid_ct(root, problems)
    elif sheet is None:
        found = sources.from_class_folders(root, reading, class_names)
    elif what == "item":
        found = sources.from_json(sheet, reading, class_names, problems)
    else:
        found = sources.from_sheet(sheet, reading, problems)
    if reading.offered:
        rule = reading.rule or SeriesRule()
        logger.info("series: %d of %d taken (%s)", len(reading.chosen), len(reading.offered), rule)
    if reading.left_out:
        logger.warning("left out by the policy: %s", count_codes(problem.code for problem in reading.left_out))
    order = _class_order(found, class_names, num_classes, problems)
    if sheet is not None:
        _check_duplicates(found, leaks)
    found = _picked(found, [i for i, item in enumerate(found.items) if item["label"] in order])
    return _Read(found, order, problems, leaks, reading.left_out)


def _split(read: _Read, seed: int) -> DataList:
    """Follow the splits of the source, or make them; a class too small is noted in the problems."""
    if read.found.splits is not None:
        return _datalist(read, {s: [i for i, name in enumerate(read.found.splits) if name == s] for s in SPLITS})
    if len(read.order) < 2:
        return _datalist(read, {})
    return _datalist(read, split_once(read.labels, read.groups, read.order, seed, read.problems))


def _datalist(read: _Read, chosen: Mapping[str, Iterable[int]]) -> DataList:
    items = [item | {"label": label} for item, label in zip(read.found.items, read.labels, strict=True)]
    return DataList(read.order, **{split: [items[i] for i in chosen.get(split, ())] for split in SPLITS})


def _picked(found: Found, indices: Sequence[int]) -> Found:
    return Found(
        [found.items[i] for i in indices],
        [found.rows[i] for i in indices],
        None if found.splits is None else [found.splits[i] for i in indices],
        None if found.lesions is None else [found.lesions[i] for i in indices],
        found.class_names,
    )


def _class_order(
    found: Found, class_names: Sequence[str] | None, num_classes: int | None, problems: Problems
) -> tuple[str, ...]:
    present = {str(item["label"]) for item in found.items} - {""}
    named = class_names if class_names is not None else found.class_names
    order = tuple(str(name) for name in named) if named is not None else tuple(sorted(present))
    for label in sorted(present - set(order)):
        rows = [row for item, row in zip(found.items, found.rows, strict=True) if item["label"] == label]
        problems.add(f"label '{label}' is not among the class names {list(order)}", *rows)
    if len(order) < 2:
        problems.add(f"at least two classes are needed, found: {list(order)}")
    if num_classes is not None and num_classes != len(order):
        problems.add(f"num_classes is {num_classes}, but the data have {len(order)}: {list(order)}")
    return order


def _check_duplicates(found: Found, problems: Problems) -> None:
    first: dict[str, str] = {}
    for item, row in zip(found.items, found.rows, strict=True):
        name = item["id"] or os.path.realpath(item["image"])
        if name in first:
            other = "" if first[name] == item["label"] else " with another label"
            problems.add(f"the same image stands in an earlier row{other}", row)
        first.setdefault(name, item["label"])


def _check_given_splits(found: Found, order: Sequence[str], problems: Problems) -> None:
    """Note patients and lesions in two splits, and classes that a split lacks."""
    assert found.splits is not None
    patients = [item["patient"] for item in found.items]
    for what, column in (("patient", patients), ("lesion", found.lesions or [])):
        where: dict[str, set[str]] = {}
        for value, split in zip(column, found.splits, strict=False):
            if value and split:
                where.setdefault(value, set()).add(split)
        rows = [row for value, row in zip(column, found.rows, strict=False) if len(where.get(value, ())) > 1]
        if rows:
            problems.add(f"the {what} stands in two splits", *rows)
    present = {(split, item["label"]) for item, split in zip(found.items, found.splits, strict=True)}
    for split in SPLITS:
        for name in order:
            if (split, name) not in present:
                problems.add(f"class '{name}' has no item in {split}")
