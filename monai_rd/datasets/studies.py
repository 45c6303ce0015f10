"""Finding what can be loaded in a folder: DICOM series, DICOM pictures, NIfTI volumes, image files."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from monai_rd.datasets.problems import DataListError
from monai_rd.dicom import SeriesInfo, SeriesRule, StudyImages, choose_roles, choose_series, index_dicom
from monai_rd.dicom.frames import SeriesFiles
from monai_rd.dicom.media import is_directory_name
from monai_rd.errors import (
    NoDicomError,
    NoRoleError,
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
    "StudyFiles",
    "file_id",
    "file_id_of",
    "files_of_item",
    "find_studies",
    "id_of_file",
    "images_among",
    "images_of_item",
    "item_of_file",
    "item_of_image",
    "item_of_study",
    "items_of_series",
    "reason_unread",
]

logger = logging.getLogger(__name__)

_RIGHTS = "Check rights, where links lead, and disk or network; or take it out of the data."
_CONVERT = f"Unpack it or convert it to one of {', '.join(READ_SUFFIXES)}; or take it out of the data."


class Item(TypedDict, total=False):
    """The keys of an item of a data list; all are optional."""

    image: Any  # path of a file, or the paths of a DICOM series, in order; or these by role
    label: Any  # class name while lists are read, then class index; multi-label: floats `[classes]`
    id: str  # DICOM UID, or an ID made from the content of its files; holds no patient data
    series: str  # SeriesInstanceUID; of several roles joined by "|"
    volume: str  # which volume, if the series has several
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
    kernel: str
    thickness: str
    index: int  # position in the training list, unlabelled items after labelled ones


GROUPS = ("sex", "age", "scanner", "site")  # groups of patients for which a student may perform differently
ABOUT = ("modality", "orientation", "body_part", *GROUPS, "kernel", "thickness")


@dataclass(frozen=True)
class Studies:
    """The studies found in a folder: the items to load, and the problems of those left out.

    An item is `{"image": path or paths, "id": ..., "series": ..., "volume": ..., "study": ..., "patient": ...}`:

    - `id` holds no patient data. It is the SeriesInstanceUID of a DICOM volume, the SOPInstanceUID of a DICOM picture,
      and `NUMBER-HASH` for any other file: its position in the sorted list of the folder's files, from 1, and the start
      of its content's SHA-256 (`NUMBER-closed` where it cannot be opened).
    - `series` and `study` are the SeriesInstanceUID and StudyInstanceUID of DICOM, else "".
    - Of a study of several roles (see `SeriesRule`), `image` is a mapping from the roles that it has to their files.
      Of DICOM, `id` is the StudyInstanceUID, and `series` the SeriesInstanceUIDs joined by "|"; other keys are "" where
      the images differ.
    - `volume` names the volume where a series holds several, and is then part of `id`; else it is "".
    - `patient` must not be divided between splits: the patient's pseudonym, or the hash of the file, equal for copies.
    - Further keys (`ABOUT`): modality, orientation, body part, sex, age, scanner, site, kernel and slice thickness; ""
      where unknown.

    Attributes:
        items: the items to load.
        problems: why DICOM series or files were left out.

    Example:
        >>> from PIL import Image
        >>> from monai_rd.datasets import find_studies
        >>> Image.new("L", (8, 8), 128).save("scan.png")
        >>> found = find_studies(".")
        >>> type(found).__name__, len(found.items), found.problems
        ('Studies', 1, [])
        >>> found.items[0]["image"].endswith("scan.png")
        True
    """

    items: list[Item]
    problems: list[StudyError]


def item_of_image(image: Path | Mapping[str, Path]) -> Item:
    """Return the item of an image or volume file, or of files by role, without further information."""
    named = dict.fromkeys(("id", "series", "volume", "study", "patient", *ABOUT), "")
    paths = {role: str(one) for role, one in image.items()} if isinstance(image, Mapping) else str(image)
    return cast(Item, {"image": paths, **named})


def file_id(digest: str, number: int) -> str:
    """Return the ID of a file from its position in a list and its content's hash ("" if unreadable); see `Studies`."""
    return f"{number}-{digest or 'closed'}"


