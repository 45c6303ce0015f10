"""From a sheet, a data list or folders of classes to labelled items; what is wrong with them is collected."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from monai_rd.data.dicom.header import age_band
from monai_rd.data.errors import UnreadableFileError
from monai_rd.data.problems import DataListError, Problems
from monai_rd.data.pseudonyms import patient_pseudonym
from monai_rd.data.reading import Found, Reading, read_table
from monai_rd.data.splits import DEVELOPMENT, SPLITS
from monai_rd.data.studies import GROUPS, Item, find_studies
from monai_rd.data.walk import folders_in, walk

__all__ = ["from_folders", "from_json", "from_sheet"]

logger = logging.getLogger(__name__)

SPLIT_NAMES = {"train": "training", "val": "validation", "valid": "validation", "testing": "test"} | {
    s: s for s in SPLITS
}
# Columns by other names that sheets give them.
_COLUMNS = {
    "path": "image",
    "file": "image",
    "filename": "image",
    "seriesinstanceuid": "series",
    "series_uid": "series",
    "patientid": "patient",
    "patient_id": "patient",
    "lesion_id": "lesion",
    "class": "label",
}
# What stands between the classes of a multi-label cell, and the words for none of them.
SEPARATOR, NO_CLASS = "|", ("", "none", "no finding")


# ------------------------------------------------------------------------------------------------------- sheets


def from_sheet(path: Path, reading: Reading, class_names: Sequence[str] | None, problems: Problems) -> Found:
    """Read a CSV or Excel sheet; a row names its image by `image`, else `series`, else `patient`.

    It is multi-label where any label cell holds several names with `|` between, or where in place of `label` there is
    a column of 0 and 1 for each of `class_names`.

    Raises:
        DataListError: no sheet, or without the columns that are needed.
    """
    table = read_table(path)
    names = [str(column).strip().lower() for column in table.columns]
    table.columns = pd.Index([_COLUMNS.get(name, name) for name in names])
    twice = sorted({column for column in table if list(table.columns).count(column) > 1})
    sources = [column for column in ("image", "series", "patient") if column in table]
    columns = {name: name.strip().lower() for name in class_names or ()}
    indicators = "label" not in table and bool(columns) and set(columns.values()) <= set(table.columns)
    if twice or not sources or ("label" not in table and not indicators):
        has = f"more than one column of {', '.join(twice)}" if twice else f"{list(table.columns)}"
        raise DataListError(
            f"the sheet needs the columns 'label' and one of 'image', 'series' (SeriesInstanceUID), 'patient' "
            f"(PatientID), it has: {has}. Where each class has a column of 0 and 1 of its own instead of 'label', name "
            "the classes (class_names, on the console --class-names)"
        )
    multi_label = indicators or any(SEPARATOR in str(cell) for cell in table["label"])
    found = Found(
        splits=[] if "split" in table else None,
        lesions=[] if "lesion" in table else None,
        multi_label=multi_label,
    )
    for row, record in enumerate(table.to_dict("records"), start=2):  # row 1 is the header
        cells = {str(column): str(value).strip() for column, value in record.items()}
        split = SPLIT_NAMES.get(cells.get("split", "").lower(), "")
        label: str | tuple[str, ...]
        if indicators:
            label = _of_indicators({name: cells[column] for name, column in columns.items()}, row, problems)
        else:
            label = classes_of_cell(cells["label"], row, problems) if multi_label else cells["label"]
        if not multi_label and not label:
            problems.add("no label", row)
        if "split" in cells and not split:
            problems.add(f"the split is none of {', '.join(SPLITS)}", row)
        if "patient" in cells and not cells["patient"]:
            problems.add("no patient", row)
        if cells.get("image") or sources == ["image"]:
            items = reading.at_path(cells["image"], row, problems)
        elif cells.get("series") or sources[-1] != "patient":
            items = reading.series_of_uid(cells.get("series", ""), row, problems)
        else:
            items = reading.series_of_patient(cells["patient"], row, problems)
        patient = patient_pseudonym(cells.get("patient", ""), reading.key)
        for item in items:
            more = {"label": label, "patient": patient or item["patient"]}
            found.items.append(item | more | _groups(cells))
            found.rows.append(row)
            if found.splits is not None:
                found.splits.append(split)
            if found.lesions is not None:
                found.lesions.append(cells["lesion"])
    return found


def _groups(entry: Mapping[str, Any]) -> dict[str, str]:
    """What a row tells of its patient, which then counts more than the DICOM header; an age in years as its band."""
    told = {name: str(entry[name]) for name in GROUPS if entry.get(name)}
    with suppress(KeyError, ValueError):  # no age, or a band already
        told["age"] = age_band(float(told["age"]))
    return told


def classes_of_cell(cell: str, row: int, problems: Problems) -> tuple[str, ...]:
    """Return the classes named in a multi-label cell; one that is empty or says "none" or "No Finding" has none."""
    parts = [part.strip() for part in cell.split(SEPARATOR)]
    named = tuple(dict.fromkeys(part for part in parts if part.lower() not in NO_CLASS))
    if named and len(parts) > 1 and any(part.lower() in NO_CLASS for part in parts):
        problems.add("the label names classes and says that there is none", row)
    return named


def _of_indicators(cells: Mapping[str, str], row: int, problems: Problems) -> tuple[str, ...]:
    for name, cell in cells.items():
        if cell not in ("0", "1", "0.0", "1.0"):
            problems.add(f"the column '{name}' holds neither 0 nor 1", row)
    return tuple(name for name, cell in cells.items() if cell in ("1", "1.0"))


# -------------------------------------------------------------------------------------------------------- JSON


def from_json(path: Path, reading: Reading, class_names: Sequence[str] | None, problems: Problems) -> Found:
    """Read MONAI's data list, as `write_datalist` writes it or as others do.

    Raises:
        DataListError: no data list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataListError(f"'{path.name}' is no JSON") from None
    if not isinstance(content, dict) or any(not isinstance(content.get(split), list) for split in SPLITS):
        raise DataListError(f"{path.name} needs the lists {', '.join(SPLITS)}, each of {{'image': ..., 'label': ...}}")
    names = content.get("class_names", class_names)
    names = None if names is None else [str(name) for name in names]
    splits: list[str] = []
    found = Found(splits=splits, class_names=names, multi_label=content.get("multi_label") is True)
    for row, (split, entry) in enumerate(((s, e) for s in SPLITS for e in content[s]), start=1):
        if not isinstance(entry, dict) or "label" not in entry or not {"image", "series", "sha256"} & set(entry):
            problems.add("needs 'label' and one of 'image', 'series', 'sha256'", row)
            continue
        label = _label(entry["label"], found, row, problems)
        if label is None:
            continue
        if "series" in entry and "sop" in entry:
            items = reading.picture_of_uid(str(entry["series"]), str(entry["sop"]), row, problems)
        elif "series" in entry:
            items = reading.series_of_uid(str(entry["series"]), row, problems)
        elif "sha256" in entry:
            items = reading.with_hash(str(entry["sha256"]), row, problems)
        else:
            items = reading.at_path(str(entry["image"]), row, problems)
        for item in items:
            more = {"patient": str(entry["patient"])} if entry.get("patient") else {}
            found.items.append(item | {"label": label} | more | _groups(entry))
            found.rows.append(row)
            splits.append(split)
    present = {name for item in found.items for name in found.classes(item)}
    if found.class_names is None and all(name.isdecimal() for name in present):
        found.class_names = [str(n) for n in range(max(map(int, present), default=0) + 1)]
    return found


