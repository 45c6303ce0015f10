"""The interface of an image archive (PACS), independent of the protocol, and checks of its answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydicom.filereader import read_partial
from pydicom.tag import Tag

from monai_rd.integrations.archives.failures import ArchiveError, Failure
from monai_rd.integrations.archives.searching import day_of

__all__ = ["Archive", "Query", "count_of", "different_images", "require_uid"]


@dataclass(frozen=True)
class Query:
    """A query for studies.

    Args:
        modality: modality such as "CT": studies with series of this modality, and only these series.
        since: studies of this day or later, "YYYYMMDD"; None for all.
        studies: StudyInstanceUIDs; empty for all.

    Raises:
        ValueError: an invalid day or UID.

    Example:
        >>> from monai_rd.integrations.archives.archive import Query
        >>> Query("CT", since="20260101").studies
        ()
    """

    modality: str
    since: str | None = None
    studies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.since is not None and day_of(self.since) is None:
            raise ValueError(f"a day is written YYYYMMDD, got {self.since!r}")
        wrong = [uid for uid in self.studies if not re.fullmatch(r"[0-9.]{1,64}", uid)]
        if wrong:
            raise ValueError(f"not a StudyInstanceUID: {wrong[0]!r}")


class Archive(Protocol):
    """An archive that images are fetched from and results are stored in; every method may raise `ArchiveError`.

    Example:
        >>> from monai_rd.integrations.archives.archive import Archive
        >>> from monai_rd.integrations.archives.archive_url import open_archive
        >>> archive: Archive = open_archive("https://pacs.example.org/dicom-web")
        >>> type(archive).__name__
        'DicomWeb'
    """

    def studies(self, query: Query) -> list[str]:
        """Return the StudyInstanceUIDs that match, sorted."""

    def series(self, study: str, modality: str) -> dict[str, int | None]:
        """Return the series of a study with their number of images, None where the archive does not tell it."""

    def fetch(self, study: str, series: str, folder: Path) -> int:
        """Write the images of a series into a folder, and return the number of different images."""

    def store(self, files: Sequence[Path]) -> None:
        """Send DICOM files; a file that the archive already has is not an error."""

    def close(self) -> None:
        """Close all connections; the next request opens one again."""


_UID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")  # some archives use hashes as UIDs


def require_uid(value: str) -> None:
    """Check a UID that an archive sent: other texts would have a special meaning in paths and queries.

    Raises:
        ArchiveError: not a UID, such as "../..", "*", or an empty text.
    """
    if not _UID.fullmatch(value):
        raise ArchiveError("an answer of the archive holds a UID that is none", Failure.IMPOSSIBLE)


def count_of(value: object) -> int | None:
    """Return the number of images that an archive sent, None if it sent none.

    Raises:
        ArchiveError: not a valid number of images.
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
    """Check the fetched images, and count the different ones.

    Args:
        files: the fetched files.
        study: the requested StudyInstanceUID.
        series: the requested SeriesInstanceUID.

    Raises:
        ArchiveError: a file is not DICOM, or belongs to another study or series.
    """
    named: list[Any] = [Tag(name) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    found = set()
    for file in files:
        try:
            with open(file, "rb") as stream:
                header = read_partial(stream, lambda tag, vr, length: tag > max(named), specific_tags=named)
            uids = [str(header[tag].value) for tag in named]
        except Exception:  # pydicom's reader may raise any exception on damaged data
            raise ArchiveError("something came for an image that is no DICOM", Failure.DAMAGED) from None
        if uids[:2] != [study, series]:
            raise ArchiveError("an image of another series came", Failure.IMPOSSIBLE)
        found.add(uids[2])
    return len(found)
