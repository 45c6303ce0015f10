"""Reading MONAI's JSON data lists; everything that is wrong with them is collected."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_rd.datasets.labels import MISSING, groups_of, kind_of
from monai_rd.datasets.lists import UNLABELLED
from monai_rd.datasets.problems import DataListError, Problems
from monai_rd.datasets.reading import Found, Reading
from monai_rd.datasets.splits import SPLITS
from monai_rd.datasets.studies import Item
from monai_rd.pseudonyms import patient_pseudonym
from monai_rd.text import name_of, read_text

__all__ = ["from_json", "items_of_json"]

_KEYS = frozenset(
    (
        *SPLITS,
        UNLABELLED,
        *("class_names", "multi_label", "image", "series", "sop", "study", "roles", "sha256", "label", "patient"),
    )
)

_NAMING = frozenset(("image", "series", "study", "sha256"))  # what names an image
_NAMED = "'image', 'series', 'study', 'sha256'"
_TEXTS = ("image", "series", "series_volume", "sop", "study", "sha256")
_BY_ROLE = ("image", "sha256")  # these may be mappings from roles to texts


def from_json(path: Path, reading: Reading, class_names: Sequence[str] | None, problems: Problems) -> Found:
    """Read a MONAI data list, whether `write_datalist` or another program wrote it.

    Raises:
        DataListError: the file is not a data list.
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
    reading.take_roles(_roles_named(content))
    splits: list[str] = []
    found = Found(splits=splits, class_names=names, multi_label=content.get("multi_label") is True)
    for row, (split, entry) in enumerate(((s, e) for s in SPLITS for e in content[s]), start=1):
        if not isinstance(entry, dict) or "label" not in entry or not _NAMING & set(entry):
            problems.add(f"needs 'label' and one of {_NAMED}", row)
            continue
        label = _label(entry["label"], found, row, problems)
        items = _items(entry, reading, row, problems)
        if label is None:
            continue
        for item in items:
            found.items.append(item | {"label": label})
            found.rows.append(row)
            splits.append(split)
    reading.advise(problems)
    present = {name for item in found.items for name in found.classes(item)}
    if found.class_names is None and all(name.isdecimal() for name in present):
        found.class_names = [str(n) for n in range(max(map(int, present), default=0) + 1)]
    return found


def items_of_json(
    path: Path, reading: Reading, problems: Problems, keys: Sequence[str] = (*SPLITS, UNLABELLED)
) -> list[Item]:
    """Return the items of some lists of a MONAI data list, without their labels; the file need not have all of them.

    Raises:
        DataListError: the file is not a data list.
    """
    content = _json(path)
    lists = [content.get(key, []) for key in keys] if isinstance(content, dict) else []
    if not lists or not all(isinstance(one, list) for one in lists):
        raise DataListError(f"{path.name} needs one of the lists {', '.join(keys)}, of {{'image': ...}}")
    reading.take_roles(_roles_named(content))
    entries = [entry for one in lists for entry in one]
    items: list[Item] = []
    for row, entry in enumerate(entries, start=1):
        if isinstance(entry, dict) and _NAMING & set(entry):
            items += _items(entry, reading, row, problems)
        else:
            problems.add(f"needs one of {_NAMED}", row)
    reading.advise(problems)
    return items


def _items(entry: Mapping[str, Any], reading: Reading, row: int, problems: Problems) -> list[Item]:
    """Return the items that an entry names, without their label."""
    told = {name: entry.get(name, "") for name in _TEXTS}
    by_role = {name: told.pop(name) for name in _BY_ROLE if isinstance(told[name], dict)}
    texts = [*told.items(), *(pair for one in by_role.values() for pair in one.items() if pair[1] is not None)]
    wrong = [(name, value) for name, value in texts if not isinstance(value, str)]
    for name, value in wrong:
        problems.add(f"'{name}' is {kind_of(value)}: give a text", row)
    if wrong:
        return []
    if by_role:
        images, hashes = ({r: one for r, one in by_role.get(name, {}).items() if one} for name in _BY_ROLE)
        items = reading.study_of_files(images, hashes, row, problems)
    elif "series" in entry and "sop" in entry:
        items = reading.picture_of_uid(entry["series"], entry["sop"], row, problems)
    elif "series" in entry:
        items = reading.series_of_uid(entry["series"], row, problems, entry.get("series_volume", ""))
    elif "study" in entry:
        items = _of_study(entry, reading, row, problems)
    elif "sha256" in entry:
        items = reading.with_hash(entry["sha256"], row, problems)
    else:
        items = reading.at_path(entry["image"], row, problems)
    patient = _patient(entry.get("patient"), reading.key, row, problems)
    more: Item = {"patient": patient} if patient else {}
    return [item | more | groups_of(entry, row, problems) for item in items]


