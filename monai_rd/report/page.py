"""A report as one HTML file: its style and its figures inside, nothing fetched from anywhere, no script.

It follows the reader's light or dark setting, fits a phone and a screen, and prints in black on white. Everything that
is text is escaped here; only `figure`, `table` and their like make markup.
"""

from __future__ import annotations

import io
import os
import re
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
from PIL import Image

from monai_rd.files import atomic_write
from monai_rd.report.figures import COLOURS, THEME

__all__ = ["Section", "alert", "cards", "figure_block", "note", "picture", "row", "table", "write_page"]

STYLE_SHEET = """
:root { color-scheme: light dark; --ink: #1c2430; --muted: #5b6573; --grid: #dfe3e8; --paper: #ffffff; --back: #f4f6f8;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #e69f00; --c5: #56b4e9;
  --accent: var(--c0); --alert: #b3261e; --alert-back: #fdecea;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --muted: #9aa5b4; --grid: #343c48; --paper: #1a1f27;
  --back: #12161c; --c0: #4fa8de; --c1: #f0813a; --c2: #2fc39a; --c3: #e39ac5; --c4: #f0b429; --c5: #a3d8f7;
  --alert: #ffb4ab; --alert-back: #3b1715; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 var(--font); }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 1.15rem; margin: 0 0 14px; }
h3 { font-size: 0.95rem; margin: 0; }
p { margin: 0 0 10px; max-width: 74ch; }
.subtitle { color: var(--muted); margin-bottom: 20px; }
section { background: var(--paper); border: 1px solid var(--grid); border-radius: 10px; padding: 20px 22px 22px;
  margin: 18px 0; }
.note { color: var(--muted); font-size: 0.92rem; border-left: 3px solid var(--grid); padding-left: 12px;
  margin-top: 12px; }
.note p { margin: 0 0 4px; max-width: 100ch; }
.alert { background: var(--alert-back); color: var(--alert); border: 1px solid var(--alert); border-radius: 10px;
  padding: 12px 18px; font-weight: 600; max-width: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px; margin-bottom: 18px; }
.card { border: 1px solid var(--grid); border-radius: 8px; padding: 12px 14px; }
.card b { display: block; font-size: 1.75rem; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.card span { color: var(--muted); font-size: 0.88rem; display: block; }
.scroll { overflow-x: auto; margin: 0 0 12px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.94rem; }
th, td { text-align: right; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--grid); vertical-align: top;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--muted); font-weight: 600; }
table.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.settings td:first-child { color: var(--muted); white-space: nowrap; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); gap: 22px;
  align-items: start; }
figure { margin: 0 0 8px; min-width: 0; }
figure svg { stroke-linejoin: round; display: block; height: auto; max-width: 100%; }
figure.wide svg { min-width: 620px; }
figcaption { color: var(--muted); font-size: 0.9rem; margin-top: 6px; max-width: 74ch; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(230px, 100%), 1fr)); gap: 14px; }
.item { border: 1px solid var(--grid); border-radius: 8px; padding: 12px; break-inside: avoid; }
.item .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; margin-bottom: 8px; }
.item img { width: 100%; display: block; border-radius: 4px; background: #000; }
.item p { font-size: 0.9rem; margin: 0 0 6px; }
.wrong { color: var(--alert); font-weight: 600; }
.bars { display: grid; grid-template-columns: minmax(0, auto) minmax(4.5em, 1fr) auto; gap: 2px 8px;
  align-items: center; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
.bars span:nth-child(3n + 1) { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; max-width: 9em; }
.bar { background: var(--grid); border-radius: 3px; height: 8px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
.slices { display: flex; align-items: flex-end; gap: 2px; height: 40px; margin: 8px 0 2px; border-bottom: 1px solid
  var(--muted); }
.slices i { flex: 1; max-width: 44px; background: var(--accent); opacity: 0.45; min-height: 1px;
  border-radius: 2px 2px 0 0; }
.slices i.shown { opacity: 1; }
.small, .item p.small { color: var(--muted); font-size: 0.82rem; }
footer { color: var(--muted); font-size: 0.85rem; margin-top: 22px; }
@media (max-width: 560px) { main { padding: 16px 10px 32px; } section { padding: 16px 14px; }
  h1 { font-size: 1.4rem; } }
@media print { :root { --ink: #000; --muted: #444; --grid: #ccc; --paper: #fff; --back: #fff;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #e69f00; --c5: #56b4e9;
  --alert: #8c1d18; --alert-back: #fff; } body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
  section { border: 0; padding: 0; margin: 14pt 0; } figure, .card, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .scroll, figure { overflow: visible; } figure.wide svg { min-width: 0; }
  th, td { white-space: normal; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<header>
<h1>$title</h1>
<p class="subtitle">$subtitle</p>
$alerts
</header>
$sections
<footer>$footer</footer>
</main>
</body>
</html>
""")


