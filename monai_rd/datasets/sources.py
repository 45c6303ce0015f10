"""Reading labelled items from a sheet or from class folders; everything that is wrong with them is collected."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from monai_rd.datasets.labels import MISSING, SEPARATOR, class_of_cell, classes_of_cell, groups_of
from monai_rd.datasets.problems import DataListError, Problems
from monai_rd.datasets.reading import Found, Reading
from monai_rd.datasets.sheets import Cell, read_table
from monai_rd.datasets.splits import DEVELOPMENT, SPLITS
from monai_rd.datasets.studies import GROUPS, Item, find_studies, images_among
from monai_rd.dicom import is_dicom
from monai_rd.errors import UnreadableFileError
from monai_rd.pseudonyms import patient_pseudonym
from monai_rd.text import comparable, name_key, name_of
from monai_rd.walk import folders_in, walk

__all__ = ["from_folders", "from_sheet", "items_of_sheet", "unlabelled_of_sheet"]

logger = logging.getLogger(__name__)

SPLIT_NAMES = {"train": "training", "val": "validation", "valid": "validation", "testing": "test"} | {
    s: s for s in SPLITS
}
# Other spellings of column names, without the blanks and punctuation between words.
_COLUMNS = {
    "path": "image",
    "file": "image",
    "filename": "image",
    "filepath": "image",
    "seriesinstanceuid": "series",
    "seriesuid": "series",
    "studyinstanceuid": "study",
    "studyuid": "study",
    "seriesvolume": "series_volume",
    "patientid": "patient",
    "lesionid": "lesion",
    "class": "label",
}
_SOURCES = (
    "'image', 'series' (SeriesInstanceUID), 'study' (StudyInstanceUID), 'patient' (PatientID), 'image:ROLE' (for each "
    "role of a study)"
)
_KNOWN = frozenset((*_COLUMNS.values(), "split", *GROUPS))
_ROLE = "image:"  # how the name of a column with the files of a role begins

# ------------------------------------------------------------------------------------------------------- sheets


def from_sheet(
    path: Path,
    reading: Reading,
    class_names: Sequence[str] | None,
    problems: Problems,
    labels_may_miss: bool = False,
) -> Found:
    """Read a CSV or Excel sheet; a row names its image by `image`, else by `series`, `study` or `patient`.

    Columns `image:ROLE` name the images of a study; an empty cell is a role that the study lacks.

    The sheet is multi-label if any label cell holds several names separated by `|`, or if there is a column of 0 and 1
    for each of `class_names` in place of `label`. With `labels_may_miss`, rows without a label are skipped, unless the
    sheet is multi-label.

    Raises:
        DataListError: the file is not a sheet, or lacks columns that are needed.
    """
    table, sources, twice = _table(path)
    columns = {name: _column(name) for name in class_names or ()}
    indicators = "label" not in table and bool(columns) and set(columns.values()) <= set(table.columns)
    if twice or not sources or ("label" not in table and not indicators):
        known = [name for name in table.columns if name in _KNOWN]  # without a header row others may be patients
        has = f"{table.shape[1]} columns, of which are known: {', '.join(known) or 'none'}"
        has = f"more than one column of {', '.join(twice)}" if twice else has
        raise DataListError(
            f"the sheet needs the columns 'label' and one of {_SOURCES}, it has: {has}. Where each class has a column "
            "of 0 and 1 of its own instead of 'label', name the classes (class_names, on the console --class-names)"
        )
    multi_label = indicators or any(SEPARATOR in cell for cell in table["label"])
    reading.take_roles(_roles(sources))
    used = {*sources, "series_volume", "label", "lesion", "split", *GROUPS, *(columns.values() if indicators else ())}
    found = Found(
        splits=[] if "split" in table else None,
        lesions=[] if "lesion" in table else None,
        multi_label=multi_label,
    )
    for row, record in zip(table.index, table.to_dict("records"), strict=True):
        cells = _cells(record, used, row, problems)
        if labels_may_miss and not multi_label and _is_unlabelled(cells, class_names):
            continue
        split = SPLIT_NAMES.get(comparable(cells.get("split", "")).lower(), "")
        label: str | tuple[str, ...]
        if indicators:
            label = _of_indicators({name: cells[column] for name, column in columns.items()}, row, problems)
        elif multi_label:
            label = classes_of_cell(cells["label"], row, problems)
        else:
            label = class_of_cell(cells["label"], class_names, row, problems)
        if "split" in cells and not split:
            problems.add(f"the split is none of {', '.join(SPLITS)}", row)
        items, told = _located(cells, sources, reading, row, problems)
        for item in items:
            found.items.append(item | {"label": label})
            found.rows.append(row)
            if found.splits is not None:
                found.splits.append(split)
            if found.lesions is not None:
                found.lesions.append(told["lesion"])
    reading.advise(problems)
    return found


def unlabelled_of_sheet(
    path: Path, reading: Reading, class_names: Sequence[str] | None, problems: Problems
) -> list[Item]:
    """Return the items of the rows without a label; of all rows where the sheet has no column `label`.

    Rows that a column `split` assigns to validation or test are left out.

    Raises:
        DataListError: see `items_of_sheet`.
    """

    def wanted(cells: Mapping[str, str]) -> bool:
        split = SPLIT_NAMES.get(comparable(cells.get("split", "")).lower(), "training")
        return split == "training" and _is_unlabelled(cells, class_names)

    return items_of_sheet(path, reading, problems, wanted)


def items_of_sheet(
    path: Path, reading: Reading, problems: Problems, wanted: Callable[[Mapping[str, str]], bool] | None = None
) -> list[Item]:
    """Return the items of the rows that are wanted, without their labels.

    Args:
        path: a CSV or Excel sheet.
        reading: finds what a row names.
        problems: receives what is wrong with rows.
        wanted: receives the cells of a row by column; None takes every row.

    Raises:
        DataListError: the file is not a sheet, or has no column that names images.
    """
    table, sources, twice = _table(path)
    if twice or not sources:
        has = f"more than one column of {', '.join(twice)}" if twice else "none of them"
        raise DataListError(f"the sheet needs one of the columns {_SOURCES}; it has {has}")
    reading.take_roles(_roles(sources))
    used = {*sources, "series_volume", "label", "split", *GROUPS}
    items: list[Item] = []
    for row, record in zip(table.index, table.to_dict("records"), strict=True):
        cells = _cells(record, used, row, problems)
        if wanted is None or wanted(cells):
            items += _located(cells, sources, reading, row, problems)[0]
    reading.advise(problems)
    return items


def _table(path: Path) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Read a sheet; return it with normalised column names, its columns that name images, and its duplicate columns."""
    table = read_table(path)
    table.columns = pd.Index([_column(str(name)) for name in table.columns])
    roles = [name for name in dict.fromkeys(table.columns) if name.startswith(_ROLE)]
    names = list(table.columns)
    twice = sorted(name for name in {*_KNOWN, *roles} if names.count(name) > 1)
    twice += ["image"] if roles and "image" in names else []
    naming = (*roles, "patient") if roles else ("image", "series", "study", "patient")
    return table, [column for column in naming if column in table], twice


