"""The log of an application that a hospital runs: what this package says, and of what others say no word."""

from __future__ import annotations

import logging
import re

__all__ = ["keep_log_to_ourselves"]

_UID = re.compile(r"\b\d+(?:\.\d+){5,}\b")


def keep_log_to_ourselves() -> None:
    """Let the handlers have what this package says, without UIDs, and of others' errors only where they are.

    Other packages log paths, UIDs, descriptions and whole headers, and warn of them. Which of them do is nothing to
    rely on, so none is let through; of an error of theirs the line of the code is told. Call it when the handlers are
    made.
    """
    logging.captureWarnings(True)
    known = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    for logger in (logging.root, *known):
        for handler in logger.handlers:
            handler.addFilter(_harmless)


def _harmless(record: logging.LogRecord) -> bool:
    """Whether a record may be shown; what may name somebody is taken out of it."""
    if record.name.partition(".")[0] == "monai_rd":
        record.msg = _UID.sub("(UID)", record.getMessage())
    elif record.levelno >= logging.ERROR:
        record.msg = f"an error at {record.filename}, line {record.lineno}; its text may name somebody and is left out"
    else:
        return False
    record.args = ()
    record.exc_info = record.exc_text = record.stack_info = None
    return True
