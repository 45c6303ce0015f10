"""Warnings of pydicom about headers, logged once per run and kind in words that quote nothing of the header.

pydicom and highdicom quote the value they warn about, in Python warnings and in pydicom's log, for every file. Such a
value may be a person's name: an invalid UID, date or age is often text that somebody typed.
"""

from __future__ import annotations

import logging
import multiprocessing
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["log_kinds", "log_warnings_once", "take_warnings"]

logger = logging.getLogger(__name__)

# Patterns of pydicom's messages, and the text that is logged instead; the first match counts.
_KINDS = (
    (r"end of file|unexpected end|before delimiter|fewer frames", "a file that ends too early"),
    (
        r"encoding|character set|code extension|escape sequence|failed to decode",
        "a character set that is unknown or does not fit its text",
    ),
    (r"explicit VR|implicit VR|VR lookup|unknown DICOM tag|VR to 'UN'|private", "an element of unknown type (VR)"),
    (r"invalid|exceed|not valid|must be|cannot be|doesn't allow", "a value that its type (VR) does not allow"),
)
_OTHER = "something that the standard does not allow"
# pydicom's loggers; each needs a filter, as filters do not apply to records of child loggers.
_LOGGERS = ("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.encoders.base", "pydicom.pixels.utils")
_QUOTING = re.compile(r"[\\/](pydicom|highdicom)[\\/]")

_lock = threading.Lock()
_inside = 0
_before = warnings.catch_warnings()
_found: set[str] = set()
_logged: set[str] = set()


class _SuppressAll(logging.Filter):
    """A filter that suppresses every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False


_SUPPRESS_ALL = _SuppressAll()


@contextmanager
def log_warnings_once(*, log: bool = True) -> Iterator[None]:
    """Collect pydicom's warnings about files read in this context; each kind of warning is logged once per run.

    Several threads may be inside at once: the process-wide changes are undone when the last one leaves.

    Args:
        log: log the kinds when the last thread leaves. With False the caller gets them by `take_warnings`, for example
            in a worker process.
    """
    global _inside, _before
    with _lock:
        _inside += 1
        if _inside == 1:
            _before = warnings.catch_warnings()
            _before.__enter__()
            _listen()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            last = _inside == 0
            if last:
                _before.__exit__(None, None, None)
                for name in _LOGGERS:
                    logging.getLogger(name).removeFilter(_SUPPRESS_ALL)
        # The parent of a data-loading process has read the same headers and logged their warnings.
        if last and log and multiprocessing.parent_process() is None:
            log_kinds(take_warnings())


def _listen() -> None:
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any, **named: Any) -> None:
        if not _QUOTING.search(filename) or issubclass(category, DeprecationWarning | FutureWarning):
            shown(message, category, filename, *rest, **named)
            return
        words = (kind for like, kind in _KINDS if re.search(like, str(message), re.IGNORECASE))
        _found.add(next(words, _OTHER))

    warnings.filterwarnings("always", module=r"(pydicom|highdicom)(\.|$)")
    warnings.showwarning = show
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_SUPPRESS_ALL)


def take_warnings() -> set[str]:
    """Return the kinds of warnings collected in this process since the last call."""
    found = set(_found)
    _found.difference_update(found)
    return found


def log_kinds(kinds: Iterable[str]) -> None:
    """Log each kind of warning that this process has not logged before."""
    for kind in sorted(set(kinds) - _logged):
        _logged.add(kind)
        logger.warning("DICOM headers hold %s: read as far as it can be; values are not shown", kind)