def _label(value: Any, found: Found, row: int, problems: Problems) -> str | tuple[str, ...] | None:
    """Return the class name of an entry, of a multi-label one all of them; None where it is no such label."""
    if not found.multi_label:
        if not isinstance(value, list):
            return _class_name(value, found.class_names)
        problems.add('the label is a list: a multi-label data list says so, "multi_label": true', row)
        return None
    names = [one for one in value if type(one) in (int, str)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(set(names)) < len(value):
        problems.add("a multi-label label lists class indices or names, each once; it is no vector of 0 and 1", row)
        return None
    return tuple(_class_name(one, found.class_names) for one in value)


def _class_name(value: Any, class_names: Sequence[str] | None) -> str:
    """Return a class name; a number is a class index where there are names and it is none of them."""
    text = str(value)
    if class_names is None or text in class_names or not text.isdecimal() or int(text) >= len(class_names):
        return text
    return class_names[int(text)]


# ----------------------------------------------------------------------------------------------------- folders


def from_folders(root: Path, reading: Reading, class_names: Sequence[str] | None) -> Found:
    """Take a folder of images or DICOM series for each class, in folders named after the splits or without them.

    Raises:
        DataListError: no two such folders, no test set among the folders of splits, or series that the policy calls
            errors.
    """
    folders = _folders(root, reading)
    split_of = {folder: SPLIT_NAMES[folder.name.lower()] for folder in folders if folder.name.lower() in SPLIT_NAMES}
    if len(split_of) < 2:
        found = Found()
        found.items = [item for folder in folders for item in _of_class(folder, reading, class_names)]
    else:
        found = _of_split_folders(split_of, reading, class_names)
        if len(split_of) < len(folders):
            logger.warning("data: %d folders beside those of the splits are not read", len(folders) - len(split_of))
    found.rows = list(range(1, len(found.items) + 1))
    if len({item["label"] for item in found.items}) < 2:
        raise DataListError(
            "dataset_dir holds no data list and no two class folders with images. Give one of: a CSV or Excel sheet "
            "with the columns image,label (as dataset_dir/labels.csv or --data_list FILE), a MONAI data-list JSON, a "
            "folder of images or DICOM series for each class, the same in the folders train, val and test, or a data "
            "set as its publisher lays it out"
        )
    return found


def _of_split_folders(split_of: Mapping[Path, str], reading: Reading, class_names: Sequence[str] | None) -> Found:
    given = list(split_of.values())
    if sorted(set(given)) != sorted(given) or not {"training", "test"} <= set(given):
        raise DataListError(
            f"dataset_dir has the folders {', '.join(sorted(folder.name for folder in split_of))}: one for training "
            "and one for test are needed, and at most one for validation; or put all images into one folder a class"
        )
    splits: list[str] = []
    copies: list[str] = []
    found = Found(splits=splits, copies=copies)
    for folder, split in split_of.items():
        where = split if split != "training" or "validation" in given else DEVELOPMENT
        for own in _folders(folder, reading):
            for item in _of_class(own, reading, class_names):
                file = not item["series"]
                found.items.append(item | ({"patient": ""} if file else {}))
                copies.append(item["patient"] if file else "")  # the hash of its content
                splits.append(where)
    return found


def _folders(place: Path, reading: Reading) -> list[Path]:
    """The folders in a folder; of what cannot be opened beside them, the policy decides: a class could be among it."""
    closed = len(walk(place, below=False).closed)
    if closed:
        problem = UnreadableFileError(
            f"{closed} of what lies beside the class folders cannot be opened, as a link that leads nowhere: a class "
            "could be among it. Mend or remove it."
        )
        if reading.policy[problem.code] != "skip":
            raise DataListError(f"{problem.code}: {problem}")
        reading.left_out.append(problem)
    return folders_in(place)


def _of_class(folder: Path, reading: Reading, class_names: Sequence[str] | None) -> list[Item]:
    if class_names is not None and folder.name not in class_names:
        return []
    rule: Mapping[str, Any] | None = None if reading.rule is None else vars(reading.rule)
    studies = find_studies(folder, False, reading.policy.actions, rule, reading.key, labelled=True)
    reading.left_out += studies.problems
    return [item | {"label": folder.name} for item in studies.items]
