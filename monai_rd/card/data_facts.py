"""What a model card tells of the data: counts and hashes, and nothing that names a patient, a place or a path."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_rd.cache.file_hashes import HASHES_FILE, item_keys
from monai_rd.datasets.lists import DataList
from monai_rd.datasets.splits import SPLITS
from monai_rd.datasets.studies import GROUPS
from monai_rd.report.labelled import group_metrics

__all__ = ["data_facts", "subgroups"]


def data_facts(data: DataList, phantom: bool, cache_dir: str | None) -> dict[str, Any]:
    """Return counts and hashes of a data list as a JSON object.

    `list_sha256` is the hash of the hashes in `DataList.identity` and of the labels; `images_sha256` that of the
    content of the images in any order, None if one of them can no longer be read.

    Args:
        data: of the training.
        phantom: whether the data are the project's phantoms.
        cache_dir: folder with the hashes of files that were read before, see `item_keys`; None if there is none.
    """
    identity, database = data.identity(), None if cache_dir is None else Path(cache_dir) / HASHES_FILE
    splits = {}
    for split in (*SPLITS, "unlabelled"):
        if not (items := data[split]):
            continue
        keys = item_keys([item["image"] for item in items], database)
        patients = {item["patient"] for item in items} - {""}
        splits[split] = {
            "n": len(items),
            "patients": len(patients),
            "without_patient": sum(not item["patient"] for item in items),
            "list_sha256": _sha256(identity[split]),
            "images_sha256": _sha256(sorted(keys)) if all(keys) else None,
        }
        if split != "unlabelled":
            splits[split]["by_class"] = dict(zip(data.class_names, data.class_counts(split), strict=True))
    whose = {split: {item["patient"] for item in data[split]} - {""} for split in (*SPLITS, "unlabelled")}
    seen = whose["training"] | whose["unlabelled"]
    shared = (whose["validation"] & seen) | (whose["test"] & (seen | whose["validation"]))
    named = (
        "phantoms drawn by monai_rd, not patients"
        if phantom
        else "data of those who trained it, whom this card does not name"
    )
    return {
        "phantom": phantom,
        "in_words": f"{named}: " + ", ".join(f"{split} {one['n']}" for split, one in splits.items()),
        "class_names": list(data.class_names),
        "multi_label": data.multi_label,
        "splits": splits,
        "patients_in_several_splits": len(shared),
    }


def subgroups(
    data: DataList, places: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, chosen: np.ndarray
) -> dict[str, Any]:
    """Return the student's metrics of patient groups of the test set, see `group_metrics`.

    Sites are numbered, the largest first: their names are not for those who read a card.

    Args:
        data: of the training.
        places: position in the test list of each study that was scored `[N]`.
        probabilities: of the student `[N, classes]`.
        labels: class indices `[N]`; multi-label: 0 or 1 `[N, classes]`.
        chosen: what the student says, see `Decision.chosen`.

    Returns:
        `known`, for how many of the scored studies each kind of group is known, and `metrics` by kind and group.
    """
    items = [data.test[place] for place in places]
    groups: list[Mapping[str, str]] = [{kind: str(item.get(kind, "")) for kind in GROUPS} for item in items]
    found = group_metrics(probabilities, labels, _numbered_sites(groups), data.multi_label, chosen)
    return {"known": {kind: sum(bool(one[kind]) for one in groups) for kind in GROUPS}, "metrics": found}


def _numbered_sites(groups: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    sites = Counter(one["site"] for one in groups if one["site"]).most_common()
    numbers = {site: f"site {number}" for number, (site, _) in enumerate(sites, start=1)}
    return [{**one, "site": numbers.get(one["site"], "")} for one in groups]


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
