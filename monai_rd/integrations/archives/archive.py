"""What an image archive (PACS) is asked for, whatever language it speaks, and what its answers must be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydicom.filereader import read_partial
from pydicom.tag import Tag

from monai_rd.integrations.archives.failures import ArchiveError, Failure

__all__ = ["Archive", "Query", "count_of", "different_images", "require_uid"]


@dataclass(frozen=True)
class Query:
    """Which studies are wanted.

    Args:
        modality: such as "CT": studies that have it, and of these the series of it.
        since: studies of this day or later, "YYYYMMDD"; None takes all.
        studies: StudyInstanceUIDs; empty takes all.

    Raises:
        ValueError: a day or UID that is none.
    """

    modality: str
    since: str | None = None
    studies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.since is not None and not re.fullmatch(r"\d{8}", self.since):
            raise ValueError(f"a day is written YYYYMMDD, got {self.since!r}")
        wrong = [uid for uid in self.studies if not re.fullmatch(r"[0-9.]{1,64}", uid)]
        if wrong:
            raise ValueError(f"not a StudyInstanceUID: {wrong[0]!r}")


class Archive(Protocol):
    """A place that images come from and results go to; every method raises `ArchiveError` where it fails."""

    def studies(self, query: Query) -> list[str]:
        """StudyInstanceUIDs, sorted."""

    def series(self, study: str, modality: str) -> dict[str, int | None]:
        """The series of a study and how many images each has, None where the archive does not tell."""

    def fetch(self, study: str, series: str, folder: Path) -> int:
        """Write the images of a series into a folder; returns how many different ones."""

    def store(self, files: Sequence[Path]) -> None:
        """Send DICOM files; one that is there already is no error."""

    def close(self) -> None:
        """End the connections that are open; another request opens one anew."""


_UID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")  # some archives hold hashes for UIDs


def require_uid(value: str) -> None:
    """Refuse what an archive calls a UID and is none: in paths and questions it would mean something else.

    Raises:
        ArchiveError: such as "../..", "*", or nothing.
    """
    if not _UID.fullmatch(value):
        raise ArchiveError("an answer of the archive holds a UID that is none", Failure.IMPOSSIBLE)


def count_of(value: object) -> int | None:
    """The number of images that an archive tells, None where it does not.

    Raises:
        ArchiveError: it is no number of images.
    """
    if value is None or value == "":
        return None
    try:
        count = int(str(value))
    except ValueError:
        count = -1
    if count < 0:
        raise ArchiveError("an answer of the archive holds a number of images that is none", Failure.IMPOSSIBLE)
    return count


def different_images(files: Sequence[Path], study: str, series: str) -> int:
    """Count the images that came, each once.

    Args:
        files: that were fetched.
        study: StudyInstanceUID that was asked for.
        series: SeriesInstanceUID that was asked for.

    Raises:
        ArchiveError: something came that is no DICOM, or is of another study or series.
    """
    named: list[Any] = [Tag(name) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    found = set()
    for file in files:
        try:
            with open(file, "rb") as stream:
                header = read_partial(stream, lambda tag, vr, length: tag > max(named), specific_tags=named)
            uids = [str(header[tag].value) for tag in named]
        except Exception:  # pydicom's reader has an exception for each way to be damaged
            raise ArchiveError("something came for an image that is no DICOM", Failure.DAMAGED) from None
        if uids[:2] != [study, series]:
            raise ArchiveError("an image of another series came", Failure.IMPOSSIBLE)
        found.add(uids[2])
    return len(found)
