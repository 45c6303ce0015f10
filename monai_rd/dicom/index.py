"""Index of the series in a folder, from headers only, read in parallel."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from monai_rd.dicom.classes import is_directory
from monai_rd.dicom.frames import Frame, SeriesFiles
from monai_rd.dicom.geometry import arrange, axis_name, lps_affine
from monai_rd.dicom.header import Header, Origin, describe
from monai_rd.dicom.header_warnings import log_kinds, log_warnings_once, take_warnings
from monai_rd.dicom.media import Media, is_directory_name, read_directory
from monai_rd.dicom.parsing import read_file
from monai_rd.dicom.syntaxes import syntax_name
from monai_rd.dicom.unnamed import named, problem_of_unnamed
from monai_rd.dicom.volumes import volumes
from monai_rd.errors import (
    DicomSeriesError,
    DuplicateSlicesError,
    MissingFilesError,
    NoDicomError,
    NotAnImageError,
    Policy,
    UnreadableFileError,
    UnreadablePixelsError,
)
from monai_rd.files import DICOM_SUFFIXES
from monai_rd.walk import walk

__all__ = ["SeriesInfo", "index_dicom"]

logger = logging.getLogger(__name__)

# Without a project's key, patient keys are valid within one run only.
_RUN_KEY = secrets.token_bytes(32)
# Files per task of a process; number of files up to which starting other processes does not pay.
_CHUNK, _MOST_FILES_ALONE = 250, 5000
# Sides, the terms that DICOM defines for ViewPosition, and the usual ones of mammography.
_VIEWS = frozenset(
    (
        *("R", "L", "B", "AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO"),
        *("CC", "MLO", "ML", "LM", "LMO", "XCCL", "XCCM", "FB", "SIO"),
    )
)
_Scanned = tuple[list[Header | str | None], set[str]]


@dataclass(frozen=True)
class SeriesInfo:
    """One series found by `index_dicom`, or one of several volumes in a series.

    Attributes:
        series_uid: ``SeriesInstanceUID``, or a substitute if it is invalid (`known_uid_of`) or missing (`named`).
        volume: name that distinguishes it from other volumes in the same planes of the series, such as "echo time 4.6
            ms"; "" if the series is one volume.
        study_uid: ``StudyInstanceUID`` of its first image.
        patient_key: 16 hex digits, equal for images of one patient under one key; for patient-level splits. Images
            without a patient ID are grouped by study.
        modality: such as "CT".
        description: ``SeriesDescription`` with names, IDs and the patient's date of birth redacted.
        pictures: it holds pictures without a position in the patient (radiographs, ultrasound), each read on its own.
        slices: number of slices that `load_series` returns; for pictures, the number of files; 0 if not an image.
        shape: rows and columns.
        spacing: mm between rows, columns, slices; None for pictures and series that cannot be read.
        orientation: "axial", "coronal", "sagittal", "oblique"; "" for pictures and series that cannot be read.
        origin: patient group and origin of its first image.
        syntaxes: names of its transfer syntaxes, the most frequent first.
        files: its image files, sorted by path, with the frames of multi-frame files that belong to it; input of
            `load_series`. Paths may contain names: keep them out of logs and reports.
        sop_uids: ``SOPInstanceUID`` of each file; "" if it is neither a UID nor a code.
        problems: reasons from its headers for which `load_series` would refuse it, in the order of the checks.
        original_description: ``SeriesDescription`` unchanged, for rules to search; it must not be shown or written.
        views: view of each file, such as "PA" or "R MLO", "" if unknown; likewise, but for the terms in `row`.

    Example:
        >>> from pathlib import Path
        >>> from monai_rd.dicom import index_dicom
        >>> from monai_rd.phantoms import ct
        >>> ct.write_study(Path("study"), "clear", seed=0, number=1)  # a synthetic CT series
        >>> (series,) = index_dicom("study")
        >>> series.modality, series.orientation, series.problem() is None
        ('CT', 'axial', True)
    """

    series_uid: str
    volume: str
    study_uid: str
    patient_key: str
    modality: str
    description: str
    pictures: bool
    slices: int
    shape: tuple[int, int]
    spacing: tuple[float, float, float] | None
    orientation: str
    origin: Origin
    syntaxes: tuple[str, ...]
    files: SeriesFiles
    sop_uids: tuple[str, ...]
    problems: tuple[DicomSeriesError, ...]
    original_description: str = field(default="", repr=False)
    views: tuple[str, ...] = field(default=(), repr=False)

    @property
    def id(self) -> str:
        """ID in lists and scores: the series UID, followed by the volume's name if the series holds several volumes."""
        return _study_id(self.series_uid, self.volume)

    @property
    def is_image(self) -> bool:
        """Whether it holds images, as opposed to reports, segmentations and the like."""
        return not any(isinstance(one, NotAnImageError) for one in self.problems)

    def problem(self, policy: Policy | None = None) -> DicomSeriesError | None:
        """Return the first problem that a policy does not tolerate, None if the series can be read.

        Args:
            policy: by default nothing is tolerated.
        """
        actions = policy or Policy()
        return next((one for one in self.problems if not one.tolerable or actions[one.code] != "warn"), None)

    def row(self) -> dict[str, Any]:
        """Return the values that may be shown and written, as a table row; without paths and patient names."""
        return {
            "series_uid": self.series_uid,
            "volume": self.volume,
            "study_uid": self.study_uid,
            "patient": self.patient_key,
            "modality": self.modality,
            "description": self.description,
            "kind": "pictures" if self.pictures else "volume" if self.is_image else "no image",
            "files": len(self.files),
            "slices": self.slices,
            "rows": self.shape[0],
            "columns": self.shape[1],
            "spacing_mm": " x ".join(f"{value:.3g}" for value in self.spacing or ()),
            "orientation": self.orientation,
            "views": ", ".join(sorted({_shown(view) for view in self.views} - {""})),
            "body_part": self.origin.body_part,
            "transfer_syntax": ", ".join(self.syntaxes),
            "problems": ", ".join(one.code for one in self.problems),
            "message": str(self.problems[0]) if self.problems else "",
        }


