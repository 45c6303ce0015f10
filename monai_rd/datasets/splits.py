"""Splits without leaks: stratified by class, with all images of a patient or lesion in one split."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from monai_rd.datasets.groups import linked
from monai_rd.datasets.problems import Problems

__all__ = [
    "DEVELOPMENT",
    "SPLITS",
    "Classes",
    "fold_numbers",
    "group",
    "split_development",
    "split_folds",
    "split_once",
]

SPLITS = ("training", "validation", "test")
# Where a source defines the test set only: the rest, still to be split into training and validation.
DEVELOPMENT = "development"
# Class indices of an item: one, or any number in a multi-label list.
Classes = Sequence[int]
Indices = npt.NDArray[np.intp]


def group(*columns: Sequence[str] | None) -> list[int]:
    """Number the groups of items that must stay together: those linked by a shared value in any column.

    Args:
        columns: one value per item, such as its patient or its lesion; "" is shared with no item. A column that is
            None is ignored.

    Returns:
        The group number of each item, in order of appearance. Values (pseudonyms) may differ between runs; the numbers
        do not.
    """
    given = [column for column in columns if column is not None]
    pairs = []
    for column in given:
        first: dict[str, int] = {}
        pairs += [(first.setdefault(value, item), item) for item, value in enumerate(column) if value]
    return linked(len(given[0]) if given else 0, pairs)


def split_once(
    labels: Sequence[Classes], groups: Sequence[int], classes: Sequence[str], seed: int, problems: Problems
) -> dict[str, Indices]:
    """Split 4:1 into development and test, then development 4:1 into training and validation.

    Args:
        labels: class indices of each item.
        groups: group number of each item, see `group`.
        classes: how messages name each class, by class index.
        seed: seed of the shuffling.
        problems: classes that are too small are recorded here; then nothing is split.

    Returns:
        The item indices of each split.
    """
    if not _enough(labels, groups, classes, 10, "a split", problems):
        return {}
    stratum = _strata(labels, groups, classes)
    development, test = _one_fifth(np.arange(len(stratum)), stratum, seed)
    training, validation = _one_fifth(development, stratum, seed)
    return _items(np.asarray(groups), {"training": training, "validation": validation, "test": test})


def split_development(
    labels: Sequence[Classes], groups: Sequence[int], classes: Sequence[str], seed: int, problems: Problems
) -> dict[str, Indices]:
    """Split items outside the test set 4:1 into training and validation. Arguments and result as in `split_once`."""
    if not _enough(labels, groups, classes, 5, "a validation set", problems):
        return {}
    stratum = _strata(labels, groups, classes)
    training, validation = _one_fifth(np.arange(len(stratum)), stratum, seed)
    return _items(np.asarray(groups), {"training": training, "validation": validation})


def split_folds(
    labels: Sequence[Classes],
    groups: Sequence[int],
    classes: Sequence[str],
    folds: int,
    seed: int,
    problems: Problems,
) -> list[dict[str, Indices]]:
    """Split into k parts; in fold i part i is the test set, part i + 1 the validation set, the rest the training set.

    Every item is in one test set and in one validation set. Arguments as in `split_once`; `folds` is k, at least 3.

    Raises:
        ValueError: fewer than 3 folds.
    """
    if folds < 3:
        raise ValueError(f"folds must be at least 3 (training, validation and test need one each), got {folds}")
    fold = np.asarray(fold_numbers(labels, groups, classes, folds, seed, problems))
    made = []
    for test in range(folds) if len(fold) else ():
        tested, validated = fold == test, fold == (test + 1) % folds
        parts = {"training": ~(tested | validated), "validation": validated, "test": tested}
        made.append({name: np.flatnonzero(part) for name, part in parts.items()})
    return made


def fold_numbers(
    labels: Sequence[Classes],
    groups: Sequence[int],
    classes: Sequence[str],
    folds: int,
    seed: int,
    problems: Problems,
) -> list[int]:
    """Assign items to folds with about the same share of every class in each. Arguments as in `split_folds`.

    Returns:
        The fold of each item, from 0; empty where a class is too small, which is recorded in `problems`.
    """
    if not _enough(labels, groups, classes, folds, f"{folds} folds", problems):
        return []
    stratum = _strata(labels, groups, classes)
    fold_of = np.empty(len(stratum), dtype=int)
    for number, part in enumerate(_parts(np.arange(len(stratum)), stratum, folds, seed)):
        fold_of[part] = number
    return [int(fold) for fold in fold_of[np.asarray(groups)]]


def _enough(
    labels: Sequence[Classes],
    groups: Sequence[int],
    classes: Sequence[str],
    least: int,
    what: str,
    problems: Problems,
) -> bool:
    seen: list[set[int]] = [set() for _ in classes]
    for own, number in zip(labels, groups, strict=True):
        for label in own:
            seen[label].add(number)
    for name, members in zip(classes, seen, strict=True):
        if len(members) < least:
            problems.add(f"{name} has {len(members)} patients (or images without one); {what} needs at least {least}")
    return all(len(members) >= least for members in seen)


def _strata(labels: Sequence[Classes], groups: Sequence[int], classes: Sequence[str]) -> Indices:
    """Return the stratum of each group: the rank of its rarest class (0 the rarest); the class count if it has none."""
    counts = np.bincount([label for own in labels for label in own], minlength=len(classes))
    rank = np.argsort(np.argsort(counts))  # 0 is the rarest class
    stratum = np.full(max(groups) + 1, len(classes))
    for number, own in zip(groups, labels, strict=True):
        for label in own:
            stratum[number] = min(stratum[number], rank[label])
    return stratum


def _one_fifth(among: Indices, stratum: Indices, seed: int) -> tuple[Indices, Indices]:
    fifth = _parts(among, stratum, 5, seed)[0]
    return np.setdiff1d(among, fifth), fifth


def _parts(among: Indices, stratum: Indices, count: int, seed: int) -> list[Indices]:
    """Split groups into parts with the same share of every stratum."""
    with warnings.catch_warnings():
        # In a multi-label list most groups of a class may count for a rarer one, which leaves its stratum small.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        folds = StratifiedKFold(count, shuffle=True, random_state=seed).split(among, stratum[among])
        return [among[part] for _, part in folds]


def _items(group_of: npt.NDArray[np.int_], chosen: dict[str, Indices]) -> dict[str, Indices]:
    return {name: np.flatnonzero(np.isin(group_of, members)) for name, members in chosen.items()}