def _roles(sources: Sequence[str]) -> list[str]:
    return [name.removeprefix(_ROLE) for name in sources if name.startswith(_ROLE)]


def _cells(record: Mapping[Any, str], used: Container[str], row: int, problems: Problems) -> dict[str, str]:
    return {str(column): _cell(str(column), value, row, problems) for column, value in record.items() if column in used}


def _is_unlabelled(cells: Mapping[str, str], class_names: Sequence[str] | None) -> bool:
    name = name_of(cells.get("label", ""))
    return name in MISSING and name not in (class_names or ())


def _located(
    cells: Mapping[str, str], sources: Sequence[str], reading: Reading, row: int, problems: Problems
) -> tuple[list[Item], dict[str, str]]:
    """Return the items that a row names, without their label, and the row's patient and lesion cells."""
    told = {
        name: "" if cells.get(name) in MISSING else comparable(cells[name])
        for name in ("patient", "lesion")
        if name in cells
    }
    if "patient" in told and not told["patient"]:
        problems.add("no patient", row)
    if roles := _roles(sources):
        images = {role: cell for role in roles if (cell := cells[_ROLE + role]) not in MISSING}
        items = reading.study_of_files(images, {}, row, problems)
    elif cells.get("image") or sources == ["image"]:
        items = reading.at_path(cells["image"], row, problems)
    elif cells.get("study") and not cells.get("series"):
        items = reading.series_of_study(cells["study"], row, problems)
    elif cells.get("series") or not {"study", "patient"} & set(sources):
        items = reading.series_of_uid(cells.get("series", ""), row, problems, cells.get("series_volume", ""))
    elif "patient" not in told:
        items = reading.series_of_study("", row, problems)
    elif told["patient"]:
        items = reading.series_of_patient(told["patient"], row, problems)
    else:
        items = []
    patient = patient_pseudonym(told.get("patient", ""), reading.key)
    more: Item = {"patient": patient} if patient else {}
    return [item | more | groups_of(cells, row, problems) for item in items], told


