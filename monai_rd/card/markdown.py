"""Markdown of texts that others wrote: names of classes, groups and files show as they are and break nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from monai_rd.text import printable

__all__ = ["code", "literal", "measured", "table"]

_SPECIAL = re.compile(r"([\\`*_\[\]|~$#])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def literal(text: Any) -> str:
    """Return Markdown that shows a text as it is, on one line.

    Example:
        >>> from monai_rd.card.markdown import literal
        >>> literal("R&D <b>")
        'R&amp;D &lt;b&gt;'
    """
    shown = re.sub("[&<>]", lambda found: _HTML[found[0]], printable(" ".join(str(text).split())))
    return _SPECIAL.sub(r"\\\1", shown)


def code(text: str) -> str:
    """Return a hash or another word without spaces or backticks as code; "none" if it is empty."""
    return f"`{text}`" if text else "none"


def measured(metric: Mapping[str, Any] | None) -> str:
    """Return a metric with its 95 % interval, "-" for none; one without an interval has its n in the same row."""
    if metric is None:
        return "-"
    interval = metric.get("interval")
    return f"{metric['value']:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown, see `literal`."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
