"""Unlabelled images to train on: finding them, and leaving out those that would leak.

Training on an image of a test patient, even without its label, would invalidate the test. So images that belong to a
patient or study of validation or test are left out, and so are exact and near duplicates of images there (see
`monai_rd.datasets.near_duplicates`). Of studies of several roles each image is compared with all others.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from monai_rd.datasets.json_list import items_of_json
from monai_rd.datasets.lists import UNLABELLED, DataList, parts_of_path
from monai_rd.datasets.near_duplicates import IMAGES, VOLUMES, Fingerprint, copies_of
from monai_rd.datasets.problems import DataListError, Problems
from monai_rd.datasets.reading import Reading
from monai_rd.datasets.sources import unlabelled_of_sheet
from monai_rd.datasets.studies import Item, files_of_item, find_studies, images_of_item
from monai_rd.errors import StudyError, count_codes
from monai_rd.locks import can_lock
from monai_rd.pseudonyms import patient_pseudonym

__all__ = ["exclude_leaks", "find_unlabelled"]

logger = logging.getLogger(__name__)

_BLOCK = 1024  # number of items whose fingerprints are in memory at once
# A shorter part of a path, or a shorter number, is assumed to number a file rather than to be a patient ID.
_SHORTEST_ID, _SHORTEST_NUMBER = 4, 6


def find_unlabelled(
    sources: Sequence[str | os.PathLike[str]], reading: Reading, class_names: Sequence[str] | None
) -> list[Item]:
    """Find the unlabelled items of folders and lists.

    Args:
        sources: folders, searched with everything below; sheets, whose rows without a label are taken (see
            `unlabelled_of_sheet`); JSON data lists, whose list "unlabeled" is taken.
        reading: the reader of the labelled data; paths and UIDs in lists refer to its folder.
        class_names: names that are classes even if they look like a missing value, such as "none".

    Raises:
        FileNotFoundError: no such folder or file.
        DataListError: a folder without readable images, or a list that cannot be used.
    """
    found: list[Item] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            # Archives also hold studies that cannot be read; those left out are counted in the log.
            policy = {"default": "skip", **reading.policy.actions}
            found += find_studies(path, policy=policy, series_rule=reading.rule, key=reading.key).items
        elif path.is_file():
            problems = Problems("item" if path.suffix.lower() == ".json" else "row")
            if path.suffix.lower() == ".json":
                found += items_of_json(path, reading, problems, [UNLABELLED])
            else:
                found += unlabelled_of_sheet(path, reading, class_names, problems)
            problems.refuse(f"the list of unlabelled images '{path.name}'")
        else:
            raise FileNotFoundError(f"unlabelled: '{path}' is no folder and no list")
    return found


def exclude_leaks(items: Sequence[Item], made: DataList, key: bytes, cache_dir: Path | None = None) -> list[Item]:
    """Remove items that belong to validation or test, are in the training list, or occur twice.

    The log counts the removed items by reason.

    Args:
        items: the unlabelled items.
        made: the labelled lists.
        key: key of the patient pseudonyms.
        cache_dir: folder where file hashes and image fingerprints are stored; None stores nothing.

    Returns:
        The remaining items, with the label `NO_LABEL`.

    Raises:
        DataListError: no item is left, or they are studies of several roles and the labelled items are not.
        OSError: the folder cannot be used.
    """
    if not items:
        return []
    if made.series_roles is None and any(isinstance(item["image"], Mapping) for item in items):
        raise DataListError(
            "the unlabelled items are studies of several roles, and the labelled ones are single images"
        )
    from monai_rd.cache.file_hashes import HASHES_FILE, item_keys  # imports torch, which takes seconds

    why: Counter[str] = Counter()
    held = [*made.validation, *made.test]
    hashes = None if cache_dir is None else cache_dir / HASHES_FILE

    def keys_of(images: Sequence[Item]) -> list[str]:
        return item_keys([image["image"] for image in images], hashes)

    left = _of_other_patients(items, held, key, why)
    first = [images_of_item(item) for item in left]
    keys = iter(keys_of([image for images in first for image in images]))
    held_images = [image for item in held for image in images_of_item(item)]
    held_keys = keys_of(held_images)
    known = dict.fromkeys(held_keys, "equal to an image of validation or test")
    trained = keys_of([image for item in made.training for image in images_of_item(item)])
    known |= dict.fromkeys(trained, "in the training list")
    known[""] = "not readable"
    second: list[tuple[Item, list[tuple[Item, str]]]] = []
    for item, images in zip(left, first, strict=True):
        own = [(image, next(keys)) for image in images]
        reason = next((known[key] for _, key in own if key in known), "")
        if reason:
            why[reason] += 1
            continue
        known |= {key: "there twice" for _, key in own}
        second.append((item, own))
    kept = _without_copies(second, held_images, held_keys, cache_dir, why)
    left_out = "".join(f"; {count} {reason}" for reason, count in why.items())
    if not kept:
        raise DataListError(f"no unlabelled image of {len(items)} is left; left out: {left_out[2:]}")
    logger.info("unlabelled: %d of %d images%s", len(kept), len(items), left_out and f"; left out: {left_out[2:]}")
    return made.without_label(kept)


def _of_other_patients(items: Sequence[Item], held: Sequence[Item], key: bytes, why: Counter[str]) -> list[Item]:
    """Return the items that neither header nor path assigns to a patient or study of `held`."""
    patients, studies = ({item[name] for item in held if item.get(name)} for name in ("patient", "study"))
    kept = []
    for item in items:
        if item.get("patient") in patients:
            why["of patients of validation or test"] += 1
        elif item.get("study") in studies:
            why["of studies of validation or test"] += 1
        elif not patients.isdisjoint(_ids_in_path(item, key)):
            why["with the ID of a patient of validation or test in their path"] += 1
        else:
            kept.append(item)
    return kept


def _ids_in_path(item: Item, key: bytes) -> Iterator[str]:
    """Yield pseudonyms of possible patient IDs in a path, unless the file is DICOM, whose header has the ID."""
    if not item["series"]:
        for text in {one for file in files_of_item(item) for one in parts_of_path(file.with_suffix(""))}:
            if len(text) >= (_SHORTEST_NUMBER if text.isdecimal() else _SHORTEST_ID):
                yield patient_pseudonym(text, key)


def _without_copies(
    items: Sequence[tuple[Item, Sequence[tuple[Item, str]]]],
    held: Sequence[Item],
    held_keys: Sequence[str],
    cache_dir: Path | None,
    why: Counter[str],
) -> list[Item]:
    """Return the items none of whose images is a copy of one of `held`; in blocks, as there may be very many images.

    Args:
        items: each with its images and their keys.
        held: the images to compare with.
        held_keys: their keys.
        cache_dir: see `exclude_leaks`.
        why: counts the items left out.
    """
    from monai_rd.datasets.image_fingerprints import CopyCache, image_fingerprints

    database = cache_dir / "image_fingerprints.sqlite" if cache_dir is not None and can_lock(cache_dir) else None
    copy_cache = CopyCache(database, held_keys)
    images = [image for _, own in items for image in own]
    known = copy_cache.known([key for _, key in images])
    new = [one for one in images if one[1] not in known]
    originals = _by_size(enumerate(image_fingerprints(held, held_keys, database))) if new else {}
    unread: Counter[str] = Counter()
    for start in range(0, len(new), _BLOCK):
        block = new[start : start + _BLOCK]
        looked = list(image_fingerprints([item for item, _ in block], [key for _, key in block], database))
        unread.update(one.code for one in looked if isinstance(one, StudyError))
        found: dict[str, bool] = {}
        for side, own in _by_size(enumerate(looked)).items():
            theirs = [one for _, one in originals.get(side, ())]
            copies = copies_of(theirs, [one for _, one in own], IMAGES if side == IMAGES.side else VOLUMES)
            found |= {block[place][1]: at in copies for at, (place, _) in enumerate(own)}
        copy_cache.add(found)
        known |= found
    kept = []
    for item, its_images in items:
        answers = [known.get(key) for _, key in its_images]
        if not any(answers) and None not in answers:
            kept.append(item)
        else:
            copied = "near duplicate of an image of validation or test"
            why[copied if any(answers) else f"not readable ({count_codes(unread.elements())})"] += 1
    return kept


def _by_size(fingerprints: Iterable[tuple[int, Fingerprint | StudyError]]) -> dict[int, list[tuple[int, Fingerprint]]]:
    """Positions and fingerprints, grouped by the side of the thumbnail, which differs between images and volumes."""
    found: dict[int, list[tuple[int, Fingerprint]]] = {}
    for place, one in fingerprints:
        if not isinstance(one, StudyError):
            found.setdefault(len(one.thumbnail), []).append((place, one))
    return found
