"""What in a folder is to be loaded: DICOM series, pictures, NIfTI volumes, images."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from monai_rd.datasets.problems import DataListError
from monai_rd.dicom import SeriesInfo, SeriesRule, choose_series, index_dicom
from monai_rd.dicom.media import is_directory_name
from monai_rd.errors import (
    NoDicomError,
    Policy,
    StudyError,
    UnreadableFileError,
    UnreadableImageError,
    UnreadablePixelsError,
    count_codes,
    reading_files,
)
from monai_rd.files import READ_SUFFIXES, data_file, known_hash, open_file, unread_kind
from monai_rd.images.kinds import misnamed_kind
from monai_rd.walk import walk

__all__ = [
    "ABOUT",
    "GROUPS",
    "Studies",
    "file_id",
    "files_of_item",
    "find_studies",
    "id_of_file",
    "images_among",
    "item_of_file",
    "item_of_image",
    "items_of_series",
    "reason_unread",
]

logger = logging.getLogger(__name__)

_RIGHTS = "Check rights, where links lead, and disk or network; or take it out of the data."
_CONVERT = f"Unpack it or convert it to one of {', '.join(READ_SUFFIXES)}; or take it out of the data."


class Item(TypedDict, total=False):
    """What an item of a data list holds."""

    image: Any  # path of a file, or those of a DICOM series, in order
    label: Any  # class name while lists are read, then class index; multi-label floats `[classes]`
    id: str  # a UID of DICOM, or what stands for a file; holds no patient data
    series: str  # SeriesInstanceUID
    volume: str  # which of several volumes of the series
    study: str  # StudyInstanceUID
    patient: str  # pseudonym
    lesion: str
    modality: str
    orientation: str
    body_part: str
    sex: str
    age: str
    scanner: str
    site: str
    index: int  # in the training list, unlabelled items after labelled ones


GROUPS = ("sex", "age", "scanner", "site")  # of patients, that a student may serve unequally
ABOUT = ("modality", "orientation", "body_part", *GROUPS)


@dataclass(frozen=True)
class Studies:
    """What `find_studies` found: `items` to be loaded, and `problems`, why DICOM series are left out.

    An item is `{"image": path or paths, "id": ..., "series": ..., "volume": ..., "study": ..., "patient": ...}`. `id`
    holds no patient data: it is the SeriesInstanceUID of a DICOM volume, the SOPInstanceUID of a picture, and
    `NUMBER-HASH` of any other file: its place in the sorted list of the folder's files, from 1, and the start of the
    sha256 of its content, or `NUMBER-closed` where it cannot be opened. `series` and `study` are the SeriesInstanceUID
    and StudyInstanceUID of DICOM, else "". Where a series holds several volumes `volume` names one of them and is part
    of its `id`; else it is "". `patient` is what must not be split: the pseudonym of the patient, or the hash of a
    file, which its copies share. What else is known of an item stands there by the names of `ABOUT`, "" where it is not
    known.
    """

    items: list[Item]
    problems: list[StudyError]


def item_of_image(path: Path) -> Item:
    """Return the item of an image or volume file, of which nothing more is known."""
    named = dict.fromkeys(("id", "series", "volume", "study", "patient", *ABOUT), "")
    return cast(Item, {"image": str(path), **named})


def file_id(digest: str, number: int) -> str:
    """Name a file by its place in a list and the hash of its content, "" where it cannot be read; see `Studies`."""
    return f"{number}-{digest or 'closed'}"


def reason_unread(path: Path) -> StudyError | None:
    """Say why a file that is no DICOM is not read, as far as its name and the system tell; None where nothing is known.

    The message holds nothing of its name but a suffix.
    """
    kind = unread_kind(path)
    if kind:
        return UnreadableImageError(f"A {kind} file is not read. {_CONVERT}")
    kind = misnamed_kind(path)
    if kind:
        return UnreadableImageError(f"A {kind} image under another name is not read. Give it the suffix of what it is.")
    try:
        with reading_files(), open_file(path) as file:
            file.read(1)
    except UnreadableFileError as error:
        return error
    return None


def files_of_item(item: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the files that an item is read of; of a volume among others in multi-frame files its `SeriesFiles`."""
    source = item["image"]
    if isinstance(source, tuple):
        return source
    return tuple(Path(file) for file in (source if isinstance(source, list) else [source]))


def items_of_series(one: SeriesInfo) -> list[Item]:
    """Return what of a series is loaded at a time: a volume as a whole, each picture alone."""
    if not one.pictures:
        files = one.files if one.files.frames else [str(file) for file in one.files]
        return [{"image": files, "id": one.id, **_whose(one)}]
    return [item_of_file(one, number) for number in range(len(one.files))]


def item_of_file(one: SeriesInfo, number: int) -> Item:
    """Return the item of one file of a series; where it is the only one, that of the series."""
    if len(one.files) == 1 and not one.pictures:
        return items_of_series(one)[0]
    return {"image": [str(one.files[number])], "id": id_of_file(one, number), **_whose(one), "volume": ""}


def id_of_file(one: SeriesInfo, number: int) -> str:
    """Return the SOPInstanceUID of one file of a series; of a file without one what follows from its content."""
    return one.sop_uids[number] or f"sha256-{known_hash(one.files[number]) or number}"


