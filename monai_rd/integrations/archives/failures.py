"""What can go wrong with an archive: which failures pass, which of them are everybody's, and what to do about each."""

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

ALREADY_THERE = 0x0111  # "duplicate SOP instance", which is no failure to us


class Failure(Enum):
    """Kinds of failures.

    Attributes:
        transient: another attempt may succeed.
        affects_all: it is not about one study or report, but about the archive.
    """

    UNAVAILABLE = True, True  # nothing answers, or it says that it cannot now
    REFUSED = False, True  # nothing will be had until somebody changes something: an address, a password, a title
    DAMAGED = True, False  # an answer about one study or report was bad
    IMPOSSIBLE = False, False  # this study cannot be had now, this report is not taken

    def __init__(self, transient: bool, affects_all: bool) -> None:
        self.transient, self.affects_all = transient, affects_all


class ArchiveError(OSError):
    """The archive does not answer, or refuses, or its answer cannot be used.

    Args:
        message: holds no patient data, nor text of the archive's.
        kind: of the failure.
        wait: seconds after which the archive asks to be tried again.
    """

    def __init__(self, message: str, kind: Failure = Failure.UNAVAILABLE, wait: float = 0.0) -> None:
        super().__init__(message)
        self.kind, self.wait = kind, wait


_CREDENTIALS = ": set MONAI_RD_DICOMWEB_TOKEN, or MONAI_RD_DICOMWEB_USER and MONAI_RD_DICOMWEB_PASSWORD"
_BUSY = ": it is busy or in need of help"
# By HTTP status (RFC 9110, and PS3.18 for those of DICOMweb); what is not here goes by its first digit.
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
    """The failure that an HTTP status tells, one that is no success.

    Args:
        what: what was not to be had.
        status: such as 404.
        wait: see `ArchiveError`.
    """
    kind, hint = _HTTP.get(status, (_HTTP_ELSE.get(status // 100, Failure.REFUSED), ""))
    return ArchiveError(f"DICOMweb: {what} (HTTP {status}{hint})", kind, wait)


def seconds_to_wait(header: str | None) -> float:
    """What the header Retry-After asks for, 0 where it asks for nothing that makes sense."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def of_connection(what: str, error: BaseException) -> ArchiveError:
    """The failure that a library of the web tells by an exception of its own, whose text may hold anything.

    Args:
        what: what was not to be had.
        error: of requests or urllib3, or a ValueError of either.
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
    """The failure that a rejected association tells (PS3.8, table 9-21).

    Args:
        result: 1 for good, 2 for now.
        source: 1 the service user, 2 and 3 the service provider.
        reason: among those of the source.
        title: the archive's AE title.
        own: ours.
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


# By status (PS3.7 annex C, PS3.4 annexes B and C); what is not here is a bad answer about one study.
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
    """The failure that the status of a DIMSE service, or a FailureReason of DICOMweb, tells.

    Args:
        what: what was not to be had, with the language that it was asked for in.
        status: None where no answer came.
    """
    if status is None:
        return ArchiveError(f"{what} (the connection broke)")
    if status & 0xFF00 == 0xA900:  # it does not match the SOP class, and never will
        return ArchiveError(f"{what} (status {status:#06x})", Failure.IMPOSSIBLE)
    kind, hint = _STATUS.get(status, (Failure.DAMAGED, ""))
    return ArchiveError(f"{what} (status {status:#06x}{hint})", kind)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that stand behind it, by whatever way: requests wraps those of urllib3 as arguments."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, *one.args, getattr(one, "reason", None)]