def file_id_of(item: Item, number: int) -> str:
    """Return the `file_id` of an item of files."""
    digests = [known_hash(file) for file in files_of_item(item)]
    if len(digests) == 1 or "" in digests:
        return file_id(min(digests), number)
    return file_id(hashlib.sha256("".join(digests).encode()).hexdigest()[: len(digests[0])], number)


def reason_unread(path: Path) -> StudyError | None:
    """Return why a file other than DICOM cannot be read, judged by its name and file system; None if it may be read.

    The message contains at most the suffix of its name.
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


class StudyFiles(SeriesFiles):
    """The files of a study of several roles, one role after the other.

    Attributes:
        images: the path or paths of each role, the `image` of an item.
    """

    images: Mapping[str, Any]

    @classmethod
    def of(cls, images: Mapping[str, Any]) -> StudyFiles:
        """Make it of the `image` of an item."""
        parts = [files_of_item({"image": one}) for one in images.values()]
        frames = [own for part in parts for own in getattr(part, "frames", ()) or [()] * len(part)]
        made = cls((file for part in parts for file in part), frames if any(frames) else ())
        made.images = images
        return made


def files_of_item(item: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the files of an item: for one of several volumes in multi-frame files, its `SeriesFiles`; `StudyFiles`."""
    source = item["image"]
    if isinstance(source, Mapping):
        return StudyFiles.of(source)
    if isinstance(source, tuple):
        return source
    return tuple(Path(file) for file in (source if isinstance(source, list) else [source]))


def images_of_item(item: Item) -> list[Item]:
    """Return an item for each role of a study, or the item itself if it has no roles."""
    images = item["image"]
    return [{**item, "image": one} for one in images.values()] if isinstance(images, Mapping) else [item]


def item_of_study(found: StudyImages) -> Item:
    """Return the item of a study of several roles."""
    parts = {
        role: items_of_series(one)[0] if number is None else item_of_file(one, number)
        for role, (one, number) in found.images.items()
    }
    told: dict[str, Any] = {
        name: values.pop() if len(values := {cast(Any, part)[name] for part in parts.values()}) == 1 else ""
        for name in ("study", "patient", *ABOUT)
    }
    series = "|".join(dict.fromkeys(part["series"] for part in parts.values()))
    images = {role: part["image"] for role, part in parts.items()}
    return cast(Item, {"image": images, "id": found.study_uid, "series": series, "volume": "", **told})


def items_of_series(one: SeriesInfo) -> list[Item]:
    """Return the items of a series: one for a volume, or one for each picture."""
    if not one.pictures:
        files = one.files if one.files.frames else [str(file) for file in one.files]
        return [{"image": files, "id": one.id, **_whose(one)}]
    return [item_of_file(one, number) for number in range(len(one.files))]


def item_of_file(one: SeriesInfo, number: int) -> Item:
    """Return the item of one file of a series; of the whole series if it is the only file."""
    if len(one.files) == 1 and not one.pictures:
        return items_of_series(one)[0]
    return {"image": [str(one.files[number])], "id": id_of_file(one, number), **_whose(one), "volume": ""}


def id_of_file(one: SeriesInfo, number: int) -> str:
    """Return the SOPInstanceUID of one file of a series, or a UID made from its content if it has none."""
    return one.sop_uids[number] or f"sha256-{known_hash(one.files[number]) or number}"


def _whose(one: SeriesInfo) -> Item:
    about = {"modality": one.modality, "orientation": one.orientation, **asdict(one.origin)}
    uids = {"series": one.series_uid, "volume": one.volume, "study": one.study_uid, "patient": one.patient_key}
    return cast(Item, {**uids, **about})


