"""What an image archive (PACS) is asked for, whatever language it speaks, and how often."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

__all__ = ["ATTEMPTS", "Archive", "ArchiveError", "Query", "open_archive", "retried"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
ATTEMPTS = 5


class ArchiveError(OSError):
    """The archive does not answer, or refuses; the message holds no patient data."""


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
        """Write the images of a series into a folder; returns how many."""

    def store(self, files: Sequence[Path]) -> None:
        """Send DICOM files; one that is there already is no error."""


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
            pause = wait * 2**attempt
            logger.warning("%s; again in %.0f s (attempt %d of %d)", error, pause, attempt + 2, attempts)
            time.sleep(pause)
    return action()