def _column(name: str) -> str:
    """Normalise a column name: a known spelling to its standard name, any other to lower case without outer blanks.

    The role of a column `image:ROLE` keeps its case.
    """
    kind, colon, role = comparable(name).partition(":")
    if colon and _column(kind) == "image":
        return _ROLE + role.strip()
    plain = comparable(name).lower()
    joined = re.sub(r"[\s_.-]+", "", plain)
    return _COLUMNS.get(joined, joined if joined in _KNOWN else plain)


def _cell(column: str, value: str, row: int, problems: Problems) -> str:
    if isinstance(value, Cell):
        problems.add(f"the cell below '{column}' is {value.reason}: format the column as text and type it again", row)
    return value.strip()


def _of_indicators(cells: Mapping[str, str], row: int, problems: Problems) -> tuple[str, ...]:
    for name, cell in cells.items():
        if cell not in ("0", "1", "0.0", "1.0"):
            problems.add(f"the column '{name}' holds neither 0 nor 1", row)
    return tuple(name for name, cell in cells.items() if cell in ("1", "1.0"))


# ----------------------------------------------------------------------------------------------------- folders


def from_folders(
    root: Path, reading: Reading, class_names: Sequence[str] | None, unlabelled: Collection[Path] = ()
) -> Found:
    """Read one folder of images or DICOM series for each class, optionally inside folders named after the splits.

    The folders `unlabelled` may lie next to them and are ignored.

    Raises:
        DataListError: fewer than two class folders, no test folder among the folders of splits, or series that are
            errors by the policy.
    """
    folders = [one for one in _folders(root, reading) if not any(map(one.samefile, unlabelled))]
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
                copies.append(item["patient"] if file else "")  # hash of the file's content
                splits.append(where)
    return found


def _folders(place: Path, reading: Reading) -> list[Path]:
    """List the folders in a folder; the policy decides about entries that cannot be opened: one could be a class."""
    found = walk(place, below=False)
    closed = len(found.unreadable)
    if closed:
        problem = UnreadableFileError(
            f"{closed} of what lies beside the class folders cannot be opened, as a link that leads nowhere: a class "
            "could be among it. Mend or remove it."
        )
        if reading.policy[problem.code] != "skip":
            raise DataListError(f"{problem.code}: {problem}")
        reading.left_out.append(problem)
    unlabelled = len(images_among(found.files)) + sum(is_dicom(path) for path in found.files)
    if unlabelled:
        logger.warning("data: %d images beside the folders of classes have no label and are not used", unlabelled)
    return folders_in(place)


def _of_class(folder: Path, reading: Reading, class_names: Sequence[str] | None) -> list[Item]:
    name = name_of(folder.name)
    if class_names is not None and name not in class_names:
        meant = [other for other in class_names if name_key(other) == name_key(name)]
        if meant:
            raise DataListError(f"the folder {name!r} is not among the class names: is {meant[0]!r} meant? Rename it")
        logger.warning("data: a folder that is none of the classes named is not read")
        return []
    studies = find_studies(folder, False, reading.policy.actions, reading.rule, reading.key, labelled=True)
    reading.left_out += studies.problems
    return [item | {"label": name} for item in studies.items]
