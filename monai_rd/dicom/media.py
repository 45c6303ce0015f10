"""DICOMDIR (PS3.3 F.3): the images that it lists, and those of them that are missing."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmread
from pydicom.dataset import Dataset

from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.dicom.values import integer, known_uid, parts, text, uid_or_code
from monai_rd.files import open_file

__all__ = ["Media", "is_directory_name", "read_directory"]


class NamedImage(NamedTuple):
    """An image listed in a DICOMDIR.

    Attributes:
        sop_uid: its SOPInstanceUID; "" if the DICOMDIR does not state it.
        place: normalised path of its file, see `place_of`; "" if that is not below the DICOMDIR's folder.
    """

    sop_uid: str
    place: str


Directory = dict[str, set[NamedImage]]  # by series, see `known_uid`


def is_directory_name(path: Path) -> bool:
    """Return whether a file is named DICOMDIR, in upper or lower case, with or without ISO 9660 version number."""
    return _plain(path.name) == "dicomdir"


def place_of(path: Path) -> str:
    """Return a normalised path for comparison: lower case, without version numbers (`;1`) and dots after names."""
    return "/".join(_plain(part) for part in path.parts)


def _plain(name: str) -> str:
    return name.partition(";")[0].rstrip(".").lower()


@log_warnings_once()
def read_directory(path: Path) -> Directory | None:
    """Return the images listed in a DICOMDIR by series; None if the file is not a DICOMDIR or is damaged.

    Objects other than images (reports, presentation states) and records that are not in use are ignored.
    """
    try:
        with open_file(path) as file:
            content = io.BytesIO(file.read())
        records = {one.seq_item_tell: one for one in dcmread(content).DirectoryRecordSequence}
        found: Directory = {}
        for series in records.values():
            if text(series, "DirectoryRecordType") != "SERIES" or not known_uid(series, "SeriesInstanceUID"):
                continue
            images = found.setdefault(known_uid(series, "SeriesInstanceUID"), set())
            below, seen = integer(series, "OffsetOfReferencedLowerLevelDirectoryEntity", 0), set[int]()
            while below in records and below not in seen:
                seen.add(below)
                record = records[below]
                if text(record, "DirectoryRecordType") == "IMAGE" and integer(record, "RecordInUseFlag", 1):
                    images.add(_image(record, path.parent))
                below = integer(record, "OffsetOfTheNextDirectoryRecord", 0)
    except Exception:  # not DICOM, or a damaged directory, which can fail in the parser in any way
        return None
    return found


def _image(record: Dataset, medium: Path) -> NamedImage:
    names = [name for part in parts(record, "ReferencedFileID") for name in re.split(r"[/\\]", part)]
    names = [name for name in names if name not in ("", ".")]
    inside = bool(names) and ".." not in names
    return NamedImage(
        uid_or_code(record, "ReferencedSOPInstanceUIDInFile"), place_of(medium.joinpath(*names)) if inside else ""
    )


class Media:
    """The images listed by one or several DICOMDIRs together.

    Images are identified by SOPInstanceUID, because files may have been moved or renamed; paths are only used for
    images that a DICOMDIR lists without UID.

    Args:
        directories: DICOMDIRs as returned by `read_directory`; an image listed by several of them counts once.
    """

    def __init__(self, directories: Iterable[Directory]) -> None:
        self.series: Directory = {}
        for directory in directories:
            for uid, images in directory.items():
                self.series.setdefault(uid, set()).update(images)
        named = [image for images in self.series.values() for image in images]
        self._sop_uids = {image.sop_uid for image in named if image.sop_uid}
        self._places = {image.place for image in named if image.place}
        self._places_alone = {image.place for image in named if image.place and not image.sop_uid}

    def name(self, path: Path, sop_uid: str) -> bool:
        """Return whether a file is listed.

        Args:
            path: path of the file.
            sop_uid: SOPInstanceUID of its image; "" for a file that cannot be read, which is looked up by its path.
        """
        if not sop_uid:
            return place_of(path) in self._places
        return sop_uid in self._sop_uids or place_of(path) in self._places_alone

    def lost(self, paths: Iterable[Path], sop_uids: Collection[str]) -> dict[str, int]:
        """Return the number of images that are listed but missing, by series UID.

        Args:
            paths: paths of the files that exist.
            sop_uids: SOPInstanceUIDs of the images that exist.
        """
        places = {place_of(path) for path in paths} if self._places_alone else set()
        lost: dict[str, int] = {}
        for uid, images in self.series.items():
            gone = [one for one in images if (one.sop_uid or one.place) not in (sop_uids if one.sop_uid else places)]
            if gone:
                lost[uid] = len({one.sop_uid or one.place for one in gone})
        return lost
