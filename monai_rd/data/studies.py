"""What in a folder is to be loaded: DICOM series, pictures, NIfTI volumes, images."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai_rd.data.dicom import SeriesInfo, SeriesRule, choose_series, index_dicom
from monai_rd.data.errors import DicomSeriesError, NoDicomError, Policy, count_codes
from monai_rd.data.problems import DataListError
from monai_rd.files import IMAGE_SUFFIXES, NIFTI_SUFFIXES, content_hash

__all__ = ["ABOUT", "GROUPS", "Studies", "file_id", "find_studies", "item_of_file", "item_of_image", "items_of_series"]

logger = logging.getLogger(__name__)

Item = dict[str, Any]
GROUPS = ("sex", "age", "scanner", "site")  # of patients, that a student may serve unequally
ABOUT = ("modality", "orientation", "body_part", *GROUPS)


@dataclass(frozen=True)
class Studies:
    """What `find_studies` found: `items` to be loaded, and `problems`, why DICOM series are left out.

    An item is `{"image": path or list of paths, "id": ..., "series": ..., "study": ..., "patient": ...}`. `id` holds no
    patient data: it is the SeriesInstanceUID of a DICOM volume, the SOPInstanceUID of a picture, and `NUMBER-HASH` of
    any other file: its place in the sorted list of the folder's files, from 1, and the start of the sha256 of its
    content. `series` and `study` are the SeriesInstanceUID and StudyInstanceUID of DICOM, else "". `patient` is what
    must not be split: the pseudonym of the patient, or the hash of a file, which its copies share. What else is known
    of an item stands there by the names of `ABOUT`, "" where it is not known.
    """

    items: list[Item]
    problems: list[DicomSeriesError]


def item_of_image(path: Path) -> Item:
    """Return the item of an image or volume file, of which nothing more is known."""
    return {"image": str(path), "id": "", "series": "", "study": "", "patient": ""} | dict.fromkeys(ABOUT, "")


def file_id(digest: str, number: int) -> str:
    """Name a file by its place in a list and the hash of its content, see `Studies`."""
    return f"{number}-{digest}"


def items_of_series(one: SeriesInfo) -> list[Item]:
    """Return what of a series is loaded at a time: a volume as a whole, each picture alone."""
    if not one.pictures:
        files = [str(file) for file in one.files]
        return [{"image": files, "id": one.series_uid, **_whose(one)}]
    return [item_of_file(one, number) for number in range(len(one.files))]


def item_of_file(one: SeriesInfo, number: int) -> Item:
    """Return the item of one file of a series; where it is the only one, that of the series."""
    name = one.series_uid if len(one.files) == 1 and not one.pictures else one.sop_uids[number]
    return {"image": [str(one.files[number])], "id": name, **_whose(one)}


def _whose(one: SeriesInfo) -> Item:
    about = {"modality": one.modality, "orientation": one.orientation, **asdict(one.origin)}
    return {"series": one.series_uid, "study": one.study_uid, "patient": one.patient_key, **about}


def find_studies(
    folder: str | os.PathLike[str],
    empty_is_error: bool = True,
    policy: Mapping[str, str] | None = None,
    series_rule: Mapping[str, str] | None = None,
    key: bytes | None = None,
    damaged: bool = True,
) -> Studies:
    """Find every DICOM series, NIfTI volume and image in `folder` and below.

    Args:
        folder: where to look; nested and mixed content is welcome. Or a DICOMDIR, whose series are taken.
        empty_is_error: raise where nothing is found.
        policy: what follows from a series that cannot be read, see `Policy`.
        series_rule: which DICOM series to take, see `SeriesRule`; None takes all. The choice is logged.
        key: of the patients' pseudonyms, see `index_dicom`.
        damaged: files that should be DICOM and cannot be parsed are items too, which loading refuses: so they are told.

    Raises:
        FileNotFoundError: no such folder, or a file that is no DICOMDIR.
        DataListError: nothing in it that could be read, or series that the policy calls errors, all of them listed.
    """
    root = Path(folder)
    if not root.is_dir() and root.name.upper() != "DICOMDIR":
        raise FileNotFoundError(f"dataset_dir '{root}' is not a folder")
    unread: list[Path] = []
    try:
        series = index_dicom(root, key=key, damaged=unread)
    except NoDicomError:
        series = []
    kinds = (*IMAGE_SUFFIXES, *NIFTI_SUFFIXES)
    files = [path for path in root.rglob("*") if path.is_file() and path.name.lower().endswith(kinds)]
    items: list[Item] = [
        item_of_image(path) | {"id": file_id(digest, number), "patient": digest}
        for number, path in enumerate(sorted({*files, *(unread if damaged else ())}), start=1)
        for digest in [content_hash(path)]
    ]
    actions = Policy(policy)
    problems = [problem for one in series if (problem := one.problem(actions)) is not None]
    refused = [problem for problem in problems if actions[problem.code] == "error"]
    if refused:
        listed = "".join(f"\n  - {problem.code}: {problem}" for problem in refused)
        raise DataListError(
            f"{len(refused)} DICOM series cannot be read ({count_codes(one.code for one in refused)}). Mend or remove "
            'them, or let the policy leave them out, by code or all with {"default": "skip"}:' + listed
        )
    rule = SeriesRule.of(series_rule)
    if rule is not None:
        chosen = choose_series(series, rule, actions)
        logger.info("series: %d of %d taken (%s)", len(chosen), len(series), rule)
    else:
        chosen = [one for one in series if one.problem(actions) is None]
    items += [item for one in chosen for item in items_of_series(one)]
    if problems:
        logger.warning("%d DICOM series left out: %s", len(problems), count_codes(one.code for one in problems))
    if not items and empty_is_error:
        found = f" {len(problems)} DICOM series cannot be read: {count_codes(one.code for one in problems)}. "
        found = found + f"The first: {problems[0]}" if problems else ""
        raise DataListError(f"no DICOM series, NIfTI volume or image to read in '{root}'.{found}")
    return Studies(items, problems)
