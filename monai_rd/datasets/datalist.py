"""Making training, validation and test lists without leaks from a data set on disk."""

from __future__ import annotations

import logging
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_rd.datasets.collecting import Collected, collect, names_file
from monai_rd.datasets.json_list import items_of_json
from monai_rd.datasets.lists import DataList, write_datalist
from monai_rd.datasets.problems import DataListError, Problems
from monai_rd.datasets.reading import Reading
from monai_rd.datasets.sources import items_of_sheet
from monai_rd.datasets.splits import DEVELOPMENT, SPLITS, group, split_development, split_folds, split_once
from monai_rd.datasets.studies import Item, Studies, file_id_of, find_studies
from monai_rd.datasets.unlabelled import exclude_leaks, find_unlabelled
from monai_rd.dicom import SeriesRule
from monai_rd.dicom.media import is_directory_name
from monai_rd.errors import Policy, StudyError

__all__ = ["DataList", "make_datalist", "make_folds", "read_datalist", "write_datalist"]

logger = logging.getLogger(__name__)


def make_datalist(
    dataset_dir: str | os.PathLike[str],
    data_list: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    policy: Mapping[str, str] | None = None,
    series_rule: Mapping[str, Any] | None = None,
    key: bytes | None = None,
    unlabelled: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> DataList:
    """Make the training, validation and test lists of a data set, and a list of unlabelled images to train on.

    The source is the first of these that exists: `data_list`; a data set in its publisher's layout, with its official
    split (`monai_rd.datasets.published`); `labels.csv`, `labels.xlsx` or `data.csv` in the folder; one folder of images
    or DICOM series for each class, either directly in the folder or in `train`, `val` and `test`.

    - Sheet (CSV, Excel): the column `label`, and one of `image` (file or series folder, relative to `dataset_dir`),
      `image:ROLE` for each role of a study (a file, none of them DICOM; empty if the study lacks it),
      `series` (a SeriesInstanceUID found below it), `study` (a StudyInstanceUID), `patient` (a PatientID found below
      it; `series_rule` chooses among the series, by default the one with the most slices). Optional: `patient`,
      `lesion`, `split` (training, validation, test), and `sex`, `age` (years), `scanner`, `site` for results by group.
      The list is multi-label if any cell of `label` holds several names separated by `|`, or if there is a column of 0
      and 1 for each of `class_names` in place of `label`; then an empty cell, "none" and "No Finding" mean no class.
    - JSON: MONAI's data list, `{"training": [{"image": ..., "label": ...}], "validation": [...], "test": [...]}`;
      instead of `image` an item may have `series`, `study` or `sha256`, as `write_datalist` writes them; `image` may
      be a mapping from the roles of a study to files, like the columns above. With
      `"multi_label": true` labels are lists of class indices or names.

    A source without splits is split 4:1 into development and test, and development 4:1 into training and validation:
    stratified by class (an item of several classes by its rarest), with every patient (column, or DICOM PatientID),
    lesion and file in one split only. Where the source defines a test set but no validation set, the validation set is
    taken from the remaining items in the same way.

    Unlabelled images come from `unlabelled` (see `find_unlabelled`) and from the list "unlabeled" of a JSON data list.
    Images of a patient or study in validation or test, and copies of images there, are left out.

    Args:
        dataset_dir: folder of the data.
        data_list: a sheet or JSON file; None looks in the folder.
        class_names: the classes in order of their index, the positive one last; None takes the order of the published
            data set, else sorts by name.
        num_classes: expected number of classes; None accepts any.
        seed: seed of the split.
        policy: how to handle DICOM series that cannot be read, see `Policy`.
        series_rule: which DICOM series to take where there are several, see `SeriesRule`; with roles each study is one
            item. The roles of a list of files need no rule.
        key: key of the patient pseudonyms, see `project_key`; None makes one for this call.
        unlabelled: a folder or list of unlabelled images, or several. The data list itself may be among them: its rows
            without a label are then unlabelled images instead of an error.
        cache_dir: folder where file hashes and image fingerprints are stored; None stores nothing.

    Returns:
        The lists; nothing is written.

    Raises:
        FileNotFoundError: no such folder or file.
        DataListError: nothing usable was found, no unlabelled image is left, or the list has problems; all are listed
            at once: images that do not exist, series that cannot be read, unknown labels, duplicated rows, a patient in
            two splits, empty classes.
    """
    others = [unlabelled] if isinstance(unlabelled, str | os.PathLike) else list(unlabelled or ())
    read = collect(dataset_dir, data_list, class_names, num_classes, policy, series_rule, key, others)
    made = _split(read, seed)
    _check_leaks(read)
    _check_classes(read, made)
    read.problems.extend(read.leaks)
    read.problems.refuse()
    if read.published is not None:
        read.published.log(read.found, made)
    logger.info("data: %s", made)
    if read.sheet is not None and read.sheet.suffix.lower() == ".json" and not names_file(others, read.sheet):
        others.append(read.sheet)
    found = find_unlabelled(others, read.reading, class_names)
    return replace(
        made, unlabelled=exclude_leaks(found, made, read.reading.key, None if cache_dir is None else Path(cache_dir))
    )


def read_datalist(
    dataset_dir: str | os.PathLike[str],
    data_list: str | os.PathLike[str] | None = None,
    policy: Mapping[str, str] | None = None,
    key: bytes | None = None,
    series_rule: Mapping[str, Any] | None = None,
) -> tuple[DataList, list[StudyError]]:
    """Read a data list as it is, for an audit: `make_datalist` without its checks of copies, leaks and classes.

    Args:
        dataset_dir: see `make_datalist`.
        data_list: see `make_datalist`.
        policy: see `make_datalist`.
        key: see `make_datalist`.
        series_rule: see `make_datalist`.

    Returns:
        The lists, and the problems of the studies that the policy left out of them.

    Raises:
        FileNotFoundError: no such folder or file.
        DataListError: images that do not exist, and other rows that cannot be used.
    """
    read = collect(dataset_dir, data_list, None, None, policy, series_rule, key)
    made = _split(read, 0)
    read.problems.refuse()
    return made, read.left_out


def studies_to_score(
    source: str | os.PathLike[str],
    data_list: str | os.PathLike[str] | None = None,
    policy: Mapping[str, str] | None = None,
    series_rule: Mapping[str, Any] | None = None,
    empty_is_error: bool = True,
) -> Studies:
    """Find the studies of a folder, or those that a list names, with or without labels.

    Args:
        source: a folder or DICOMDIR, see `find_studies`; or a list, whose paths are relative to its own folder.
        data_list: a sheet or JSON list (of which every list is taken), whose paths are relative to `source`.
        policy: how to handle studies that cannot be read, see `Policy`.
        series_rule: see `make_datalist`.
        empty_is_error: whether to raise an error if nothing is found.

    Raises:
        FileNotFoundError: no such folder or file.
        DataListError: see `find_studies`; or a list has rows that cannot be used, all of which are listed.
        ValueError: a role of the rule has no rule, and there is no list.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from monai_rd.datasets import studies_to_score
        >>> for view in ("pa", "lateral"):
        ...     Image.new("L", (8, 8), len(view)).save(f"{view}.png")
        >>> _ = Path("new.json").write_text('{"test": [{"image": {"pa": "pa.png", "lateral": "lateral.png"}}]}')
        >>> [list(study["image"]) for study in studies_to_score("new.json").items]
        [['pa', 'lateral']]
    """
    path = Path(source)
    if data_list is None and (not path.is_file() or is_directory_name(path)):
        return find_studies(source, empty_is_error, policy, series_rule)
    sheet, root = (path, path.parent) if data_list is None else (Path(data_list), path)
    if not sheet.is_file():
        raise FileNotFoundError(f"data_list '{sheet}' is not a file")
    reading = Reading(root, Policy(policy), SeriesRule.of(series_rule), secrets.token_bytes(32))
    of_json = sheet.suffix.lower() == ".json"
    problems = Problems("item" if of_json else "row")
    items = items_of_json(sheet, reading, problems) if of_json else items_of_sheet(sheet, reading, problems)
    problems.refuse()
    if not items and empty_is_error:
        raise DataListError(f"the list names no study that can be read ({len(reading.left_out)} were left out)")
    return Studies(_with_ids(items), reading.left_out)


def _with_ids(items: Sequence[Item]) -> list[Item]:
    return [item if item["id"] else item | {"id": file_id_of(item, n)} for n, item in enumerate(items, start=1)]


def labelled_studies(
    dataset_dir: str | os.PathLike[str],
    data_list: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    policy: Mapping[str, str] | None = None,
    series_rule: Mapping[str, Any] | None = None,
) -> Studies:
    """Return the labelled studies to evaluate a trained student on: the test split where the data set has splits.

    Without splits, all labelled items are taken.

    Args:
        dataset_dir: see `make_datalist`.
        data_list: see `make_datalist`.
        class_names: the student's classes, in their order.
        policy: see `make_datalist`.
        series_rule: see `make_datalist`.

    Returns:
        Items as `find_studies` returns them, with "label".

    Raises:
        FileNotFoundError: no such folder or file.
        DataListError: images that do not exist, labels that the student does not know, and other rows that cannot be
            used; no labelled item.
    """
    read = collect(dataset_dir, data_list, class_names, None, policy, series_rule, None)
    splits = read.found.splits
    chosen = [i for i in range(len(read.found.items)) if splits is None or splits[i] == "test"]
    items = _datalist(read, {"test": chosen}).test
    if not items:
        read.problems.add("no labelled item" + (" in the test split" if splits is not None else ""))
    read.problems.refuse()
    return Studies(_with_ids(items), read.left_out)


def make_folds(
    dataset_dir: str | os.PathLike[str],
    folds: int,
    data_list: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    policy: Mapping[str, str] | None = None,
    series_rule: Mapping[str, Any] | None = None,
    key: bytes | None = None,
) -> list[DataList]:
    """Make the data lists of a k-fold cross-validation; splits that the source defines are ignored.

    In fold i part i is the test set, part i + 1 the validation set, the rest the training set.

    Args:
        dataset_dir: see `make_datalist`.
        folds: k, at least 3.
        data_list: see `make_datalist`.
        class_names: see `make_datalist`.
        seed: seed of the shuffling.
        policy: see `make_datalist`.
        series_rule: see `make_datalist`.
        key: see `make_datalist`.

    Returns:
        One data list for each fold.

    Raises:
        ValueError: fewer than 3 folds.
        DataListError: see `make_datalist`.
    """
    read = collect(dataset_dir, data_list, class_names, None, policy, series_rule, key)
    parts = (
        split_folds(read.labels, read.groups, read.class_titles, folds, seed, read.problems)
        if len(read.order) > 1
        else []
    )
    read.problems.extend(read.leaks)
    read.problems.refuse()
    return [_datalist(read, part) for part in parts]


def _split(read: Collected, seed: int) -> DataList:
    """Use the splits of the source, or make them; classes that are too small are recorded as problems."""
    splits, enough = read.found.splits, len(read.order) > 1
    if splits is None:
        made = split_once(read.labels, read.groups, read.class_titles, seed, read.problems) if enough else {}
        return _datalist(read, made)
    chosen: dict[str, Iterable[int]] = {s: [i for i, name in enumerate(splits) if name == s] for s in SPLITS}
    development = [i for i, name in enumerate(splits) if name == DEVELOPMENT]
    if development and enough:
        labels, groups = [read.labels[i] for i in development], group([str(read.groups[i]) for i in development])
        parts = split_development(labels, groups, read.class_titles, seed, read.problems)
        chosen |= {name: [development[i] for i in part] for name, part in parts.items()}
    return _datalist(read, chosen)


def _datalist(read: Collected, chosen: Mapping[str, Iterable[int]]) -> DataList:
    def labelled(i: int) -> Item:
        own = read.labels[i]
        label = [float(index in own) for index in range(len(read.order))] if read.found.multi_label else own[0]
        return read.found.items[i] | {"label": label}

    indices = {split: list(chosen.get(split, ())) for split in SPLITS}
    lists = {split: [labelled(i) for i in own] for split, own in indices.items()}
    groups = group([str(read.groups[i]) for i in indices["training"]])
    roles = None if read.reading.rule is None else read.reading.rule.roles_config
    return DataList(read.order, **lists, multi_label=read.found.multi_label, groups=groups, series_roles=roles)


def _check_leaks(read: Collected) -> None:
    """Record patients, lesions and files in two splits of the source; only warn if the splits are published."""
    found = read.found
    if found.splits is None:
        return
    patients = [item["patient"] for item in found.items]
    for what, column in (("patient", patients), ("lesion", found.lesions), ("file", found.copies)):
        where: dict[str, set[str]] = {}
        for value, split in zip(column or (), found.splits, strict=False):
            if value and split:
                where.setdefault(value, set()).add(split)
        leaking = [i for i, value in enumerate(column or ()) if len(where.get(value, ())) > 1]
        if leaking and read.published is not None:
            counts = Counter(found.splits[i] for i in leaking)
            each = ", ".join(f"{count} of {split}" for split, count in counts.items())
            logger.warning("%s: one %s stands in two published splits: items %s", read.published.name, what, each)
        elif leaking:
            hint = "; monai-rd audit --fix writes a list without them" if what == "file" else ""
            read.leaks.add(f"the {what} stands in two splits{hint}", *(found.rows[i] for i in leaking))


def _check_classes(read: Collected, made: DataList) -> None:
    """Record classes missing from a given split; in a multi-label list also those that all items of a split have."""
    given = read.found.splits
    undone = not made.training and (given is None or DEVELOPMENT in given)  # which is recorded already
    if undone or (given is None and not made.multi_label):
        return
    hint = "; the data are too few for their classes, or another seed splits them better" if given is None else ""
    for split in SPLITS if not made.multi_label else ("training", "test"):
        for name, count in zip(read.class_titles, made.class_counts(split), strict=True):
            if count == 0:
                read.leaks.add(f"{name} has no item in {split}{hint}")
            elif made.multi_label and count == len(made[split]):
                read.leaks.add(f"every item of {split} has {name}{hint}")
