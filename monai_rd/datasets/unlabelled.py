"""Images to train on whose class nobody told: where they come from, and which of them must stay out.

A student that has seen an image of a test patient, even without its label, is not tested on it any more. So what
belongs to a patient or a study of validation or test is left out, and what is a copy of one of their images, equal
or a near duplicate (see `monai_rd.datasets.near_duplicates`).
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_rd.datasets.json_list import unlabelled_of_json
from monai_rd.datasets.lists import DataList, parts_of_path
from monai_rd.datasets.near_duplicates import IMAGES, VOLUMES, Fingerprint, copies_of
from monai_rd.datasets.problems import DataListError, Problems
from monai_rd.datasets.reading import Reading
from monai_rd.datasets.sources import unlabelled_of_sheet
from monai_rd.datasets.studies import Item, find_studies
from monai_rd.errors import StudyError, count_codes
from monai_rd.pseudonyms import patient_pseudonym

__all__ = ["exclude_leaks", "find_unlabelled"]

logger = logging.getLogger(__name__)

_BLOCK = 1024  # items whose fingerprints are in memory at once
# A shorter part of a path, or a shorter number, is taken for the number of a file and not for a patient's ID.
_SHORTEST_ID, _SHORTEST_NUMBER = 4, 6


def find_unlabelled(
    sources: Sequence[str | os.PathLike[str]], reading: Reading, class_names: Sequence[str] | None
) -> list[Item]:
    """Find the items of folders and lists.

    Args:
        sources: folders, of which everything below is taken, nested and mixed; sheets, of which the rows without a
            label are taken (see `unlabelled_of_sheet`); JSON data lists, of which the list "unlabeled" is.
        reading: of the labelled data, below whose folder lies what lists name.
        class_names: words that are classes, though they may stand for what is missing.

    Raises:
        FileNotFoundError: no such folder or file.
        DataListError: nothing in a folder that can be read; a list that cannot be used.
    """
    found: list[Item] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            rule: Mapping[str, Any] | None = None if reading.rule is None else vars(reading.rule)
            # An archive holds what cannot be read, too; what was left out is counted in the log.
            policy = {"default": "skip", **reading.policy.actions}
            found += find_studies(path, policy=policy, series_rule=rule, key=reading.key).items
        elif path.is_file():
            problems = Problems("item" if path.suffix.lower() == ".json" else "row")
            if path.suffix.lower() == ".json":
                found += unlabelled_of_json(path, reading, problems)
            else:
                found += unlabelled_of_sheet(path, reading, class_names, problems)
            problems.refuse(f"the list of unlabelled images '{path.name}'")
        else:
            raise FileNotFoundError(f"unlabelled: '{path}' is no folder and no list")
    return found


def exclude_leaks(items: Sequence[Item], made: DataList, key: bytes, cache_dir: Path | None = None) -> list[Item]:
    """Leave out what belongs to validation or test, what is in the training list, and what is there twice.

    The log counts what was left out, and why.

    Args:
        items: unlabelled ones.
        made: the labelled lists.
        key: of the patients' pseudonyms.
        cache_dir: a folder in which hashes and fingerprints of files are kept; None keeps nothing.

    Returns:
        The others, without a label as in these lists.

    Raises:
        DataListError: nothing is left.
        OSError: the folder cannot be used.
    """
    from monai_rd.cache.file_hashes import HASHES_FILE, item_keys

    if not items:
        return []
    why: Counter[str] = Counter()
    held = [*made.validation, *made.test]
    hashes = None if cache_dir is None else cache_dir / HASHES_FILE
    first = _of_other_patients(items, held, key, why)
    keys = dict(zip(first, item_keys([items[place]["image"] for place in first], hashes), strict=True))
    held_keys = item_keys([item["image"] for item in held], hashes)
    known = dict.fromkeys(held_keys, "equal to an image of validation or test")
    known |= dict.fromkeys(item_keys([item["image"] for item in made.training], hashes), "in the training list")
    known[""] = "not readable"
    second = []
    for place in first:
        if keys[place] in known:
            why[known[keys[place]]] += 1
            continue
        known[keys[place]] = "there twice"
        second.append(place)
    kept = _without_copies([(items[place], keys[place]) for place in second], held, held_keys, cache_dir, why)
    left_out = "".join(f"; {count} {reason}" for reason, count in why.items())
    if not kept:
        raise DataListError(f"no unlabelled image of {len(items)} is left; left out: {left_out[2:]}")
    logger.info("unlabelled: %d of %d images%s", len(kept), len(items), left_out and f"; left out: {left_out[2:]}")
    return made.without_label(kept)


def _of_other_patients(items: Sequence[Item], held: Sequence[Item], key: bytes, why: Counter[str]) -> list[int]:
    """The places of items that neither their headers nor their paths give to a patient or study of `held`."""
    patients, studies = ({item[name] for item in held if item.get(name)} for name in ("patient", "study"))
    kept = []
    for place, item in enumerate(items):
        if item.get("patient") in patients:
            why["of patients of validation or test"] += 1
        elif item.get("study") in studies:
            why["of studies of validation or test"] += 1
        elif not patients.isdisjoint(_ids_in_path(item, key)):
            why["with the ID of a patient of validation or test in their path"] += 1
        else:
            kept.append(place)
    return kept


def _ids_in_path(item: Item, key: bytes) -> Iterator[str]:
    """Pseudonyms of what could be a patient's ID in the path of a file that is no DICOM, whose header tells it."""
    if not item["series"]:
        for text in set(parts_of_path(Path(item["image"]).with_suffix(""))):
            if len(text) >= (_SHORTEST_NUMBER if text.isdecimal() else _SHORTEST_ID):
                yield patient_pseudonym(text, key)


def _without_copies(
    items: Sequence[tuple[Item, str]],
    held: Sequence[Item],
    held_keys: Sequence[str],
    cache_dir: Path | None,
    why: Counter[str],
) -> list[Item]:
    """The items (with their keys) of which no image of `held` is a copy; in blocks, as there may be very many."""
    from monai_rd.datasets.image_fingerprints import CopyCache, image_fingerprints

    database = None if cache_dir is None else cache_dir / "image_fingerprints.sqlite"
    copy_cache = CopyCache(database, held_keys)
    known = copy_cache.known([key for _, key in items])
    new = [one for one in items if one[1] not in known]
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
    why["near duplicate of an image of validation or test"] += sum(known.values())
    why += Counter({f"not readable ({count_codes(unread.elements())})": unread.total()} if unread else {})
    return [item for item, key in items if known.get(key) is False]


def _by_size(fingerprints: Iterable[tuple[int, Fingerprint | StudyError]]) -> dict[int, list[tuple[int, Fingerprint]]]:
    """Places and fingerprints by the side of their thumbnails, which tells images from volumes."""
    found: dict[int, list[tuple[int, Fingerprint]]] = {}
    for place, one in fingerprints:
        if not isinstance(one, StudyError):
            found.setdefault(len(one.thumbnail), []).append((place, one))
    return found
