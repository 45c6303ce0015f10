"""Which failures of an archive pass, and which of them are everybody's."""

from __future__ import annotations

import socket
import ssl
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

pytest.importorskip("requests", reason="the extra 'dicom' is not installed")

import requests
import urllib3

from monai_rd.integrations.archives.failures import (
    ArchiveError,
    Failure,
    of_connection,
    of_http,
    of_rejection,
    of_status,
    seconds_to_wait,
)
from monai_rd.integrations.archives.retries import ATTEMPTS, RetryPolicy

UNAVAILABLE, REFUSED, DAMAGED, IMPOSSIBLE = Failure.UNAVAILABLE, Failure.REFUSED, Failure.DAMAGED, Failure.IMPOSSIBLE
HTTP = {
    UNAVAILABLE: (408, 425, 429, 502, 503, 504),
    REFUSED: (300, 304, 401, 407, 999),
    DAMAGED: (500, 507, 599),
    IMPOSSIBLE: (400, 403, 404, 405, 406, 410, 413, 415, 501, 505),
}
STATUS = {
    UNAVAILABLE: (None,),
    REFUSED: (0x0118, 0x0124, 0x0211, 0xA801),
    DAMAGED: (0x0110, 0xA700, 0xA701, 0xA702, 0xB000, 0xC000, 0xFE00),
    IMPOSSIBLE: (0x0117, 0x0122, 0xA900, 0xA9FF),
}


@pytest.mark.parametrize(("kind", "status"), [(kind, one) for kind, all_ in HTTP.items() for one in all_])
def test_statuses_of_http(kind: Failure, status: int) -> None:
    error = of_http("x", status, 3.0)
    assert (error.kind, error.wait) == (kind, 3.0)
    assert f"HTTP {status}" in str(error)


@pytest.mark.parametrize(("kind", "status"), [(kind, one) for kind, all_ in STATUS.items() for one in all_])
def test_statuses_of_dimse(kind: Failure, status: int | None) -> None:
    assert of_status("x", status).kind is kind


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ((1, 1, 7), REFUSED, "another AE title than 'PACS'"),
        ((1, 1, 3), REFUSED, "does not know our AE title 'WE'"),
        ((1, 1, 1), REFUSED, "does it know our AE title 'WE'"),
        ((1, 1, 2), REFUSED, "AE title"),
        ((1, 3, 1), UNAVAILABLE, "busy"),
        ((2, 3, 2), UNAVAILABLE, "busy"),
        ((2, 1, 1), UNAVAILABLE, "busy"),
        ((1, 9, 99), REFUSED, "AE title"),
    ],
)
def test_rejected_associations(given: tuple[int, int, int], kind: Failure, told: str) -> None:
    error = of_rejection(*given, title="PACS", own="WE")
    assert error.kind is kind
    assert told in str(error)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


CONNECTIONS = [
    (requests.ConnectionError(), UNAVAILABLE),
    (requests.ConnectionError(urllib3.exceptions.ProtocolError("x", ConnectionResetError())), UNAVAILABLE),
    (requests.ConnectTimeout(), UNAVAILABLE),
    (requests.ReadTimeout(), UNAVAILABLE),
    (requests.ConnectionError(urllib3.exceptions.ReadTimeoutError(None, "u", "x")), UNAVAILABLE),
    (requests.exceptions.ChunkedEncodingError(), UNAVAILABLE),
    (requests.ConnectionError(caused(OSError(), socket.gaierror(socket.EAI_AGAIN, "x"))), UNAVAILABLE),
    (requests.ConnectionError(caused(OSError(), socket.gaierror(socket.EAI_NONAME, "x"))), REFUSED),
    (requests.exceptions.SSLError(ssl.SSLCertVerificationError("x")), REFUSED),
    (requests.exceptions.SSLError(ssl.SSLError("WRONG_VERSION_NUMBER")), REFUSED),
    (requests.exceptions.SSLError(ssl.SSLEOFError("x")), UNAVAILABLE),
    (requests.exceptions.ProxyError(), UNAVAILABLE),
    (requests.exceptions.ProxyError(OSError("Tunnel connection failed: 407 Proxy")), REFUSED),
    (requests.exceptions.ContentDecodingError(), DAMAGED),
    (requests.TooManyRedirects(), REFUSED),
    (requests.exceptions.InvalidURL("Secretname"), REFUSED),
    (requests.exceptions.InvalidHeader("Secretname"), REFUSED),
    (ValueError("Secretname"), REFUSED),
]


@pytest.mark.parametrize(("error", "kind"), CONNECTIONS)
def test_connections(error: BaseException, kind: Failure) -> None:
    told = of_connection("x", error)
    assert told.kind is kind
    assert "Secretname" not in str(told)


def test_retry_after() -> None:
    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
    assert 80 < seconds_to_wait(later) <= 90
    assert seconds_to_wait(" 120 ") == 120
    for nonsense in (
        None,
        "",
        "soon",
        "-5",
        "1e9",
        "²",
        "Fri, 31 Feb 2026 99:99:99 GMT",
        "Mon, 01 Jan 2001 00:00:00 GMT",
    ):
        assert seconds_to_wait(nonsense) == 0


@pytest.mark.parametrize(
    ("failures", "attempts", "gone"),
    [
        ((UNAVAILABLE,), 1, False),
        ((UNAVAILABLE, UNAVAILABLE), 1, True),
        ((DAMAGED, UNAVAILABLE), 1, False),
        ((DAMAGED, DAMAGED, DAMAGED), 1, False),
        ((REFUSED,), ATTEMPTS, True),
        ((IMPOSSIBLE, IMPOSSIBLE), ATTEMPTS, False),
        ((UNAVAILABLE, IMPOSSIBLE, UNAVAILABLE), 1, False),
        ((UNAVAILABLE, DAMAGED, UNAVAILABLE, UNAVAILABLE), 1, True),
        ((UNAVAILABLE, UNAVAILABLE, None), ATTEMPTS, False),
    ],
)
def test_patience(failures: tuple[Failure | None, ...], attempts: int, gone: bool) -> None:
    retry_policy = RetryPolicy()
    for kind in failures:
        if kind is None:
            retry_policy.succeeded()
        else:
            retry_policy.failed(ArchiveError("x", kind))
    assert (retry_policy.attempts, retry_policy.gone) == (attempts, gone)
