"""An archive accessed by DICOMweb (PS3.18), with `requests`: QIDO-RS to search, WADO-RS to fetch, STOW-RS to store.

No answer is trusted: it may be a web page, a redirect to a login, truncated, endless, or other JSON. Each case is an
`ArchiveError` with a message of our own; the text of the answer is never shown, as it may contain patient data.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from uuid import uuid4

import requests
import urllib3
from pydicom import dcmread
from pydicom.dataset import Dataset

from monai_rd.integrations.archives.archive import Query, count_of, different_images
from monai_rd.integrations.archives.dicom_json import results_of, store_response, text_of, value_of
from monai_rd.integrations.archives.failures import (
    ALREADY_THERE,
    ArchiveError,
    Failure,
    of_connection,
    of_http,
    of_status,
    seconds_to_wait,
)
from monai_rd.integrations.archives.multipart import save_parts
from monai_rd.integrations.archives.searching import Days, Found, search_by_days

__all__ = ["DicomWeb"]

_TIMEOUT = (10.0, 60.0)  # seconds for a connection, and without receiving a byte
_LONGEST = 3600.0  # seconds for a whole answer
_AT_ONCE = 64 << 20  # bytes in one request
_LARGEST_JSON = 256 << 20  # bytes, enough for about 100,000 studies
_LIMITS = (1000, 100, 0)  # results at a time; an archive that refuses a number is asked for less, or without one
_LARGEST_SERIES = 32 << 30  # bytes
_PAGES = 100_000
_REDIRECTS = 5
_CHUNK = 1 << 18  # bytes
_JSON = {"Accept": "application/dicom+json"}
_SOURCE = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}  # in the stored transfer syntax
# Usual paths of DICOMweb below an address: Orthanc, Google and others, dcm4chee.
_LIKELY = ("dicom-web", "dicomweb", "dcm4chee-arc/aets/DCM4CHEE/rs", "rs")
_STUDY, _SERIES, _INSTANCE, _IMAGES, _MODALITY = "0020000D", "0020000E", "00080018", "00201209", "00080060"
_DATE = "00080020"


class DicomWeb:
    """An archive with a DICOMweb service.

    Credentials are read from the environment, so that they are in no command line or shell history:
    MONAI_RD_DICOMWEB_TOKEN (sent as a bearer token), or MONAI_RD_DICOMWEB_USER and MONAI_RD_DICOMWEB_PASSWORD.
    REQUESTS_CA_BUNDLE names the certificates of a hospital's own certificate authority.

    Args:
        url: URL of the service, such as `https://pacs.example.org/dicom-web`.

    Raises:
        ValueError: the URL has a query or a fragment.
    """

    def __init__(self, url: str) -> None:
        if urlsplit(url).query or urlsplit(url).fragment:
            raise ValueError(f"'{url}' is no address of a DICOMweb service: leave out what begins with ? or #")
        self._url = url.rstrip("/")
        self._is_dicom_json = False  # whether an answer had the type of DICOM JSON
        self._limits: tuple[int, ...] = _LIMITS  # the first one is used
        self._session = _Session()
        self._session.headers["Accept-Encoding"] = "identity"
        token, user = os.environ.get("MONAI_RD_DICOMWEB_TOKEN"), os.environ.get("MONAI_RD_DICOMWEB_USER")
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        elif user:
            self._session.auth = (user, os.environ.get("MONAI_RD_DICOMWEB_PASSWORD", ""))

    def studies(self, query: Query) -> list[str]:
        """See `Archive`; if the URL is not that of the DICOMweb service, the error names a likely one that answers."""
        asked = {"ModalitiesInStudy": query.modality}
        found: set[str] = set()
        try:
            for one in query.studies:
                since = {"StudyDate": f"{query.since}-"} if query.since else {}
                found |= self._search("studies", asked | since | {"StudyInstanceUID": one}, _STUDY).keys()
            if not query.studies:
                found = search_by_days(
                    lambda days: self._of_days(asked, days),
                    lambda days: self._search("studies", asked | _matching(days), _STUDY),
                    query.since,
                )
        except ArchiveError as error:
            likely = None if error.kind.transient else self._elsewhere()
            raise (
                error if likely is None else ArchiveError(f"{error}. DICOMweb answers at {likely}", error.kind)
            ) from None
        if not found and not self._is_dicom_json:  # any service may answer with an empty list
            likely = self._elsewhere()
            if likely is not None:
                raise ArchiveError(
                    f"DICOMweb: nothing was found here, and DICOMweb answers at {likely}", Failure.REFUSED
                )
        return sorted(found & set(query.studies) if query.studies else found)

    def series(self, study: str, modality: str) -> dict[str, int | None]:
        """See `Archive`."""
        asked = {"Modality": modality, "includefield": "NumberOfSeriesRelatedInstances"}
        found = self._search(f"studies/{study}/series", asked, _SERIES)
        counts = {uid: count_of(value_of(one, _IMAGES)) for uid, one in sorted(found.items())}
        return {uid: counts[uid] for uid in counts if value_of(found[uid], _MODALITY) in (None, modality)}

    def fetch(self, study: str, series: str, folder: Path) -> int:
        """See `Archive`."""
        before = len(list(folder.iterdir()))

        def file_of(number: int) -> Path:
            return folder / f"{before + number:06d}.dcm"  # numbered: received data never name a file

        what = "a series could not be fetched"
        with self._answer(what, "GET", f"studies/{study}/series/{series}", headers=_SOURCE) as answer:
            if answer.status_code == 204:
                return 0
            chunks, kind = _chunks(what, answer, _LARGEST_SERIES), _content_type(answer)
            boundary = kind.get_boundary()
            if kind.get_content_type() == "multipart/related" and boundary:
                files = save_parts(chunks, boundary, "application/dicom", file_of)
            elif kind.get_content_type() == "application/dicom":  # some archives send a single image like this
                files = [file_of(0)]
                with open(files[0], "wb") as out:
                    out.writelines(chunks)
            else:
                raise ArchiveError(f"DICOMweb: {what} ({_described(answer)} came)", Failure.IMPOSSIBLE)
        return different_images(files, study, series)

    def store(self, files: Sequence[Path]) -> None:
        """See `Archive`; for objects that an answer does not mention, the archive is queried."""
        what = "results could not be stored"
        for part in _parts(files):
            boundary = uuid4().hex
            between = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
            body = b"".join(between + file.read_bytes() + b"\r\n" for file in part) + f"--{boundary}--\r\n".encode()
            kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
            headers = _JSON | {"Content-Type": kind}
            with self._answer(what, "POST", "studies", also=(409,), data=body, headers=headers) as answer:
                stored, failed = store_response(_body(what, answer, _LARGEST_JSON))
                conflict = answer.status_code == 409
            sent = [dcmread(file, stop_before_pixels=True) for file in part]
            for one in sent:
                reason = failed.get(one.SOPInstanceUID)
                if reason is not None and reason != ALREADY_THERE:
                    raise of_status(f"DICOMweb: {what}", reason)
            unnamed = [one for one in sent if one.SOPInstanceUID not in stored | failed.keys()]
            for one in unnamed:
                if not self._is_there(one):
                    kind_ = Failure.IMPOSSIBLE if conflict else Failure.DAMAGED
                    raise ArchiveError(f"DICOMweb: {what} (the answer tells of no storing)", kind_)

    def close(self) -> None:
        """See `Archive`."""
        self._session.close()

    def _is_there(self, one: Dataset) -> bool:
        place = f"studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}/instances"
        return str(one.SOPInstanceUID) in self._search(place, {"SOPInstanceUID": str(one.SOPInstanceUID)}, _INSTANCE)

    def _of_days(self, asked: dict[str, str], days: Days) -> Found:
        page, cut = self._page("studies", asked | _matching(days), _STUDY)
        return Found({uid: text_of(one, _DATE) for uid, one in page.items()}, cut)

    def _search(self, path: str, asked: dict[str, str], key: str) -> dict[str, dict[str, Any]]:
        """Return all results of a search, by the UIDs in `key`: page after page, or without a limit.

        An archive may ignore the offset, or apply it to the results that it has cut: then a page brings nothing new.
        """
        found, cut = self._page(path, asked, key)
        for _ in range(_PAGES):
            if not cut:
                return found
            page, cut = self._page(path, asked, key, offset=len(found))
            if page.keys() <= found.keys():
                break
            found = page | found
        page, cut = self._page(path, asked, key, limited=False)
        if cut:
            what = "it gives a part of many results, and no way to the others: raise its limit, or give --since"
            raise ArchiveError(f"DICOMweb: the archive could not be searched ({what})", Failure.REFUSED)
        return page | found

    def _page(
        self, path: str, asked: dict[str, str], key: str, offset: int = 0, limited: bool = True
    ) -> tuple[dict[str, dict[str, Any]], bool]:
        """Return results of a search by the UIDs in `key`, and whether there are, or may be, more."""
        what = "the archive could not be searched"
        limit = self._limits[0] if limited else 0
        counts = {name: str(value) for name, value in (("limit", limit), ("offset", offset)) if value}
        with self._answer(what, "GET", path, also=(400, 413), params=asked | counts, headers=_JSON) as answer:
            status, warning = answer.status_code, answer.headers.get("Warning", "")
            if status == 204:
                return {}, False
            if status == 413:  # the answer would be too long
                return {}, True
            body = b"" if status == 400 else _body(what, answer, _LARGEST_JSON)
            described = _described(answer, body)
            said = _content_type(answer).get_content_type() == "application/dicom+json"
        if status == 400:
            if not limit:
                raise of_http(what, status)
            self._limits = self._limits[1:]
            return self._page(path, asked, key, offset, limited)
        try:
            results = results_of(body, key)
        except ValueError:
            hint = "is it the address of its DICOMweb, as in http://HOST/dicom-web?"
            raise ArchiveError(f"DICOMweb: {what} ({described} came: {hint})", Failure.REFUSED) from None
        self._is_dicom_json |= said or bool(results)
        told = status == 206 or ("299" in warning and "results" in warning)  # PS3.18 8.3.4.4, and of before 2017
        return dict(results), told or 0 < limit <= len(results)

    def _elsewhere(self) -> str | None:
        """Return a usual address at which DICOMweb answers, None if there is none."""
        parts = urlsplit(self._url)
        tried = {self._url}
        for base in (self._url, f"{parts.scheme}://{parts.netloc}"):
            for path in _LIKELY:
                url = f"{base}/{path}"
                if url in tried:
                    continue
                tried.add(url)
                other = DicomWeb(url)
                other._limits = (1, 0)
                try:
                    other._page("studies", {}, _STUDY)
                except ArchiveError as error:
                    if error.kind is Failure.UNAVAILABLE:
                        return None
                else:
                    if other._is_dicom_json:
                        return url
                finally:
                    other.close()
        return None

    @contextmanager
    def _answer(
        self, what: str, method: str, path: str, also: tuple[int, ...] = (), **words: Any
    ) -> Iterator[requests.Response]:
        """Yield an answer with a success status, or a status in `also`; its body is not read yet."""
        url = f"{self._url}/{path}"
        for _ in range(_REDIRECTS):
            try:
                answer = self._session.request(method, url, stream=True, timeout=_TIMEOUT, **words)
                url = urljoin(url, answer.headers.get("Location", ""))
                onward = answer.is_redirect and _may_follow(method, answer.url, url)
            except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
                raise of_connection(what, error) from None
            if not answer.is_redirect:
                break
            answer.close()
            words.pop("params", None)  # already in the URL
            if not onward:
                raise ArchiveError(f"DICOMweb: {what} (it sends us to {_place(url)})", Failure.REFUSED)
        else:
            raise of_connection(what, requests.TooManyRedirects())
        with answer:
            if not 200 <= answer.status_code < 300 and answer.status_code not in also:
                raise of_http(what, answer.status_code, seconds_to_wait(answer.headers.get("Retry-After")))
            yield answer


class _Session(requests.Session):
    """A session that follows no redirects, and so never reads the body of a redirect, which may be endless."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return no target."""