# ------------------------------------------------------------------------------------------------------ scanning


def index_dicom(
    source: str | os.PathLike[str],
    *,
    key: bytes | None = None,
    workers: int | None = None,
    progress: bool = False,
    damaged: list[Path] | None = None,
) -> list[SeriesInfo]:
    """List the image series under a folder, from headers only.

    Args:
        source: a folder, searched with all subfolders, or a DICOMDIR; in the latter case only the images that it lists
            are used, wherever they are below its folder. Files that are not DICOM are skipped; their number is logged.
        key: key of the patient pseudonyms, as returned by `project_key`; None makes pseudonyms that are valid in this
            process only.
        workers: number of processes; None uses one per core for more than 5,000 files, else one.
        progress: show a progress bar.
        damaged: a list to which unreadable files that belong to no series are appended: files that are DICOM by their
            first bytes or their suffix and cannot be parsed, files and folders that cannot be opened.

    Returns:
        One entry per series, sorted by series UID. A series with several volumes in the same planes (echoes, phases,
        b-values, reconstructions) has one entry for each, in the order of the values that distinguish them. A series
        that cannot be read, or holds reports, segmentations and other objects that are not images, does not raise but
        has its `problems` set. Damaged pixel data is only detected by `load_series`.

    Raises:
        NoDicomError: `source` does not exist, or holds no DICOM.
    """
    root = Path(source)
    only = read_directory(root) if root.is_file() else None
    if root.is_file() and only is None:
        raise NoDicomError("The file given is no DICOMDIR. Give a folder or a DICOMDIR.")
    if not root.is_file() and not root.is_dir():
        raise NoDicomError("The folder given does not exist. Give the folder that holds the DICOM files.")
    paths, closed = walk(root if only is None else root.parent)
    if only is None:
        every = [read_directory(path) for path in paths if is_directory_name(path)]
        directories = [directory for directory in every if directory is not None]
        if len(directories) < len(every):
            logger.warning("index_dicom: %d damaged DICOMDIR(s) not used", len(every) - len(directories))
    else:
        directories = [only]
    media = Media(directories)
    paths = [path for path in paths if not is_directory_name(path)]
    found: dict[tuple[str, bool], list[tuple[Path, Header]]] = {}
    read: list[tuple[Path, Header]] = []
    unread = list(closed)
    other = 0
    for path, header in zip(paths, _headers(paths, key or _RUN_KEY, workers, progress), strict=True):
        if only is not None and not media.name(path, header.sop_uid if isinstance(header, Header) else ""):
            continue
        if header is None:
            other += 1
        elif isinstance(header, str) or (not header.series_uid and isinstance(header.problem, UnreadablePixelsError)):
            unread.append(path)
        else:
            read.append((path, header))
    for path, header in named(read):
        no_image = isinstance(header.problem, NotAnImageError)  # kept apart from images with the same series UID
        found.setdefault((header.series_uid, no_image), []).append((path, header))
    if other or unread:
        level = logging.WARNING if unread else logging.INFO
        logger.log(level, "index_dicom: %d file(s) not DICOM, %d unreadable file(s) skipped", other, len(unread))
    if closed:
        logger.warning("index_dicom: of these, %d file(s) or folder(s) cannot be opened; check rights", len(closed))
    if damaged is not None:
        damaged += unread
    lost = media.lost(paths, {header.sop_uid for entries in found.values() for _, header in entries})
    series = [
        one
        for (uid, no_image), entries in found.items()
        for one in _volumes(uid, "no image" if no_image and (uid, False) in found else "", entries, lost.get(uid, 0))
    ]
    lost = {uid: count for uid, count in lost.items() if not {(uid, True), (uid, False)} & found.keys()}
    series += [_missing_series(uid, count) for uid, count in lost.items() if count]
    if not series:
        raise NoDicomError(
            f"There is no DICOM image ({other} other file(s), {len(unread)} that cannot be read). Give the folder of "
            "the exported series."
        )
    return sorted(series, key=lambda one: one.series_uid)


