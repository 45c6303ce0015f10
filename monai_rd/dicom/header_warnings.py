"""What pydicom finds odd in a header is said once a run and kind, in words that hold nothing of the header.

pydicom, and highdicom above it, quote the value they complain of, in Python's warnings and in the log of "pydicom", at
every file. A value may be a name: a UID, a date or an age that is none is something that somebody typed.
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

# How a message of pydicom's looks, and what is said instead; the first that fits.
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
# pydicom's own; a filter does not see what the loggers below its own pass on.
_LOGGERS = ("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.encoders.base", "pydicom.pixels.utils")
_QUOTING = re.compile(r"[\\/](pydicom|highdicom)[\\/]")

_lock = threading.Lock()
_inside = 0
_before = warnings.catch_warnings()
_found: set[str] = set()
_told: set[str] = set()


class _Take(logging.Filter):
    """Lets nothing through."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False


_TAKE = _Take()


@contextmanager
def log_warnings_once(*, log: bool = True) -> Iterator[None]:
    """Keep what pydicom says of the files that are read within; each kind of it is logged once in a run.

    Threads may overlap: what is changed for the process stays so until the last one leaves.

    Args:
        log: when the last one leaves; False leaves that to the caller of `take_warnings`, as in a process of a pool.
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
                    logging.getLogger(name).removeFilter(_TAKE)
        # A loader's process has a parent that has read the same headers, and said it.
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
        logging.getLogger(name).addFilter(_TAKE)


def take_warnings() -> set[str]:
    """Return the kinds found in this process since the last call."""
    found = set(_found)
    _found.difference_update(found)
    return found


def log_kinds(kinds: Iterable[str]) -> None:
    """Log each kind that this process has not logged before."""
    for kind in sorted(set(kinds) - _told):
        _told.add(kind)
        logger.warning("DICOM headers hold %s: read as far as it can be; values are not shown", kind)
