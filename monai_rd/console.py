"""Shared parts of the commands: arguments passed on to a bundle, and a terminal that prints text literally.

Brackets, colons and escape characters in a name or a path are shown and not interpreted.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from monai_rd.text import printable

__all__ = ["Words", "terminal"]

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
