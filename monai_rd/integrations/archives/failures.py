"""Failures of archives: which are transient, which affect the whole archive, and advice for each."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from enum import Enum

__all__ = [
    "ALREADY_THERE",
    "ArchiveError",
    "Failure",
    "of_connection",
    "of_http",
    "of_rejection",
    "of_status",
    "seconds_to_wait",
]

ALREADY_THERE = 0x0111  # "duplicate SOP instance", not a failure for us


class Failure(Enum):
    """The kinds of failures.

    Attributes:
        transient: whether another attempt may succeed.
        affects_all: whether it concerns the whole archive, not a single study or report.
    """

    UNAVAILABLE = True, True  # no answer, or the archive says that it cannot answer now
    REFUSED = False, True  # nothing will work until somebody changes something: an address, a password, a title
    DAMAGED = True, False  # the answer about one study or report was invalid
    IMPOSSIBLE = False, False  # this study is not available, or this report is not accepted

    def __init__(self, transient: bool, affects_all: bool) -> None:
        self.transient, self.affects_all = transient, affects_all


class ArchiveError(OSError):
    """The archive does not answer, or refuses, or its answer cannot be used.

    Args:
        message: the message, without patient data or text from the archive.
        kind: kind of the failure.
        wait: seconds after which the archive asks to be tried again.
    """

    def __init__(self, message: str, kind: Failure = Failure.UNAVAILABLE, wait: float = 0.0) -> None:
        super().__init__(message)
        self.kind, self.wait = kind, wait


_CREDENTIALS = ": set MONAI_RD_DICOMWEB_TOKEN, or MONAI_RD_DICOMWEB_USER and MONAI_RD_DICOMWEB_PASSWORD"
_BUSY = ": it is busy or in need of help"
# By HTTP status (RFC 9110, and PS3.18 for DICOMweb); other statuses are classified by their first digit.
_HTTP: dict[int, tuple[Failure, str]] = {
    401: (Failure.REFUSED, _CREDENTIALS),
    403: (Failure.IMPOSSIBLE, _CREDENTIALS),
    404: (Failure.IMPOSSIBLE, ": is it the address of its DICOMweb, as in http://HOST/dicom-web?"),
    407: (Failure.REFUSED, ": a proxy wants a password, see HTTPS_PROXY and NO_PROXY"),
    408: (Failure.UNAVAILABLE, _BUSY),
    425: (Failure.UNAVAILABLE, _BUSY),
    429: (Failure.UNAVAILABLE, _BUSY),
    501: (Failure.IMPOSSIBLE, ": it does not know how"),
    502: (Failure.UNAVAILABLE, ": a server before the archive does not reach it"),
    503: (Failure.UNAVAILABLE, _BUSY),
    504: (Failure.UNAVAILABLE, ": a server before the archive does not reach it"),
    505: (Failure.IMPOSSIBLE, ": it does not know how"),
}
_HTTP_ELSE = {4: Failure.IMPOSSIBLE, 5: Failure.DAMAGED}


def of_http(what: str, status: int, wait: float = 0.0) -> ArchiveError:
    """Return the error for an HTTP status that is not a success.

    Args:
        what: what failed, for the message.
        status: the status, such as 404.
        wait: see `ArchiveError`.
    """
    kind, hint = _HTTP.get(status, (_HTTP_ELSE.get(status // 100, Failure.REFUSED), ""))
    return ArchiveError(f"DICOMweb: {what} (HTTP {status}{hint})", kind, wait)


def seconds_to_wait(header: str | None) -> float:
    """Parse the header Retry-After to seconds; 0 if it is missing or invalid."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def of_connection(what: str, error: BaseException) -> ArchiveError:
    """Return the error for an exception of the HTTP library; its own text is not used, as it may contain anything.

    Args:
        what: what failed, for the message.
        error: an exception of requests or urllib3, or a ValueError of either.
    """
    from requests import exceptions
    from urllib3.exceptions import NameResolutionError

    causes = list(_causes(error))
    no_name = next((one for one in causes if isinstance(one, socket.gaierror)), None)
    tunnel = next((str(one) for one in causes if "Tunnel connection failed: 4" in str(one)), None)
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in causes):
        kind = Failure.REFUSED
        why = "its certificate is not trusted: REQUESTS_CA_BUNDLE names the file of your own authority's"
    elif any(isinstance(one, ssl.SSLEOFError | ssl.SSLZeroReturnError) for one in causes):
        kind, why = Failure.UNAVAILABLE, "the connection broke"
    elif any(isinstance(one, ssl.SSLError | exceptions.SSLError) for one in causes):
        kind, why = Failure.REFUSED, "no secure connection: does it speak https at this port?"
    elif tunnel is not None:
        kind, why = Failure.REFUSED, "a proxy refuses, see HTTPS_PROXY and NO_PROXY"
    elif any(isinstance(one, exceptions.ProxyError) for one in causes):
        kind, why = Failure.UNAVAILABLE, "a proxy does not answer, see HTTPS_PROXY and NO_PROXY"
    elif no_name is not None or any(isinstance(one, NameResolutionError) for one in causes):
        unknown = no_name is not None and no_name.errno == socket.EAI_NONAME
        kind, why = (
            Failure.REFUSED if unknown else Failure.UNAVAILABLE,
            "no connection: there is no machine of that name",
        )
    elif any(isinstance(one, exceptions.Timeout | TimeoutError) for one in causes):
        kind, why = Failure.UNAVAILABLE, "no answer in time"
    elif isinstance(error, exceptions.ChunkedEncodingError):
        kind, why = Failure.UNAVAILABLE, "the connection broke"
    elif isinstance(error, exceptions.ConnectionError):
        kind, why = Failure.UNAVAILABLE, "no connection: does it run, is its address right?"
    elif isinstance(error, exceptions.TooManyRedirects):
        kind, why = Failure.REFUSED, "it sends us round in circles: is it the address of its DICOMweb?"
    elif isinstance(error, exceptions.ContentDecodingError):
        kind, why = Failure.DAMAGED, "a damaged answer"
    else:
        kind, why = Failure.REFUSED, f"{type(error).__name__}: is its address right?"
    return ArchiveError(f"DICOMweb: {what} ({why})", kind)