class Section(NamedTuple):
    """A part of a page.

    Args:
        title: plain text.
        body: markup, as the functions of this module make it.
    """

    title: str
    body: Sequence[str]


def write_page(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    subtitle: str = "",
    alerts: Sequence[str] = (),
    footer: str = "",
) -> None:
    """Write a page, as a whole or not at all.

    Args:
        path: of the file.
        title: plain text, as are subtitle, alerts and footer.
        sections: from the top down.
        subtitle: below the title.
        alerts: in red below that.
        footer: at the end.
    """
    parts = [f"<section>\n<h2>{escape(one.title)}</h2>\n{''.join(one.body)}\n</section>" for one in sections]
    page = PAGE.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        alerts="\n".join(alert(text) for text in alerts),
        style=STYLE_SHEET,
        sections="\n".join(parts),
        footer=escape(footer),
    )
    atomic_write(page, Path(path))


def alert(text: str) -> str:
    """Text in red."""
    return f'<p class="alert" role="alert">{escape(text)}</p>\n'


def note(*sentences: str) -> str:
    """How to read what stands above it."""
    return '<div class="note">' + "".join(f"<p>{escape(one)}</p>" for one in sentences) + "</div>\n"


def row(*blocks: str) -> str:
    """Blocks beside one another where there is room."""
    return f'<div class="row">{"".join(f"<div>{block}</div>" for block in blocks)}</div>\n'


def cards(numbers: Sequence[tuple[str, str, str]]) -> str:
    """Large numbers: (number, what it is, its interval)."""
    found = [
        f'<div class="card"><b>{escape(number)}</b><span>{escape(name)}</span><span>{escape(interval)}</span></div>'
        for number, name, interval in numbers
    ]
    return f'<div class="cards">{"".join(found)}</div>\n'


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), kind: str = "") -> str:
    """A table of texts; of the kind "settings" name and value."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n" for cells in rows)
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="scroll"><table class="{escape(kind)}">{head}<tbody>{body}</tbody></table></div>\n'


def figure_block(svg: str, name: str, told: str, wide: bool = False) -> str:
    """A figure in the page's font and colours.

    Args:
        svg: what `save_figure` wrote.
        name: unlike that of any other figure of the page.
        told: what it shows, for the caption and for those who cannot see it.
        wide: scrolls on a narrow screen, so that its text stays readable.
    """
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    width = round(float(box[1].split()[2]) * 4 / 3)  # points to pixels
    body = svg[svg.index(">", box.end()) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    for colour, value in {**THEME, **{f"c{index}": value for index, value in enumerate(COLOURS)}}.items():
        body = body.replace(value, f"var(--{colour})")
    body = re.sub(r'font-family: [^;"]*', "font-family: var(--font)", body)
    body = re.sub(r"(font: [^;'\"]*?px)[^;\"]*", r"\1 var(--font)", body)  # as older matplotlib writes it
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", body)  # ids are of the whole page
    head = f'<svg viewBox="{box[1]}" style="width: {width}px" role="img" aria-label="{escape(told)}">'
    kind = ' class="scroll wide"' if wide else ""
    return f"<figure{kind}>{head}{body}<figcaption>{escape(told)}</figcaption></figure>\n"


def picture(pixels: np.ndarray, told: str) -> str:
    """A small picture inside the page: at most 320 pixels a side.

    Args:
        pixels: uint8 `[H, W, 3]`.
        told: for those who cannot see it.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((320, 320), Image.Resampling.LANCZOS)
    kind, options = ("png", {"optimize": True}) if max(image.size) <= 128 else ("jpeg", {"quality": 88})
    with io.BytesIO() as data:
        image.save(data, format=kind, **options)
        code = b64encode(data.getvalue()).decode()
    return f'<img src="data:image/{kind};base64,{code}" alt="{escape(told)}">'