def _may_follow(method: str, old: str, new: str) -> bool:
    """Whether a redirect is safe: no data lost, and the same host, or https on the same host."""
    was, is_ = urlsplit(old), urlsplit(new)
    secured = was.scheme == "http" and is_.scheme == "https" and was.hostname == is_.hostname
    return method == "GET" and (secured or (was.scheme, was.netloc) == (is_.scheme, is_.netloc))


def _place(url: str) -> str:
    """Return only the scheme and host of a URL, as the rest may contain anything."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and re.fullmatch(r"[A-Za-z0-9.-]{1,255}", parts.hostname or ""):
        return f"{parts.scheme}://{parts.hostname}: give that address, or find out how to log in"
    return "another place"


def _chunks(what: str, answer: requests.Response, largest: int) -> Iterator[bytes]:
    """Yield the decompressed body in chunks, up to a size limit."""
    until, size = time.monotonic() + _LONGEST, 0
    try:
        for chunk in answer.iter_content(_CHUNK):
            size += len(chunk)
            if size > largest:
                raise ArchiveError(f"DICOMweb: {what} (an answer of more than {largest >> 20} MB)", Failure.IMPOSSIBLE)
            if time.monotonic() > until:
                raise ArchiveError(f"DICOMweb: {what} (an answer that takes more than an hour)")
            yield chunk
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise of_connection(what, error) from None


def _body(what: str, answer: requests.Response, largest: int) -> bytes:
    return b"".join(_chunks(what, answer, largest))


def _content_type(answer: requests.Response) -> Message:
    """Parse the header Content-Type with its parameters."""
    read = Message()
    read["Content-Type"] = answer.headers.get("Content-Type", "")
    return read


def _described(answer: requests.Response, body: bytes | None = None) -> str:
    """Describe an answer in our own words."""
    if body is not None and not body.strip():
        return "an empty answer"
    kind = _content_type(answer).get_content_type()
    start = (body or b"").lstrip(b"\xef\xbb\xbf \r\n\t")[:1]
    if "html" in kind:
        return "a web page"
    if "xml" in kind or start == b"<":
        return "a web page or XML"
    return "JSON that is no DICOM JSON" if "json" in kind or start in (b"[", b"{") else "something else than DICOM JSON"


def _matching(days: Days) -> dict[str, str]:
    return {"StudyDate": str(days)} if str(days) else {}


def _parts(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield the files in groups of about 64 MB, at least one file each."""
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
