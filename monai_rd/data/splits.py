"""Splits that do not leak: stratified by class, with everything of one patient or lesion on one side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from monai_rd.data.problems import Problems

__all__ = ["SPLITS", "group", "split_folds", "split_once"]

SPLITS = ("training", "validation", "test")
Indices = npt.NDArray[np.intp]


def group(*columns: Sequence[str] | None) -> list[int]:
    """Number the groups of items that must stay together: those that share a value in any column, or a chain of them.

    Args:
        columns: a value an item, such as its patient or its lesion; "" shares with nobody. None is no column.

    Returns:
        A number an item, in order of appearance: the values themselves may differ between runs, the numbers do not.
    """
    given = [column for column in columns if column is not None]
    parent = list(range(len(given[0]) if given else 0))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    for column in given:
        first: dict[str, int] = {}
        for item, value in enumerate(column):
            if value:
                parent[root(item)] = root(first.setdefault(value, item))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(item), len(numbers)) for item in range(len(parent))]


def split_once(
    labels: Sequence[int], groups: Sequence[int], class_names: Sequence[str], seed: int, problems: Problems
) -> dict[str, Indices]:
    """Split 4:1 into development and test, then development 4:1 into training and validation.

    Args:
        labels: class index of each item.
        groups: as `group` gives them.
        class_names: by class index.
        seed: of the shuffling.
        problems: a class too small is noted here; then nothing is split.

    Returns:
        The indices of the items of each split.
    """
    if not _enough(labels, groups, class_names, 10, "a split", problems):
        return {}
    group_of, stratum = np.asarray(groups), _strata(labels, groups, class_names)

    def one_fifth(among: Indices) -> tuple[Indices, Indices]:
        rest, fifth = next(iter(StratifiedKFold(5, shuffle=True, random_state=seed).split(among, stratum[among])))
        return among[rest], among[fifth]

    development, test = one_fifth(np.arange(len(stratum)))
    training, validation = one_fifth(development)
    return _items(group_of, {"training": training, "validation": validation, "test": test})


def split_folds(
    labels: Sequence[int],
    groups: Sequence[int],
    class_names: Sequence[str],
    folds: int,
    seed: int,
    problems: Problems,
) -> list[dict[str, Indices]]:
    """Split into k parts; in fold i the test set is part i, the validation set part i + 1, the rest is trained on.

    Every item is tested once and validated once. Arguments as in `split_once`; `folds` is k, at least 3.

    Raises:
        ValueError: fewer than 3 folds.
    """
    if folds < 3:
        raise ValueError(f"folds must be at least 3 (training, validation and test need one each), got {folds}")
    if not _enough(labels, groups, class_names, folds, f"{folds} folds", problems):
        return []
    group_of, stratum = np.asarray(groups), _strata(labels, groups, class_names)
    parts = [
        part
        for _, part in StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.arange(len(stratum)), stratum)
    ]
    made = []
    for test in range(folds):
        validation = (test + 1) % folds
        rest = np.concatenate([part for number, part in enumerate(parts) if number not in (test, validation)])
        made.append(
            _items(group_of, {"training": rest, "validation": parts[validation], "test": parts[test]}),
        )
    return made


def _enough(
    labels: Sequence[int], groups: Sequence[int], class_names: Sequence[str], least: int, what: str, problems: Problems
) -> bool:
    seen: list[set[int]] = [set() for _ in class_names]
    for label, number in zip(labels, groups, strict=True):
        seen[label].add(number)
    for name, members in zip(class_names, seen, strict=True):
        if len(members) < least:
            problems.add(
                f"class '{name}' has {len(members)} patients (or images without one); {what} needs at least {least}"
            )
    return all(len(members) >= least for members in seen)


def _strata(labels: Sequence[int], groups: Sequence[int], class_names: Sequence[str]) -> Indices:
    """Return the class that each group stands for: the rarest that it has."""
    rank = np.argsort(np.argsort(np.bincount(labels, minlength=len(class_names))))  # 0 is the rarest class
    stratum = np.full(max(groups) + 1, len(class_names))
    np.minimum.at(stratum, np.asarray(groups), rank[np.asarray(labels)])
    return stratum


def _items(group_of: npt.NDArray[np.int_], chosen: dict[str, Indices]) -> dict[str, Indices]:
    return {name: np.flatnonzero(np.isin(group_of, members)) for name, members in chosen.items()}
