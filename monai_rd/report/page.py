"""A report as a self-contained HTML file: style and figures embedded, nothing fetched from the network, no scripts.

The page follows the reader's light or dark setting, fits phones and large screens, and prints in black on white. Its
layout is in `templates/`: Jinja2 escapes everything there that is not `Markup`, which only the functions here create.
"""

from __future__ import annotations

import io
import os
import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from monai_rd.files import atomic_write
from monai_rd.report.style import COLOURS, THEME

__all__ = [
    "Section",
    "alert",
    "cards",
    "figure_block",
    "note",
    "part",
    "picture",
    "row",
    "style_sheet",
    "table",
    "write_page",
]

_TEMPLATES = Environment(
    loader=PackageLoader("monai_rd.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


class Section(NamedTuple):
    """A section of a page.

    Args:
        title: plain text.
        body: blocks made by the functions of this module; other text is escaped.

    Example:
        >>> from monai_rd.report import Section, write_page
        >>> from monai_rd.report.page import table
        >>> write_page("page.html", "Results", [Section("Accuracy", [table([["resnet18", "0.91"]])])])
        >>> with open("page.html") as file:
        ...     "resnet18" in file.read()
        True
    """

    title: str
    body: Sequence[Markup]


def write_page(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    subtitle: str = "",
    alerts: Sequence[str] = (),
    footer: str = "",
) -> None:
    """Write a page atomically.

    Args:
        path: the HTML file to write.
        title: title, plain text like subtitle, alerts and footer.
        sections: the sections, from the top down.
        subtitle: text below the title.
        alerts: texts in red below the subtitle.
        footer: text at the end.
    """
    page = _TEMPLATES.get_template("page.html").render(
        title=title, subtitle=subtitle, alerts=alerts, sections=sections, footer=footer
    )
    atomic_write(page, Path(path))


def part(name: str, **values: Any) -> Markup:
    """Render a macro of `templates/parts.html` with these values; texts are escaped."""
    return Markup(getattr(_TEMPLATES.get_template("parts.html").module, name)(**values))


def style_sheet() -> str:
    """The style of the pages, as CSS."""
    return _TEMPLATES.get_template("style.css").render()


def alert(text: str) -> Markup:
    """Text in red."""
    return part("alert", text=text)


def note(*sentences: str) -> Markup:
    """An explanation of how to read the block above."""
    return part("note", sentences=sentences)


def row(*blocks: Markup) -> Markup:
    """Blocks side by side where there is room."""
    return part("row", blocks=blocks)


def cards(numbers: Sequence[tuple[str, str, str]]) -> Markup:
    """Cards with large numbers, each (number, name, interval)."""
    return part("cards", numbers=numbers)


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), kind: str = "") -> Markup:
    """A table of texts; the kind "settings" is for pairs of name and value."""
    return part("table", rows=rows, header=header, kind=kind)


def figure_block(svg: str, name: str, caption: str, wide: bool = False) -> Markup:
    """A figure in the page's font and colours.

    Args:
        svg: the SVG text that `save_figure` wrote.
        name: a name that is unique on the page.
        caption: what it shows, for the caption and the alternative text.
        wide: whether it scrolls on a narrow screen, so that its text stays readable.
    """
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    width = round(float(box[1].split()[2]) * 4 / 3)  # points to pixels
    body = svg[svg.index(">", box.end()) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    for colour, value in {**THEME, **{f"c{index}": value for index, value in enumerate(COLOURS)}}.items():
        body = body.replace(value, f"var(--{colour})")
    body = re.sub(r'font-family: [^;"]*', "font-family: var(--font)", body)
    body = re.sub(r"(font: [^;'\"]*?px)[^;\"]*", r"\1 var(--font)", body)  # written by older matplotlib
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", body)  # IDs must be unique on the page
    return part("figure", body=Markup(body), box=box[1], width=width, caption=caption, wide=wide)


def picture(pixels: np.ndarray, caption: str) -> Markup:
    """A small picture embedded in the page, at most 320 pixels per side.

    Args:
        pixels: RGB, uint8 `[H, W, 3]`.
        caption: the alternative text.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((320, 320), Image.Resampling.LANCZOS)
    kind, options = ("png", {"optimize": True}) if max(image.size) <= 128 else ("jpeg", {"quality": 88})
    with io.BytesIO() as data:
        image.save(data, format=kind, **options)
        code = b64encode(data.getvalue()).decode()
    return part("picture", source=f"data:image/{kind};base64,{code}", caption=caption)