def _headers(paths: Sequence[Path], key: bytes, workers: int | None, progress: bool) -> Iterator[Header | str | None]:
    """Yield the headers of files, in order: None for files that are not DICOM images, "" for damaged ones."""
    chunks = [[str(path) for path in paths[i : i + _CHUNK]] for i in range(0, len(paths), _CHUNK)]
    jobs = workers or ((os.cpu_count() or 1) if len(paths) > _MOST_FILES_ALONE else 1)
    # Loky starts fresh processes, without the caller's main module or threads.
    done: Iterable[_Scanned] = Parallel(jobs, return_as="generator", pre_dispatch="4*n_jobs")(
        delayed(_scan)(chunk, key) for chunk in chunks
    )
    if progress:
        from rich.progress import track  # not in MONAI Label's environment, which shows none

        done = track(done, "headers", total=len(chunks))
    odd: set[str] = set()
    for headers, kinds in done:
        odd |= kinds
        yield from headers
    log_kinds(odd)


@log_warnings_once(log=False)
def _scan(paths: Sequence[str], key: bytes) -> _Scanned:
    """Read some headers and pydicom's warnings about them, as the log of a worker process would be lost."""
    found: list[Header | str | None] = []
    for path in paths:
        try:
            dataset = read_file(path, pixels=False)
        except (UnreadableFileError, UnreadablePixelsError):
            found.append("")
            continue
        if dataset is None:
            found.append("" if path.lower().endswith(DICOM_SUFFIXES) else None)
        else:
            found.append(None if is_directory(dataset) else describe(dataset, key))
    return found, take_warnings()


