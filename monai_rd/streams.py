"""A console that cannot show a character, or is gone, ends no training and no command."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import Any

__all__ = ["make_streams_robust", "robust_stream"]


class _RobustStream:
    """A stream that goes on where nobody can or will read it any more; in all else the one that it stands for."""

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
        """Let what is still held, and what others write to the same place, go nowhere: it would fail at the end."""
        self._gone = True
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


def robust_stream(stream: Any) -> Any:
    """Give a stream that shows what its encoding lacks by its code, and outlives its reader.

    The end of `| head`, a terminal that is closed and a full disk are the end of what is shown, not of the work.
    """
    if isinstance(stream, _RobustStream) or stream is None:
        return stream
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return _RobustStream(stream)


def make_streams_robust() -> None:
    """Make the streams of this process so, and those of the log; what a host (a notebook, a server) put there stays."""
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        if old is None or old is not getattr(sys, f"__{name}__"):
            continue
        setattr(sys, name, new := robust_stream(old))
        for logger in (logging.root, *logging.root.manager.loggerDict.values()):
            for handler in getattr(logger, "handlers", ()):
                if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                    handler.setStream(new)
