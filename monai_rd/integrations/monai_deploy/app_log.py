"""The log of a deployed application: the messages of this package only, none of other packages."""

from __future__ import annotations

import logging
import re

__all__ = ["keep_log_to_ourselves"]

_UID = re.compile(r"\b\d+(?:\.\d+){5,}\b")


def keep_log_to_ourselves() -> None:
    """Filter the log: this package's messages without UIDs, and only the code location of other packages' errors.

    Other packages log paths, UIDs, descriptions and whole headers. Which of them do may change at any time, so no
    message of theirs is passed on; of an error only the line of code is logged. Call this after the handlers are
    created.
    """
    logging.captureWarnings(True)
    known = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    for logger in (logging.root, *known):
        for handler in logger.handlers:
            handler.addFilter(_harmless)


def _harmless(record: logging.LogRecord) -> bool:
    """Whether a record may be shown; removes from it what may identify a person."""
    if record.name.partition(".")[0] == "monai_rd":
        record.msg = _UID.sub("(UID)", record.getMessage())
    elif record.levelno >= logging.ERROR:
        record.msg = f"an error at {record.filename}, line {record.lineno}; its text may name somebody and is left out"
    else:
        return False
    record.args = ()
    record.exc_info = record.exc_text = record.stack_info = None
    return True
