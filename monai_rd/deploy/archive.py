"""What an image archive (PACS) is asked for, whatever language it speaks, and how often."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from pydicom.filereader import read_partial
from pydicom.tag import Tag

from monai_rd.deploy.failures import ArchiveError, Failure

__all__ = [
    "ATTEMPTS",
    "Archive",
    "ArchiveError",
    "Patience",
    "Query",
    "count_of",
    "different_images",
    "open_archive",
    "require_uid",
    "retried",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")
ATTEMPTS = 5
_LONGEST = 60.0  # s that an archive may ask us to wait for


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
            raise ArchiveError("something came for an image that is no DICOM", Failure.SPOILT) from None
        if uids[:2] != [study, series]:
            raise ArchiveError("an image of another series came", Failure.IMPOSSIBLE)
        found.add(uids[2])
    return len(found)


def open_archive(url: str, ae_title: str = "MONAI_RD", listen: int | None = None) -> Archive:
    """Open the archive at a URL.

    Args:
        url: `http(s)://HOST/dicom-web` (DICOMweb) or `dimse://AE_TITLE@HOST:PORT` (the classic DICOM network).
        ae_title: our own title in the classic network.
        listen: port at which a classic archive that cannot C-GET may send images to us (C-MOVE); it must know our title
            and address.

    Raises:
        ValueError: neither.
    """
    if "@" in urlsplit(url).netloc and url.startswith("http"):
        raise ValueError("an address that holds a password: set MONAI_RD_DICOMWEB_USER and MONAI_RD_DICOMWEB_PASSWORD")
    place = re.fullmatch(r"dimse://([^@/]{1,16})@([^:/@]+):(\d{1,5})", url)
    try:
        if re.match(r"https?://", url):
            from monai_rd.deploy.dicomweb import DicomWeb

            return DicomWeb(url)
        if place:
            from monai_rd.deploy.dimse import Dimse

            return Dimse(place[1], place[2], int(place[3]), ae_title, listen)
    except ModuleNotFoundError as error:
        raise ValueError(f'archives need the package {error.name}: pip install "monai_rd[dicom]"') from None
    raise ValueError(f"'{url}' is no archive: give http(s)://HOST/dicom-web or dimse://AE_TITLE@HOST:PORT")


def retried(action: Callable[[], T], attempts: int = ATTEMPTS, wait: float = 1.0) -> T:
    """Do something that a network may spoil, again after 1, 2, 4, ... times `wait` seconds.

    What does not pass (`Failure`) is not tried again; nor is an archive that asks for a longer pause than a minute.

    Args:
        action: raises `ArchiveError` where it fails.
        attempts: in all.
        wait: in seconds.

    Raises:
        ArchiveError: of the last attempt.
    """
    for attempt in range(attempts - 1):
        try:
            return action()
        except ArchiveError as error:
            if not error.kind.passing or error.wait > _LONGEST:
                raise
            pause = max(wait * 2**attempt, error.wait)
            logger.warning("%s; again in %.0f s (attempt %d of %d)", error, pause, attempt + 2, attempts)
            time.sleep(pause)
    return action()


class Patience:
    """How often an archive is tried: five times, until it has failed so often; then once, until it succeeds again.

    Attributes:
        attempts: how often it is tried now.
        gone: it failed by something that is everybody's, and twice in a row if that may pass.
    """

    def __init__(self) -> None:
        self.attempts, self.gone = ATTEMPTS, False
        self._was_away = False

    def failed(self, error: ArchiveError) -> None:
        """Learn that all attempts of something failed."""
        self.gone = error.kind.everywhere and (self._was_away or not error.kind.passing)
        self._was_away = error.kind.everywhere
        if error.kind.passing:
            self.attempts = 1

    def succeeded(self) -> None:
        """Learn that something succeeded."""
        self.attempts, self.gone, self._was_away = ATTEMPTS, False, False