def find_studies(
    folder: str | os.PathLike[str],
    empty_is_error: bool = True,
    policy: Mapping[str, str] | None = None,
    series_rule: SeriesRule | Mapping[str, Any] | None = None,
    key: bytes | None = None,
    labelled: bool = False,
) -> Studies:
    """Find every DICOM series, volume and image file in `folder` and below; see `walk` for what is searched.

    Args:
        folder: the folder to search, nested and mixed content included; or a DICOMDIR, whose series are taken.
        empty_is_error: whether to raise an error if nothing is found.
        policy: how to handle series that cannot be read, see `Policy`.
        series_rule: which DICOM series to take, see `SeriesRule`; None takes all. The choice is logged. With roles,
            files other than DICOM are problems.
        key: key of the patient pseudonyms, see `index_dicom`.
        labelled: whether all content shares a label. If so, files that cannot be opened, damaged DICOM files and images
            in unsupported formats are counted as problems, so that nobody trains on the rest without noticing.
            Otherwise they become items that fail to load, so that each appears in the results.

    Returns:
        The items and the problems.

    Raises:
        FileNotFoundError: no such folder, or a file that is not a DICOMDIR.
        DataListError: nothing in it can be read, or there are problems that are errors by the policy (all are listed).
        ValueError: a role of the rule has no rule.
    """
    root = Path(folder)
    if not root.is_dir() and not (root.is_file() and is_directory_name(root)):
        raise FileNotFoundError(f"dataset_dir '{root}' is not a folder")
    actions, rule = Policy(policy), SeriesRule.of(series_rule)
    roles = rule.role_rules() if rule is not None and rule.roles is not None else None
    unread: list[Path] = []
    try:
        series = index_dicom(root, key=key, damaged=unread)
    except NoDicomError:
        series = []
    of_series = {file for one in series for file in one.files}
    files = sorted({*images_among(path for path in walk(root).files if path not in of_series), *unread})
    problems: list[StudyError] = [problem for one in series if (problem := one.problem(actions)) is not None]
    if labelled:
        files, left = _readable(files, {*unread})
        problems += left
    studies: list[StudyImages] = []
    if roles is not None:
        studies = choose_roles(series, roles, actions)
        problems += [one.problem for one in studies if one.problem is not None]
        files, without = (
            [path for path in files if path in {*unread}],
            [path for path in files if path not in {*unread}],
        )
        problems += [_without_role(path, number) for number, path in enumerate(without, start=1)]
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
    if roles is not None:
        usable = [one for one in studies if one.problem is None]
        logger.info("studies: %d of %d taken (%s)", len(usable), len(studies), rule)
        items += map(item_of_study, usable)
        chosen = []
    elif rule is not None:
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
    """Say what the problems concern, such as "2 DICOM series and other files"."""
    series = sum(one.series_uid is not None for one in problems)
    kinds = [f"{series} DICOM series"] * bool(series) + ["other files"] * (series < len(problems))
    return " and ".join(kinds)


def images_among(files: Iterable[Path]) -> list[Path]:
    """Return the image files, in supported formats or not; without voxel files that belong to a separate header."""
    found = [
        path for path in files if path.name.lower().endswith(READ_SUFFIXES) or unread_kind(path) or misnamed_kind(path)
    ]
    beside: set[Path | None] = set()
    for path in found:
        with suppress(OSError, ValueError):  # loading the file reports what is wrong
            beside.add(data_file(path))
    return [path for path in found if path not in beside]


def _without_role(path: Path, number: int) -> NoRoleError:
    problem = NoRoleError("A file other than DICOM does not tell its study and its view. Leave the roles out.")
    problem.study_id = file_id(known_hash(path), number)
    return problem


def _readable(files: Iterable[Path], unread: Container[Path]) -> tuple[list[Path], list[StudyError]]:
    """Separate the files that may be read from the others, and count the others in one error for each code.

    Args:
        files: files outside DICOM series.
        unread: damaged files, see `damaged` of `index_dicom`.
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
