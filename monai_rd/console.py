"""Shared parts of the commands: arguments for a bundle, logging, errors, and a terminal that prints text literally.

Brackets, colons and escape characters in a name or a path are shown and not interpreted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from monai_rd.files import error_text, no_room
from monai_rd.streams import make_streams_robust
from monai_rd.text import printable, system_message

__all__ = ["Words", "message_of", "start_logging", "terminal"]

# A separate argument instead of "all remaining words", so that unknown options are refused with a suggestion.
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- --ID VALUE", help="After --: words for the bundle, such as --image_size 128."),
]


class _Plain(Console):
    """A rich console that interprets neither markup nor emoji and shows control characters as escape codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a text, also inside a table, with control characters as escape codes."""
        return super().render_str(printable(text), **options)


def terminal(width: int = 140) -> Console:
    """Return the console for output; use `rich.text.Text` for styled text.

    Args:
        width: number of columns if output goes to a file or a pipe, where rich would assume 80 and break words.
    """
    found = _Plain()
    return found if found.is_terminal or "COLUMNS" in os.environ else _Plain(width=width)


def start_logging() -> None:
    """Send what is logged to stderr, and make the streams take any text."""
    make_streams_robust()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("highdicom").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # its messages contain addresses


def message_of(error: BaseException, words: Sequence[str]) -> str | None:
    """Format an error of a command for its user, who typed these words; None if it is not the user's but a fault.

    The user's are ValueError, OSError, and whatever a full disk led to.
    The path of a file in a system error is cut to the part that the user typed; names below it may be of patients.

    Example:
        >>> from monai_rd.console import message_of
        >>> message_of(ValueError("--workers 0: give at least one"), ["predict"])
        '--workers 0: give at least one'
        >>> print(message_of(KeyError("student"), ["predict"]))
        None
    """
    if not isinstance(error, (ValueError, OSError)) and not no_room(error):
        return None
    if not isinstance(error, OSError) or error.errno is None or error.filename is None or no_room(error):
        return error_text(error)
    file = os.path.abspath(os.fsdecode(error.filename))
    typed = [part for word in words for part in {word, word.partition("=")[2]} if part]
    known = [part for part in typed if Path(file).is_relative_to(os.path.abspath(part))]
    if not known:
        return f"{system_message(error)}: a file or folder below none of the paths typed"
    nearest = max(known, key=lambda part: len(os.path.abspath(part)))
    where = nearest if os.path.abspath(nearest) == file else f"something below {nearest}"
    return f"{system_message(error)}: {where}"