def _whose(one: SeriesInfo) -> Item:
    about = {"modality": one.modality, "orientation": one.orientation, **asdict(one.origin)}
    uids = {"series": one.series_uid, "volume": one.volume, "study": one.study_uid, "patient": one.patient_key}
    return cast(Item, {**uids, **about})


def find_studies(
    folder: str | os.PathLike[str],
    empty_is_error: bool = True,
    policy: Mapping[str, str] | None = None,
    series_rule: Mapping[str, str] | None = None,
    key: bytes | None = None,
    labelled: bool = False,
) -> Studies:
    """Find every DICOM series, volume and image file in `folder` and below; see `walk` for what belongs to it.

    Args:
        folder: where to look; nested and mixed content is welcome. Or a DICOMDIR, whose series are taken.
        empty_is_error: raise where nothing is found.
        policy: what follows from a series that cannot be read, see `Policy`.
        series_rule: which DICOM series to take, see `SeriesRule`; None takes all. The choice is logged.
        key: of the patients' pseudonyms, see `index_dicom`.
        labelled: what lies there shares a label. Files that cannot be opened, should be DICOM and cannot be parsed, or
            are known to be images of a kind that is not read then are counted among the problems, so that nobody trains
            on the rest without knowing. Else they are items, which loading refuses: so each has its row.

    Raises:
        FileNotFoundError: no such folder, or a file that is no DICOMDIR.
        DataListError: nothing in it that could be read, or what the policy calls errors, all of it listed.
    """
    root = Path(folder)
    if not root.is_dir() and not (root.is_file() and is_directory_name(root)):
        raise FileNotFoundError(f"dataset_dir '{root}' is not a folder")
    unread: list[Path] = []
    try:
        series = index_dicom(root, key=key, damaged=unread)
    except NoDicomError:
        series = []
    of_series = {file for one in series for file in one.files}
    files = sorted({*images_among(path for path in walk(root).files if path not in of_series), *unread})
    actions = Policy(policy)
    problems: list[StudyError] = [problem for one in series if (problem := one.problem(actions)) is not None]
    if labelled:
        files, left = _readable(files, {*unread})
        problems += left
    items: list[Item] = [
        item_of_image(path) | {"id": file_id(digest, number), "patient": digest}
        for number, path in enumerate(files, start=1)
        for digest in [known_hash(path)]
    ]
    refused = [problem for problem in problems if actions[problem.code] == "error"]
    if refused:
        listed = "".join(f"\n  - {problem.code}: {problem}" for problem in refused)
        raise DataListError(
            f"{_counted(refused)} cannot be read ({count_codes(one.code for one in refused)}). Mend or remove them, or "
            'let the policy leave them out, by code or all with {"default": "skip"}:' + listed
        )
    rule = SeriesRule.of(series_rule)
    if rule is not None:
        chosen = choose_series(series, rule, actions)
        logger.info("series: %d of %d taken (%s)", len(chosen), len(series), rule)
    else:
        chosen = [one for one in series if one.problem(actions) is None]
    items += [item for one in chosen for item in items_of_series(one)]
    if problems:
        logger.warning("%s left out: %s", _counted(problems), count_codes(one.code for one in problems))
    if not items and empty_is_error:
        found = f" {_counted(problems)} cannot be read: {count_codes(one.code for one in problems)}. "
        found = found + f"The first: {problems[0]}" if problems else ""
        raise DataListError(f"no DICOM series, volume or image to read in '{root}'.{found}")
    return Studies(items, problems)


def _counted(problems: Sequence[StudyError]) -> str:
    """Say what the problems are about: "2 DICOM series and other files"."""
    series = sum(one.series_uid is not None for one in problems)
    kinds = [f"{series} DICOM series"] * bool(series) + ["other files"] * (series < len(problems))
    return " and ".join(kinds)


def images_among(files: Iterable[Path]) -> list[Path]:
    """Return those of the files that are images, read or not; voxels belong to the header that names them."""
    found = [
        path for path in files if path.name.lower().endswith(READ_SUFFIXES) or unread_kind(path) or misnamed_kind(path)
    ]
    beside: set[Path | None] = set()
    for path in found:
        with suppress(OSError, ValueError):  # loading it says what is wrong with it
            beside.add(data_file(path))
    return [path for path in found if path not in beside]


def _readable(files: Iterable[Path], unread: Container[Path]) -> tuple[list[Path], list[StudyError]]:
    """Part the files that may be read from those that are not, and count these in an error for each code.

    Args:
        files: other than those of DICOM series.
        unread: see `damaged` of `index_dicom`.
    """
    kept: list[Path] = []
    kinds: Counter[str] = Counter()
    closed = damaged = 0
    for path in files:
        reason = reason_unread(path)
        closed += isinstance(reason, UnreadableFileError)
        if isinstance(reason, UnreadableImageError):
            kinds[unread_kind(path) or f"{misnamed_kind(path)} under other names"] += 1
        damaged += reason is None and path in unread
        kept += [path] if reason is None and path not in unread else []
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    problems: list[StudyError] = []
    if closed:
        problems.append(UnreadableFileError(f"{closed} file(s) or folder(s) cannot be opened. {_RIGHTS}"))
    if listed:
        problems.append(UnreadableImageError(f"{listed}: images of kinds that are not read. {_CONVERT}"))
    if damaged:
        problems.append(UnreadablePixelsError(f"{damaged} file(s) should be DICOM and cannot be parsed. Export again."))
    return kept, problems
