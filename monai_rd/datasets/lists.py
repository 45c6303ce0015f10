"""Training, validation and test lists, and writing them as MONAI's JSON."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_rd.datasets.problems import DataListError, Problems
from monai_rd.datasets.splits import SPLITS, fold_numbers, group
from monai_rd.datasets.studies import GROUPS, Item
from monai_rd.errors import reading_files
from monai_rd.files import atomic_write, sha256
from monai_rd.no_label import NO_LABEL
from monai_rd.pseudonyms import patient_pseudonym

__all__ = ["UNLABELLED", "DataList", "compare_identities", "write_datalist"]

UNLABELLED = "unlabeled"  # the key of a JSON's items without a label


@dataclass(frozen=True)
class DataList:
    """The training, validation and test items of a data set, and its class names.

    An item is `{"image": path or list of paths, "label": class index, "id": ..., "patient": ...}`. `id` is a DICOM UID,
    else ""; `patient` is a pseudonym, "" where none is known; see `Studies` for the other keys. In a multi-label list
    "label" is a list of floats `[len(class_names)]`: 1.0 for each class that the item has, 0.0 for the others.

    Attributes:
        class_names: class names by class index. Of two classes the second is the positive one for sensitivity,
            specificity and AUC.
        training: items to train on.
        validation: items to choose the best epoch with.
        test: items to report results on; never used to choose anything.
        multi_label: whether an item may have several classes or none.
        unlabelled: items to train on whose class is not known; their "label" is `NO_LABEL` (for every class in a
            multi-label list).
        groups: group number of each training item; items of one patient, lesion or file share a number and must stay
            together. Empty: grouped by patient.
        series_roles: the series rule, as in a bundle config, if the items are studies of several roles; else None.

    Example:
        >>> from monai_rd.datasets import DataList
        >>> clear, opacity = ({"image": f"{n}.png", "label": n, "id": "", "patient": ""} for n in (0, 1))
        >>> lists = DataList(("clear", "opacity"), training=[clear, opacity], validation=[opacity], test=[clear])
        >>> lists.labels("training")
        [0, 1]
        >>> print(lists)
        training 2 (1 clear, 1 opacity); validation 1 (0 clear, 1 opacity); test 1 (1 clear, 0 opacity)
    """

    class_names: tuple[str, ...]
    training: list[Item]
    validation: list[Item]
    test: list[Item]
    multi_label: bool = False
    unlabelled: list[Item] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    series_roles: dict[str, Any] | None = None

    def __getitem__(self, split: str) -> list[Item]:
        """Return the items of "training", "validation", "test" or "unlabelled"; bundle configs use this."""
        if split not in (*SPLITS, "unlabelled"):
            raise KeyError(f"no split '{split}'; there are {', '.join(SPLITS)} and unlabelled")
        return list(getattr(self, split))

    def labels(self, split: str) -> list[Any]:
        """Return the labels of a split in order: class indices, or rows of 0.0 and 1.0 in a multi-label list."""
        return [item["label"] for item in self[split]]

    def numbered(self, split: str) -> list[Item]:
        """Return the items of a split, each with its position as `index`, for methods that store values per item.

        Positions of unlabelled items continue after those of the training list.
        """
        first = len(self.training) if split == "unlabelled" else 0
        return [{**item, "index": index} for index, item in enumerate(self[split], start=first)]

    def folds(self, count: int, seed: int) -> list[int]:
        """Split the training list into folds, stratified by class; items that belong together share a fold.

        Args:
            count: number of folds, at least 2.
            seed: seed of the shuffling.

        Returns:
            The fold of each item, from 0.

        Raises:
            DataListError: a class has fewer patients (or images without one) than there are folds.
        """
        problems, names = Problems(), [f"class '{name}'" for name in self.class_names]
        groups = self.groups or group([item["patient"] for item in self.training])
        found = fold_numbers([self.classes(one) for one in self.training], groups, names, count, seed, problems)
        if len(problems):
            raise DataListError(f"the training list has not enough for {count} folds: {'; '.join(problems)}")
        return found

    def without_label(self, items: Iterable[Item]) -> list[Item]:
        """Return copies of items whose label is `NO_LABEL`, in the form that this list needs."""
        label = [float(NO_LABEL)] * len(self.class_names) if self.multi_label else NO_LABEL
        return [{**item, "label": label} for item in items]

    def classes(self, item: Item) -> tuple[int, ...]:
        """Return the class indices of an item: one, or any number in a multi-label list."""
        if not self.multi_label:
            return (item["label"],)
        return tuple(index for index, has in enumerate(item["label"]) if has)

    def identity(self) -> dict[str, list[tuple[str, str]]]:
        """Return a fingerprint of these lists without names or paths: (hash, label) of each item, in order, by split.

        The hash is of an item's UID, or of its paths relative to the folder that holds all items, so that data may be
        moved; the label is the class name. All unlabelled items, which may be very many, share one hash.
        """
        every = [item for split in (*SPLITS, "unlabelled") for item in self[split]]
        folders = [os.path.dirname(path) for item in every if not item.get("id") for path in _paths(item).values()]
        root = os.path.commonpath(folders) if folders else ""

        def named(item: Item) -> str:
            paths = {role: Path(os.path.relpath(path, root)).as_posix() for role, path in _paths(item).items()}
            name = item.get("id") or "\n".join(" ".join(filter(None, one)) for one in sorted(paths.items()))
            return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]

        def label(item: Item) -> str:
            return "|".join(self.class_names[index] for index in self.classes(item))

        told = {split: [(named(item), label(item)) for item in self[split]] for split in SPLITS}
        if self.unlabelled:
            names = "".join(named(item) for item in self.unlabelled)
            told["unlabelled"] = [(hashlib.sha256(names.encode()).hexdigest()[:12], str(len(self.unlabelled)))]
        return told

    def class_counts(self, split: str) -> list[int]:
        """Count the items of each class in a split."""
        counts = Counter(index for item in self[split] for index in self.classes(item))
        return [counts[index] for index in range(len(self.class_names))]

    def __str__(self) -> str:
        rows = []
        for split in SPLITS:
            each = [f"{n} {name}" for n, name in zip(self.class_counts(split), self.class_names, strict=True)]
            if self.multi_label:
                each.append(f"{sum(not self.classes(item) for item in self[split])} without any")
            rows.append(f"{split} {len(self[split])} ({', '.join(each)})")
        rows += [f"unlabelled {len(self.unlabelled)}"] if self.unlabelled else []
        return "; ".join(rows)


def compare_identities(before: Mapping[str, Sequence[Any]], now: Mapping[str, Sequence[Any]]) -> str:
    """Describe how two `DataList.identity` differ, such as "training: 2 came (of 40)"; "" if they are equal."""
    told = []
    for split in SPLITS:
        old, new = ([tuple(one) for one in made.get(split, ())] for made in (before, now))
        were, are = Counter(name for name, _ in old), Counter(name for name, _ in new)
        came, went = (are - were).total(), (were - are).total()
        relabelled = (Counter(new) - Counter(old)).total() - came
        counts = [(came, "came"), (went, "went"), (relabelled, "changed their label")]
        parts = [f"{count} {what}" for count, what in counts if count]
        if old != new:
            told.append(f"{split}: {', '.join(parts) or 'the same items in another order'} (of {len(old)})")
    was, is_ = ([tuple(one) for one in made.get("unlabelled", ())] for made in (before, now))
    if was != is_:
        told.append(f"unlabelled: other items ({is_[0][1] if is_ else 0}, were {was[0][1] if was else 0})")
    return "; ".join(told)


def write_datalist(
    made: DataList, dataset_dir: str | os.PathLike[str], path: str | os.PathLike[str], key: bytes
) -> None:
    """Write a data list as MONAI's JSON, atomically.

    An image or volume file is written as `image`, its path relative to `dataset_dir`, or the paths by role. DICOM is
    written as `series` by its UIDs (with `sop` for a single picture, `series_volume` for one of several volumes), a
    study of several roles as `study` with its `roles`, because export folders are often named after patients. For the
    same reason a file whose path contains its patient's ID is written as the `sha256` of its content. Patients are
    pseudonyms. A multi-label list has `"multi_label": true`; its labels are lists of class indices. Unlabelled items
    are written under "unlabeled", as MONAI spells it.

    Args:
        made: the lists.
        dataset_dir: folder of the data.
        path: the JSON file to write.
        key: the key that the pseudonyms in the lists were made with.
    """
    root = Path(os.path.abspath(dataset_dir))
    content: dict[str, Any] = {"class_names": list(made.class_names)}
    if made.multi_label:
        content["multi_label"] = True
    for split in SPLITS:
        content[split] = [_entry(item, root, key) | _label(item, made) for item in made[split]]
    if made.unlabelled:
        content[UNLABELLED] = [_entry({**item, "label": ""}, root, key) for item in made.unlabelled]
    atomic_write(json.dumps(content, indent=1) + "\n", Path(path))


def _label(item: Item, made: DataList) -> dict[str, Any]:
    return {"label": list(made.classes(item))} if made.multi_label else {}


def _entry(item: Item, root: Path, key: bytes) -> dict[str, Any]:
    told: dict[str, Any] = dict(item)
    entry = {name: told[name] for name in ("label", "patient", *GROUPS) if told.get(name, "") != ""}
    if isinstance(item["image"], Mapping) and item["series"]:
        return {"study": item["study"], "roles": list(item["image"]), **entry}
    if isinstance(item["image"], Mapping):
        return {**_by_role(item, root, key), **entry}
    if item["series"]:
        if item["volume"]:
            return {"series": item["series"], "series_volume": item["volume"], **entry}
        picture = {"sop": item["id"]} if item["id"] != item["series"] else {}
        return {"series": item["series"], **picture, **entry}
    return {**_file(item["image"], item["patient"], root, key), **entry}


def _by_role(item: Item, root: Path, key: bytes) -> dict[str, dict[str, str]]:
    told: dict[str, dict[str, str]] = {}
    for role, file in item["image"].items():
        for how, value in _file(file, item["patient"], root, key).items():
            told.setdefault(how, {})[role] = value
    return told


def _file(path: str, patient: str, root: Path, key: bytes) -> dict[str, str]:
    """Return how a file is named: as `image`, or as `sha256` if its path tells its patient."""
    file = Path(os.path.abspath(path))  # not resolved: links may lead out of the folder
    relative = file.relative_to(root)
    if patient and _tells_the_patient(relative, patient, key):
        with reading_files():
            return {"sha256": sha256(file)}
    return {"image": relative.as_posix()}


def _paths(item: Item) -> dict[str, str]:
    """Return the absolute path of the first file of each role; of an item without roles, of its first file."""
    roles = item["image"] if isinstance(item["image"], Mapping) else {"": item["image"]}
    firsts = {role: one if isinstance(one, str) else one[0] for role, one in roles.items()}
    return {role: os.path.abspath(one) for role, one in firsts.items()}


def _tells_the_patient(path: Path, pseudonym: str, key: bytes) -> bool:
    """Whether a part of a path, between any two separators, is the patient ID behind a pseudonym."""
    return any(patient_pseudonym(text, key) == pseudonym for text in parts_of_path(path))


def parts_of_path(path: Path) -> Iterator[str]:
    """Yield every text between any two separators within a part of a path: each could be a patient ID."""
    for part in path.parts:
        words = re.split(r"([\W_]+)", part)  # words at even, separators at odd positions
        for first in range(0, len(words), 2):
            for last in range(first, len(words), 2):
                yield "".join(words[first : last + 1])
