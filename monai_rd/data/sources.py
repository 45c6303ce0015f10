"""From a sheet, a data list or folders of classes to labelled items; what is wrong with them is collected."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from monai_rd.data.dicom.header import age_band
from monai_rd.data.errors import UnreadableFileError
from monai_rd.data.problems import DataListError, Problems
from monai_rd.data.pseudonyms import patient_pseudonym
from monai_rd.data.reading import Found, Reading
from monai_rd.data.splits import DEVELOPMENT, SPLITS
from monai_rd.data.studies import GROUPS, Item, find_studies
from monai_rd.data.tables import Cell, read_table
from monai_rd.data.walk import folders_in, walk
from monai_rd.text import alike, comparable, name_of, read_text

__all__ = ["from_folders", "from_json", "from_sheet"]

logger = logging.getLogger(__name__)

SPLIT_NAMES = {"train": "training", "val": "validation", "valid": "validation", "testing": "test"} | {
    s: s for s in SPLITS
}
# Columns by other names that sheets give them, without blanks and the like between words.
_COLUMNS = {
    "path": "image",
    "file": "image",
    "filename": "image",
    "filepath": "image",
    "seriesinstanceuid": "series",
    "seriesuid": "series",
    "patientid": "patient",
    "lesionid": "lesion",
    "class": "label",
}
_KNOWN = frozenset((*_COLUMNS.values(), "split", *GROUPS))
# What stands between the classes of a multi-label cell, and the words for none of them.
SEPARATOR, NO_CLASS = "|", ("", "none", "no finding")
# What programs write for a value that is missing.
_MISSING = frozenset(
    ("", "nan", "NaN", "NAN", "-nan", "NA", "N/A", "n/a", "<NA>", "NaT", "None", "null", "NULL", "Null", "#N/A", "#NA")
)


# ------------------------------------------------------------------------------------------------------- sheets


def from_sheet(path: Path, reading: Reading, class_names: Sequence[str] | None, problems: Problems) -> Found:
    """Read a CSV or Excel sheet; a row names its image by `image`, else `series`, else `patient`.

    It is multi-label where any label cell holds several names with `|` between, or where in place of `label` there is
    a column of 0 and 1 for each of `class_names`.

    Raises:
        DataListError: no sheet, or without the columns that are needed.
    """
    table = read_table(path)
    table.columns = pd.Index([_column(str(name)) for name in table.columns])
    twice = sorted({column for column in table if list(table.columns).count(column) > 1})
    sources = [column for column in ("image", "series", "patient") if column in table]
    columns = {name: _column(name) for name in class_names or ()}
    indicators = "label" not in table and bool(columns) and set(columns.values()) <= set(table.columns)
    if twice or not sources or ("label" not in table and not indicators):
        has = f"more than one column of {', '.join(twice)}" if twice else f"{list(table.columns)}"
        raise DataListError(
            f"the sheet needs the columns 'label' and one of 'image', 'series' (SeriesInstanceUID), 'patient' "
            f"(PatientID), it has: {has}. Where each class has a column of 0 and 1 of its own instead of 'label', name "
            "the classes (class_names, on the console --class-names)"
        )
    multi_label = indicators or any(SEPARATOR in cell for cell in table["label"])
    used = {*sources, "label", "lesion", "split", *GROUPS, *(columns.values() if indicators else ())}
    found = Found(
        splits=[] if "split" in table else None,
        lesions=[] if "lesion" in table else None,
        multi_label=multi_label,
    )
    for row, record in zip(table.index, table.to_dict("records"), strict=True):
        cells = {
            str(column): _cell(str(column), value, row, problems) for column, value in record.items() if column in used
        }
        split = SPLIT_NAMES.get(comparable(cells.get("split", "")).lower(), "")
        label: str | tuple[str, ...]
        if indicators:
            label = _of_indicators({name: cells[column] for name, column in columns.items()}, row, problems)
        elif multi_label:
            label = classes_of_cell(cells["label"], row, problems)
        else:
            label = _class_of_cell(cells["label"], class_names, row, problems)
        if "split" in cells and not split:
            problems.add(f"the split is none of {', '.join(SPLITS)}", row)
        told = {
            name: "" if cells.get(name) in _MISSING else comparable(cells[name])
            for name in ("patient", "lesion")
            if name in cells
        }
        if "patient" in told and not told["patient"]:
            problems.add("no patient", row)
        if cells.get("image") or sources == ["image"]:
            items = reading.at_path(cells["image"], row, problems)
        elif cells.get("series") or sources[-1] != "patient":
            items = reading.series_of_uid(cells.get("series", ""), row, problems)
        elif told["patient"]:
            items = reading.series_of_patient(told["patient"], row, problems)
        else:
            items = []
        patient = patient_pseudonym(told.get("patient", ""), reading.key)
        for item in items:
            more = {"label": label, "patient": patient or item["patient"]}
            found.items.append(item | more | _groups(cells, row, problems))
            found.rows.append(row)
            if found.splits is not None:
                found.splits.append(split)
            if found.lesions is not None:
                found.lesions.append(told["lesion"])
    reading.advise(problems)
    return found


def _column(name: str) -> str:
    """The name of a column as this module knows it; of any other, as it stands but for case and blanks around."""
    plain = comparable(name).lower()
    joined = re.sub(r"[\s_.-]+", "", plain)
    return _COLUMNS.get(joined, joined if joined in _KNOWN else plain)


def _cell(column: str, value: str, row: int, problems: Problems) -> str:
    if isinstance(value, Cell):
        problems.add(f"the cell below '{column}' is {value.reason}: format the column as text and type it again", row)
    return value.strip()


def _groups(entry: Mapping[str, Any], row: int, problems: Problems) -> dict[str, str]:
    """What a row tells of its patient, which then counts more than the DICOM header; an age in years as its band."""
    told: dict[str, str] = {}
    for name in GROUPS:
        value = entry.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            problems.add(f"'{name}' is {_kind(value)}: give a text or a number", row)
        elif value is not None and str(value) not in _MISSING:
            told[name] = name_of(str(value))
    with suppress(KeyError, ValueError):  # no age, or a band already
        told["age"] = age_band(float(told["age"]))
    return told


def _class_of_cell(cell: str, class_names: Sequence[str] | None, row: int, problems: Problems) -> str:
    """Return the class named in a cell, "" for what stands for a missing one."""
    name = name_of(cell)
    if name in _MISSING and name not in (class_names or ()):
        word = f" ('{name}' stands for a missing one; if it is a class, name the classes)" if name else ""
        problems.add(f"no label{word}", row)
        return ""
    return name


def classes_of_cell(cell: str, row: int, problems: Problems) -> tuple[str, ...]:
    """Return the classes named in a multi-label cell; one that is empty or says "none" or "No Finding" has none."""
    parts = [name_of(part) for part in cell.split(SEPARATOR)]
    named = tuple(dict.fromkeys(part for part in parts if part.lower() not in NO_CLASS))
    if named and len(parts) > 1 and any(part.lower() in NO_CLASS for part in parts):
        problems.add("the label names classes and says that there is none", row)
    if not _MISSING.isdisjoint(named):
        problems.add("no label: a word stands in it for a missing one", row)
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
    content = _json(path)
    if not isinstance(content, dict) or any(not isinstance(content.get(split), list) for split in SPLITS):
        raise DataListError(f"{path.name} needs the lists {', '.join(SPLITS)}, each of {{'image': ..., 'label': ...}}")
    names = content.get("class_names", class_names)
    if names is not None and (
        not isinstance(names, list | tuple) or any(type(name) not in (str, int) for name in names)
    ):
        raise DataListError(f"{path.name}: class_names is no list of names")
    names = None if names is None else [name_of(str(name)) for name in names]
    splits: list[str] = []
    found = Found(splits=splits, class_names=names, multi_label=content.get("multi_label") is True)
    for row, (split, entry) in enumerate(((s, e) for s in SPLITS for e in content[s]), start=1):
        if not isinstance(entry, dict) or "label" not in entry or not {"image", "series", "sha256"} & set(entry):
            problems.add("needs 'label' and one of 'image', 'series', 'sha256'", row)
            continue
        label = _label(entry["label"], found, row, problems)
        wrong = [name for name in ("image", "series", "sop", "sha256") if not isinstance(entry.get(name, ""), str)]
        for name in wrong:
            problems.add(f"'{name}' is {_kind(entry[name])}: give a text", row)
        if label is None or wrong:
            continue
        if "series" in entry and "sop" in entry:
            items = reading.picture_of_uid(entry["series"], entry["sop"], row, problems)
        elif "series" in entry:
            items = reading.series_of_uid(entry["series"], row, problems)
        elif "sha256" in entry:
            items = reading.with_hash(entry["sha256"], row, problems)
        else:
            items = reading.at_path(entry["image"], row, problems)
        patient = _patient(entry.get("patient"), reading.key, row, problems)
        for item in items:
            more = {"patient": patient} if patient else {}
            found.items.append(item | {"label": label} | more | _groups(entry, row, problems))
            found.rows.append(row)
            splits.append(split)
    reading.advise(problems)
    present = {name for item in found.items for name in found.classes(item)}
    if found.class_names is None and all(name.isdecimal() for name in present):
        found.class_names = [str(n) for n in range(max(map(int, present), default=0) + 1)]
    return found


def _json(path: Path) -> Any:
    """Read JSON in any Unicode encoding, with a mark or without.

    Raises:
        DataListError: it is none, or says one thing twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        twice = sorted({key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1})
        if twice:
            raise DataListError(f"{path.name}: '{twice[0]}' stands twice in one object")
        return made

    try:
        return json.loads(read_text(path), object_pairs_hook=once)
    except DataListError:
        raise
    except ValueError as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise DataListError(f"'{path.name}' is no JSON{where}") from None