def _volumes(uid: str, name: str, entries: Sequence[tuple[Path, Header]], lost: int) -> list[SeriesInfo]:
    """Return the description of a series, or of each of its volumes."""
    whole = _summarise(uid, name, entries, (), lost)
    if not any(isinstance(one, DuplicateSlicesError) for one in whole.problems):
        return [whole]
    frames = [
        Frame(file, number, header, plane)
        for file, (_, header) in enumerate(entries)
        for number, plane in enumerate(header.planes)
    ]
    found = []
    for volume in volumes(frames):
        own: dict[int, list[int]] = {}
        for frame in volume.frames:
            own.setdefault(frame.file, []).append(frame.number)
        files = sorted(own)
        whole_files = all(len(own[file]) == len(entries[file][1].planes) for file in files)
        frames_of = () if whole_files else tuple(tuple(own[file]) for file in files)
        found.append(_summarise(uid, volume.name, [entries[file] for file in files], frames_of, lost))
    return found


def _summarise(
    uid: str, volume: str, entries: Sequence[tuple[Path, Header]], only: Sequence[Sequence[int]], lost: int
) -> SeriesInfo:
    files, headers = SeriesFiles((path for path, _ in entries), only), [header for _, header in entries]
    frames, tolerated, fatal = arrange(headers, lambda kind: True, only)
    problems = [*tolerated, *([fatal] if fatal is not None else [])]
    first = headers[0]
    pictures = all(header.picture for header in headers)
    if pictures:  # each is read on its own, so only problems of single files count
        own = [*(header.problem for header in headers), problem_of_unnamed(headers)]
        problems = list({problem.code: problem for problem in own if problem is not None}.values())
    if lost:
        problems.insert(
            0,
            MissingFilesError(
                f"Series {uid}: a DICOMDIR names {lost} file(s) of it that are not there. Copy the whole medium again.",
                uid,
            ),
        )
    for problem in problems:
        problem.study_id = _study_id(uid, volume)
    spacing, orientation = _spacing_and_orientation(frames)
    syntaxes = Counter(header.syntax for header in headers)
    return SeriesInfo(
        series_uid=uid,
        volume=volume,
        study_uid=first.study_uid,
        patient_key=first.patient_key,
        modality=first.modality,
        description=first.description,
        pictures=pictures,
        slices=len(files) if pictures else len(frames) or sum(_least_slices(one) for one in headers),
        shape=frames[0].header.shape if frames else first.shape,
        spacing=spacing,
        orientation=orientation,
        origin=first.origin,
        syntaxes=tuple(syntax_name(syntax) for syntax, _ in syntaxes.most_common()),
        files=files,
        sop_uids=tuple(header.sop_uid for header in headers),
        problems=tuple(problems),
        original_description=first.original_description,
        views=tuple(header.view for header in headers),
    )


def _least_slices(header: Header) -> int:
    return 0 if isinstance(header.problem, NotAnImageError) else max(1, len(header.planes))


def _shown(view: str) -> str:
    """Return a view as it may be shown: an element may hold any text, so only known terms are."""
    return view if set(view.split()) <= _VIEWS else "another view"


def _study_id(uid: str, volume: str) -> str:
    return "_".join([uid, *re.findall(r"[A-Za-z0-9.+-]+", volume)])


def _missing_series(uid: str, lost: int) -> SeriesInfo:
    problem = MissingFilesError(
        f"Series {uid}: a DICOMDIR names {lost} file(s) of it, and none is there. Copy the whole medium again.", uid
    )
    return SeriesInfo(
        uid, "", "", "", "", "", False, 0, (0, 0), None, "", Origin(), (), SeriesFiles(()), (), (problem,)
    )


def _spacing_and_orientation(frames: Sequence[Frame]) -> tuple[tuple[float, float, float] | None, str]:
    if not frames or frames[0].plane is None:
        return None, ""
    columns, rows, slices = (float(value) for value in np.linalg.norm(lps_affine(frames)[:3, :3], axis=0))
    return (rows, columns, slices), axis_name(frames[0].plane)