def of_rejection(result: int, source: int, reason: int, title: str, own: str) -> ArchiveError:
    """Return the error for a rejected association (PS3.8, table 9-21).

    Args:
        result: 1 for permanent, 2 for transient.
        source: 1 for the service user, 2 and 3 for the service provider.
        reason: reason code of the source.
        title: the archive's AE title.
        own: our AE title.
    """
    if source == 1 and reason == 7:
        kind, why = Failure.REFUSED, f"it has another AE title than '{title}'"
    elif source == 1 and reason == 3:
        kind, why = Failure.REFUSED, f"it does not know our AE title '{own}': enter it there, or give --ae-title"
    elif result == 2 or source == 3:
        kind, why = Failure.UNAVAILABLE, "it is busy"
    else:
        kind, why = Failure.REFUSED, f"it refused us: does it know our AE title '{own}'?"
    return ArchiveError(f"DICOM: the archive '{title}' cannot be reached ({why})", kind)


# By status (PS3.7 annex C, PS3.4 annexes B and C); any other status is an invalid answer about one study.
_STATUS: dict[int, tuple[Failure, str]] = {
    0x0105: (Failure.IMPOSSIBLE, ""),
    0x0106: (Failure.IMPOSSIBLE, ""),
    0x0112: (Failure.IMPOSSIBLE, ""),
    0x0115: (Failure.IMPOSSIBLE, ""),
    0x0116: (Failure.IMPOSSIBLE, ""),
    0x0117: (Failure.IMPOSSIBLE, ""),
    0x0118: (Failure.REFUSED, ": it does not offer this"),
    0x0119: (Failure.IMPOSSIBLE, ""),
    0x0122: (Failure.IMPOSSIBLE, ": it does not take this kind of object"),
    0x0124: (Failure.REFUSED, ": we may not: what does it allow our AE title?"),
    0x0211: (Failure.REFUSED, ": it does not offer this"),
    0x0212: (Failure.IMPOSSIBLE, ""),
    0xA801: (Failure.REFUSED, ": it does not know where to send: enter our AE title, address and --listen there"),
}


def of_status(what: str, status: int | None) -> ArchiveError:
    """Return the error for the status of a DIMSE service, or for a FailureReason of DICOMweb.

    Args:
        what: what failed and by which protocol, for the message.
        status: the status; None if there was no answer.
    """
    if status is None:
        return ArchiveError(f"{what} (the connection broke)")
    if status & 0xFF00 == 0xA900:  # it does not match the SOP class: permanent
        return ArchiveError(f"{what} (status {status:#06x})", Failure.IMPOSSIBLE)
    kind, hint = _STATUS.get(status, (Failure.DAMAGED, ""))
    return ArchiveError(f"{what} (status {status:#06x}{hint})", kind)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all its causes; requests wraps those of urllib3 as arguments."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, *one.args, getattr(one, "reason", None)]