def _kind(value: Any) -> str:
    """What a value of a JSON is, in words, without the value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds = {list: "a list", dict: "an object", float: "a number that is no index, such as 1.0 or NaN"}
    return kinds.get(
        type(value), "a number below 0" if isinstance(value, int) else "empty or a word for what is missing"
    )


def _patient(value: Any, key: bytes, row: int, problems: Problems) -> str:
    """Return the pseudonym that an entry holds or that is made of the ID it holds, "" for neither."""
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        problems.add(f"'patient' is {_kind(value)}: give a text", row)
        return ""
    told = "" if value is None or str(value) in _MISSING else str(value)
    return told if re.fullmatch("[0-9a-f]{16}", told) else patient_pseudonym(told, key)


def _label(value: Any, found: Found, row: int, problems: Problems) -> str | tuple[str, ...] | None:
    """Return the class name of an entry, of a multi-label one all of them; None where it is no such label."""
    if not found.multi_label:
        if isinstance(value, list):
            problems.add('the label is a list: a multi-label data list says so, "multi_label": true', row)
            return None
        name = _class_name(value, found.class_names)
        if name is None:
            problems.add(f"no label: it is {_kind(value)}; give the name or the index of a class", row)
        return name
    names = [_class_name(one, found.class_names) for one in value] if isinstance(value, list) else []
    known = [name for name in names if name is not None]
    if not isinstance(value, list) or len(set(known)) < len(value):
        problems.add("a multi-label label lists class indices or names, each once; it is no vector of 0 and 1", row)
        return None
    return tuple(known)


def _class_name(value: Any, class_names: Sequence[str] | None) -> str | None:
    """Return a class name, None for none; where there are names, a number that is none of them is a class index."""
    if type(value) not in (str, int):
        return None
    text = name_of(str(value))
    if class_names is not None and text in class_names:
        return text
    if text in _MISSING or (type(value) is int and value < 0):
        return None
    if class_names is None or not text.isdecimal() or int(text) >= len(class_names):
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
    name = name_of(folder.name)
    if class_names is not None and name not in class_names:
        meant = [other for other in class_names if alike(other) == alike(name)]
        if meant:
            raise DataListError(f"the folder {name!r} is not among the class names: is {meant[0]!r} meant? Rename it")
        return []
    rule: Mapping[str, Any] | None = None if reading.rule is None else vars(reading.rule)
    studies = find_studies(folder, False, reading.policy.actions, rule, reading.key, labelled=True)
    reading.left_out += studies.problems
    return [item | {"label": name} for item in studies.items]
