"""Parsing the cells of a data list: labels, patient groups, and markers of missing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from monai_rd.datasets.problems import Problems
from monai_rd.datasets.studies import GROUPS, Item
from monai_rd.dicom.header import age_band
from monai_rd.text import name_of

__all__ = ["MISSING", "SEPARATOR", "class_of_cell", "classes_of_cell", "groups_of", "kind_of"]

# The separator of class names in a multi-label cell, and the words that mean no class.
SEPARATOR, NO_CLASS = "|", ("", "none", "no finding")
# Texts that programs write for a missing value.
MISSING = frozenset(
    ("", "nan", "NaN", "NAN", "-nan", "NA", "N/A", "n/a", "<NA>", "NaT", "None", "null", "NULL", "Null", "#N/A", "#NA")
)


def class_of_cell(cell: str, class_names: Sequence[str] | None, row: int, problems: Problems) -> str:
    """Return the class named in a cell, "" where the cell marks a missing label."""
    name = name_of(cell)
    if name in MISSING and name not in (class_names or ()):
        word = f" ('{name}' stands for a missing one; if it is a class, name the classes)" if name else ""
        problems.add(f"no label{word}", row)
        return ""
    return name


def classes_of_cell(cell: str, row: int, problems: Problems) -> tuple[str, ...]:
    """Return the classes named in a multi-label cell: none where it is empty, "none" or "No Finding"."""
    parts = [name_of(part) for part in cell.split(SEPARATOR)]
    named = tuple(dict.fromkeys(part for part in parts if part.lower() not in NO_CLASS))
    if named and len(parts) > 1 and any(part.lower() in NO_CLASS for part in parts):
        problems.add("the label names classes and says that there is none", row)
    if not MISSING.isdisjoint(named):
        problems.add("no label: a word stands in it for a missing one", row)
    return named


def groups_of(entry: Mapping[str, Any], row: int, problems: Problems) -> Item:
    """Return the patient groups (`GROUPS`) of a row, which override the DICOM header; an age in years as its band."""
    told: dict[str, str] = {}
    for name in GROUPS:
        value = entry.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            problems.add(f"'{name}' is {kind_of(value)}: give a text or a number", row)
        elif value is not None and str(value) not in MISSING:
            told[name] = name_of(str(value))
    with suppress(KeyError, ValueError):  # no age, or a band already
        told["age"] = age_band(float(told["age"]))
    return cast(Item, told)


def kind_of(value: Any) -> str:
    """Describe the kind of a JSON value in words, without the value itself."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds = {list: "a list", dict: "an object", float: "a number that is no index, such as 1.0 or NaN"}
    if isinstance(value, int):
        return "a number below 0" if value < 0 else "a number"
    return kinds.get(type(value), "empty or a word for what is missing")