def _of_study(entry: Mapping[str, Any], reading: Reading, row: int, problems: Problems) -> list[Item]:
    """Return the items of a study; if the entry names its roles, the series rule must give the same ones."""
    items = reading.series_of_study(entry["study"], row, problems)
    if "roles" in entry and any(entry["roles"] != list(_roles_of(item)) for item in items):
        problems.add("has other 'roles' by the series rule: give the --series_rule that the list was made with", row)
        return []
    return items


def _roles_named(content: Mapping[str, Any]) -> list[str]:
    """Return the roles that the entries of a data list name files for, in the order of their first occurrence."""
    lists = (one for key in (*SPLITS, UNLABELLED) if isinstance(one := content.get(key), list))
    entries = (entry for one in lists for entry in one if isinstance(entry, dict))
    named = (value for entry in entries for key in _BY_ROLE if isinstance(value := entry.get(key), dict))
    return list(dict.fromkeys(role for one in named for role in one))


def _roles_of(item: Item) -> Iterable[str]:
    return item["image"] if isinstance(item["image"], Mapping) else ()


def _json(path: Path) -> Any:
    """Read JSON in any Unicode encoding, with or without a byte-order mark.

    Raises:
        DataListError: the file is not JSON, or an object has a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            key = f"'{twice}'" if twice in _KEYS else "a key"  # another key could be a patient's name
            raise DataListError(f"{path.name}: {key} stands twice in one object")
        return made

    try:
        return json.loads(read_text(path), object_pairs_hook=once)
    except DataListError:
        raise
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise DataListError(f"'{path.name}' is no JSON{where}") from None


def _patient(value: Any, key: bytes, row: int, problems: Problems) -> str:
    """Return the pseudonym of an entry, given as such or made from its patient ID; "" for neither."""
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        problems.add(f"'patient' is {kind_of(value)}: give a text", row)
        return ""
    told = "" if value is None or str(value) in MISSING else str(value)
    return told if re.fullmatch("[0-9a-f]{16}", told) else patient_pseudonym(told, key)


def _label(value: Any, found: Found, row: int, problems: Problems) -> str | tuple[str, ...] | None:
    """Return the class name of an entry, or all class names in a multi-label list; None if the label is invalid."""
    if not found.multi_label:
        if isinstance(value, list):
            problems.add('the label is a list: a multi-label data list says so, "multi_label": true', row)
            return None
        name = _class_name(value, found.class_names)
        if name is None:
            problems.add(f"no label: it is {kind_of(value)}; give the name or the index of a class", row)
        return name
    names = [_class_name(one, found.class_names) for one in value] if isinstance(value, list) else []
    known = [name for name in names if name is not None]
    if not isinstance(value, list) or len(set(known)) < len(value):
        problems.add("a multi-label label lists class indices or names, each once; it is no vector of 0 and 1", row)
        return None
    return tuple(known)


def _class_name(value: Any, class_names: Sequence[str] | None) -> str | None:
    """Return the class name that a label gives by name or, if names are known, by class index; None if neither fits."""
    if type(value) not in (str, int):
        return None
    text = name_of(str(value))
    if class_names is not None and text in class_names:
        return text
    if text in MISSING or (type(value) is int and value < 0):
        return None
    if class_names is None or not text.isdecimal() or int(text) >= len(class_names):
        return text
    return class_names[int(text)]
