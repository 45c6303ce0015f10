"""Images without a SeriesInstanceUID: grouping into series, and substitute IDs for these."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from monai_rd.dicom.header import Header
from monai_rd.errors import DicomSeriesError, NoSeriesUidError, UnreadablePixelsError
from monai_rd.files import known_hash

__all__ = ["named", "problem_of_unnamed"]

# Decimals to which direction cosines and spacings are compared; within a series they differ in the last digits only.
_DECIMALS = 3


def named(read: Sequence[tuple[Path, Header]]) -> list[tuple[Path, Header]]:
    """Give images without SeriesInstanceUID an ID, the same for images of one series.

    Images are one series if they are in the same folder and have the same study, patient, modality, SeriesNumber, size,
    pixel spacing and orientation. The ID is derived from the content of the files, so that it does not depend on their
    place. A file that is cut off before its UID gets no ID, as its series cannot be known.

    Args:
        read: files and their headers.

    Returns:
        Files and headers, in the same order.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, (path, header) in enumerate(read):
        if not header.series_uid and not isinstance(header.problem, UnreadablePixelsError):
            groups.setdefault(_series_key(path, header), []).append(index)
    found = list(read)
    for indices in groups.values():
        hashes = sorted(known_hash(read[index][0]) for index in indices)
        uid = f"files-{hashlib.sha256(''.join(hashes).encode()).hexdigest()[:16]}"
        for index in indices:
            path, header = read[index]
            patient = header.patient_key or uid.removeprefix("files-")
            problem = None if header.problem is None else _with_uid(header.problem, uid)
            found[index] = path, replace(header, series_uid=uid, unnamed=True, patient_key=patient, problem=problem)
    return found


def _series_key(path: Path, header: Header) -> tuple[object, ...]:
    plane = header.planes[0] if header.planes else None
    place = () if plane is None else (*plane.orientation, *plane.spacing)
    about = header.study_uid, header.patient_key, header.modality, header.series_number, header.shape, header.picture
    return os.path.realpath(path.parent), *about, *(round(value, _DECIMALS) for value in place)


def _with_uid(problem: DicomSeriesError, uid: str) -> DicomSeriesError:
    return type(problem)(str(problem).replace("Series (no UID)", f"Series {uid}"), uid)


def problem_of_unnamed(headers: Sequence[Header]) -> NoSeriesUidError | None:
    """Return the error for images without SeriesInstanceUID, None if all have one."""
    count = sum(header.unnamed for header in headers)
    if not count:
        return None
    uid = headers[0].series_uid
    return NoSeriesUidError(
        f"Series {uid}: {count} file(s) have no SeriesInstanceUID. They lie in one folder and have one study, "
        "SeriesNumber and geometry: the policy NO_SERIES_UID=warn reads them as one series. Or export them with UIDs.",
        uid,
    )
