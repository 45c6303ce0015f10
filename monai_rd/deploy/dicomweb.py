"""An archive by DICOMweb (PS3.18): QIDO-RS to find, WADO-RS to fetch, STOW-RS to store; by `dicomweb-client`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread

from monai_rd.deploy.archive import ArchiveError, Query

__all__ = ["DicomWeb"]

_TIMEOUT = 60.0  # s without a byte
_AT_ONCE = 64 << 20  # bytes in one request


class DicomWeb:
    """An archive at a DICOMweb service.

    Credentials come from the environment, so that no command line or history holds them: MONAI_RD_DICOMWEB_TOKEN (sent
    as "Bearer"), or MONAI_RD_DICOMWEB_USER and MONAI_RD_DICOMWEB_PASSWORD. REQUESTS_CA_BUNDLE names the certificates of
    a hospital's own authority.

    Args:
        url: of the service, such as `https://pacs.example.org/dicom-web`.
    """

    def __init__(self, url: str) -> None:
        session = requests.Session()
        token, user = os.environ.get("MONAI_RD_DICOMWEB_TOKEN"), os.environ.get("MONAI_RD_DICOMWEB_USER")
        if token:
            session.headers["Authorization"] = f"Bearer {token}"
        elif user:
            session.auth = (user, os.environ.get("MONAI_RD_DICOMWEB_PASSWORD", ""))
        self._client = DICOMwebClient(url, session=session, timeout=_TIMEOUT)
        self._client.set_http_retry_params(retry=False)  # our own retries know broken connections too
        logging.getLogger("retrying").setLevel(logging.CRITICAL)  # it would log tracebacks with addresses all the same

    def studies(self, query: Query) -> list[str]:
        """See `Archive`."""
        filters = {"ModalitiesInStudy": query.modality} | ({"StudyDate": f"{query.since}-"} if query.since else {})
        wanted: list[dict[str, str]] = [{"StudyInstanceUID": uid} for uid in query.studies] or [{}]
        found = [self._search(self._client.search_for_studies, filters | one) for one in wanted]
        return sorted({str(_value(one, "0020000D")) for each in found for one in each})

    def series(self, study: str, modality: str) -> dict[str, int | None]:
        """See `Archive`."""
        fields = {"fields": ["NumberOfSeriesRelatedInstances"], "study_instance_uid": study}
        found = self._search(self._client.search_for_series, {"Modality": modality}, **fields)
        counts = {str(_value(one, "0020000E")): _value(one, "00201209") for one in found}
        return {uid: None if count is None else int(count) for uid, count in sorted(counts.items())}

    def fetch(self, study: str, series: str, folder: Path) -> int:
        """See `Archive`."""
        count, before = 0, len(list(folder.iterdir()))
        with _told("a series could not be fetched"):
            # As it is stored: a transcoded series is another one to some, and larger.
            for dataset in self._client.iter_series(study, series, media_types=(("application/dicom", "*"),)):
                dataset.save_as(folder / f"{before + count:06d}.dcm", enforce_file_format=True)
                count += 1
        return count

    def store(self, files: Sequence[Path]) -> None:
        """See `Archive`."""
        for part in _parts(files):
            with _told("results could not be stored"):
                answer = self._client.store_instances([dcmread(file) for file in part])
            failed = [one for one in answer.get("FailedSOPSequence", ()) if len(one)]  # Orthanc's is there and empty
            if failed:
                reasons = ", ".join(sorted({f"{one.get('FailureReason', 0):#06x}" for one in failed}))
                raise ArchiveError(f"DICOMweb: {len(failed)} of {len(part)} objects were refused ({reasons})")

    def _search(self, search: Callable[..., list[dict[str, Any]]], filters: dict[str, str], **more: Any) -> list[Any]:
        """All pages of a search; a service that knows no offset gives the first one again."""
        found: list[Any] = []
        with _told("the archive could not be searched"):
            while True:
                page = search(search_filters=filters, offset=len(found) or None, **more)
                new = [one for one in page if one not in found]
                if not new:
                    return found
                found += new


def _value(found: dict[str, Any], tag: str) -> Any:
    values = found.get(tag, {}).get("Value") or [None]
    return values[0]


def _parts(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Files in groups of some 64 MB, at least one each."""
    part: list[Path] = []
    size = 0
    for file in files:
        if part and size + file.stat().st_size > _AT_ONCE:
            yield part
            part, size = [], 0
        part.append(file)
        size += file.stat().st_size
    if part:
        yield part


_CREDENTIALS = ": set MONAI_RD_DICOMWEB_TOKEN, or MONAI_RD_DICOMWEB_USER and MONAI_RD_DICOMWEB_PASSWORD"
_HINTS: dict[int | str, str] = {
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    404: ": is it the address of its DICOMweb, as in http://HOST/dicom-web?",
}


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what a service or a network can do wrong into our own error; URLs and bodies may tell of patients."""
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        raise ArchiveError(f"DICOMweb: {what} (HTTP {status}{_HINTS.get(status, '')})") from None
    except requests.ConnectionError:
        raise ArchiveError(f"DICOMweb: {what} (no connection: does it run, is its address right?)") from None
    except (requests.RequestException, OSError, ValueError) as error:
        raise ArchiveError(f"DICOMweb: {what} ({type(error).__name__})") from None
