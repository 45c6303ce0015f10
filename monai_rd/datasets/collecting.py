"""Collecting the items of a data set from its source: a sheet, a JSON list, a published layout, or folders."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from monai_rd.datasets import sources
from monai_rd.datasets.json_list import from_json
from monai_rd.datasets.problems import Problems
from monai_rd.datasets.published import Published, recognise
from monai_rd.datasets.reading import Found, Reading
from monai_rd.datasets.splits import Classes, group
from monai_rd.datasets.studies import files_of_item
from monai_rd.dicom import SeriesRule
from monai_rd.errors import Policy, StudyError, count_codes
from monai_rd.text import name_key, name_of

__all__ = ["Collected", "collect", "names_file"]

logger = logging.getLogger(__name__)

LABEL_FILES = ("labels.csv", "labels.xlsx", "data.csv")


@dataclass(frozen=True)
class Collected:
    """The items read from a source, and everything that is wrong with it.

    Attributes:
        found: the items whose class is known.
        order: the class names, by class index.
        class_titles: how error messages name the classes, by class index.
        problems: problems of rows that cannot be used.
        leaks: problems of rows that could be used.
        left_out: problems of the studies that the policy left out.
        published: the published data set, if the source is one.
        reading: the reader of the data set's folder.
        sheet: the sheet or JSON file, if the source is one.
    """

    found: Found
    order: tuple[str, ...]
    class_titles: tuple[str, ...]
    problems: Problems
    leaks: Problems
    left_out: list[StudyError]
    published: Published | None
    reading: Reading
    sheet: Path | None

    @cached_property
    def labels(self) -> list[Classes]:
        """Class indices of each item."""
        index = {name: number for number, name in enumerate(self.order)}
        return [tuple(index[name] for name in self.found.classes(item)) for item in self.found.items]

    @cached_property
    def groups(self) -> list[int]:
        """Group number of each item; a group must stay in one split."""
        return group([item["patient"] for item in self.found.items], self.found.lesions, self.found.copies)


def collect(
    dataset_dir: str | os.PathLike[str],
    data_list: str | os.PathLike[str] | None,
    class_names: Sequence[str] | None,
    num_classes: int | None,
    policy: Mapping[str, str] | None,
    series_rule: Mapping[str, Any] | None,
    key: bytes | None,
    unlabelled: Sequence[str | os.PathLike[str]] = (),
) -> Collected:
    """Read a source; problems are recorded instead of raised, unless they prevent reading at all.

    Args:
        dataset_dir: see `make_datalist`, also for the other arguments.
        data_list: a sheet or JSON file.
        class_names: the classes in order of their index.
        num_classes: expected number of classes.
        policy: how to handle series that cannot be read.
        series_rule: which series to take.
        key: key of the patient pseudonyms.
        unlabelled: folders and lists of unlabelled images.

    Raises:
        FileNotFoundError: no such folder or file.
        DataListError: nothing usable was found.
    """
    root = Path(dataset_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset_dir '{root}' is not a folder")
    if data_list is not None and not Path(data_list).is_file():
        raise FileNotFoundError(f"data_list '{data_list}' is not a file")
    class_names = None if class_names is None else [name_of(str(name)) for name in class_names]
    reading = Reading(root, Policy(policy), SeriesRule.of(series_rule), key or secrets.token_bytes(32))
    sheet = Path(data_list) if data_list is not None else None
    beside = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    published, place = recognise(root, below=beside is None) if sheet is None else (None, root)
    if sheet is None and published is None:
        sheet = beside
    what = "row" if sheet is not None and sheet.suffix.lower() != ".json" else "item"
    problems, leaks = Problems(what), Problems(what)
    if published is not None:
        found = published.found(place, reading, problems)
    elif sheet is None:
        folders = [Path(path) for path in unlabelled if Path(path).is_dir()]
        found = sources.from_folders(root, reading, class_names, folders)
    elif what == "item":
        found = from_json(sheet, reading, class_names, problems)
    else:
        found = sources.from_sheet(sheet, reading, class_names, problems, names_file(unlabelled, sheet))
    if reading.offered:
        rule = reading.rule or SeriesRule()
        logger.info("series: %d of %d taken (%s)", len(reading.chosen), len(reading.offered), rule)
    if reading.left_out:
        logger.warning("left out by the policy: %s", count_codes(problem.code for problem in reading.left_out))
    order = _class_order(found, class_names, problems)
    # Folder names that only their position marks as classes could be patients' names.
    of_folders = sheet is None and published is None and class_names is None and found.splits is None
    class_titles = tuple(
        f"class folder {number} of {len(order)} (sorted by name)" if of_folders else f"class '{name}'"
        for number, name in enumerate(order, start=1)
    )
    if num_classes is not None and num_classes != len(order):
        problems.add(f"num_classes is {num_classes}, but the data have {len(order)}: {', '.join(class_titles)}")
    if sheet is not None:
        _check_duplicates(found, leaks)
    known = set(order)
    labelled = [found.multi_label or item["label"] for item in found.items]
    usable = [i for i, item in enumerate(found.items) if labelled[i] and known.issuperset(found.classes(item))]
    return Collected(
        found.picked(usable), order, class_titles, problems, leaks, reading.left_out, published, reading, sheet
    )


def names_file(paths: Sequence[str | os.PathLike[str]], file: Path) -> bool:
    """Whether one of the paths names this file."""
    return any(Path(path).is_file() and os.path.samefile(path, file) for path in paths)


def _class_order(found: Found, class_names: Sequence[str] | None, problems: Problems) -> tuple[str, ...]:
    present = {name for item in found.items for name in found.classes(item)}
    named = class_names if class_names is not None else found.class_names
    order = tuple(str(name) for name in named) if named is not None else tuple(sorted(present))

    def rows_of(label: str) -> list[int]:
        return [row for item, row in zip(found.items, found.rows, strict=True) if label in found.classes(item)]

    for label in sorted(present - set(order)):
        meant = next((f"; is {name!r} meant?" for name in order if name_key(name) == name_key(label)), "")
        problems.add(f"label {label!r} is not among the class names {list(order)}{meant}", *rows_of(label))
    same: dict[str, list[str]] = {}
    for name in order if named is None else ():
        same.setdefault(name_key(name), []).append(name)
    for names in (names for names in same.values() if len(names) > 1):
        *rarer, most = sorted(names, key=lambda name: len(rows_of(name)))
        problems.add(
            f"the classes {', '.join(map(repr, [most, *rarer]))} differ only in how they are written: write them the "
            "same, or name each (class_names) if they are several",
            *(row for name in rarer for row in rows_of(name)),
        )
    if len(order) < 2 and (present or not len(problems)):  # not if no row was read
        problems.add(f"at least two classes are needed, found: {list(order)}")
    return order


def _check_duplicates(found: Found, problems: Problems) -> None:
    first: dict[str, str] = {}
    for item, row in zip(found.items, found.rows, strict=True):
        names = [item["id"]] if item["id"] else [os.path.realpath(file) for file in files_of_item(item)]
        before = {first[name] for name in names if name in first}
        if before:
            other = "" if before == {item["label"]} else " with another label"
            problems.add(f"the same image stands in an earlier row{other}", row)
        for name in names:
            first.setdefault(name, item["label"])
