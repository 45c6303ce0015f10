"""What the commands share: words for a bundle, and the terminal, for which text is text.

Brackets, colons and escapes in a name or a path are shown, not obeyed.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from monai_rd.text import printable

__all__ = ["Words", "terminal"]

# An argument of its own, not what is left over: so an unknown option is refused, and the nearest one is named.
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- --ID VALUE", help="After --: words for the bundle, such as --image_size 128."),
]


class _Plain(Console):
    """Takes no text for markup or emoji, and shows control characters by their codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make what is printed of a text, in a table too."""
        return super().render_str(printable(text), **options)


def terminal(width: int = 140) -> Console:
    """Return the terminal; style is what `rich.text.Text` says.

    Args:
        width: columns of a file or a pipe, for which rich assumes 80 and breaks words.
    """
    found = _Plain()
    return found if found.is_terminal or "COLUMNS" in os.environ else _Plain(width=width)
