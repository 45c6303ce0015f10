"""Output streams that survive a console which cannot show a character or has been closed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import Any

__all__ = ["make_streams_robust", "robust_stream"]


class _RobustStream:
    """Wrap a stream and ignore writes once they fail, for example because the reader has gone."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._gone = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if not self._gone:
            try:
                self._stream.write(text)
            except OSError:
                self._give_up()
        return len(text)

    def flush(self) -> None:
        if not self._gone:
            try:
                self._stream.flush()
            except OSError:
                self._give_up()

    def _give_up(self) -> None:
        """Redirect the file descriptor to the null device: flushing buffered text at exit would fail otherwise."""
        self._gone = True
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


def robust_stream(stream: Any) -> Any:
    """Return a stream that escapes characters missing in its encoding and ignores write errors.

    If the reader (such as `| head`) ends, the terminal is closed or the disk is full, output stops but the work goes
    on.
    """
    if isinstance(stream, _RobustStream) or stream is None:
        return stream
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return _RobustStream(stream)


def make_streams_robust() -> None:
    """Make stdout, stderr and log handlers that write to them robust; streams of a host, such as a notebook, stay."""
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        if old is None or old is not getattr(sys, f"__{name}__"):
            continue
        setattr(sys, name, new := robust_stream(old))
        for logger in (logging.root, *logging.root.manager.loggerDict.values()):
            for handler in getattr(logger, "handlers", ()):
                if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                    handler.setStream(new)
