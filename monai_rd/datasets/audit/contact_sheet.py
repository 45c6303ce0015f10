"""The contact sheet of an audit: its suspicious pairs as one picture, for a person to judge."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from monai_rd.datasets.audit.findings import AuditItem, Finding, SuspiciousPair
from monai_rd.files import atomic_path

__all__ = ["write_contact_sheet"]

BACKGROUND, CARD, INK, MUTED = "#eceff3", "#ffffff", "#1c2430", "#66707f"
COLOURS = {"LABEL_CONFLICT": "#b3261e", "EXACT_DUPLICATE": "#b25e00", "NEAR_DUPLICATE": "#1f5fa8"}
PICTURE, GAP, MARGIN, HEAD, FOOT, COLUMNS = 280, 8, 20, 38, 58, 2
CARD_WIDTH, CARD_HEIGHT = 2 * PICTURE + 3 * GAP, HEAD + PICTURE + FOOT


def write_contact_sheet(pairs: Sequence[SuspiciousPair], path: str | os.PathLike[str]) -> None:
    """Write a PNG with one card for each pair: kind, similarity, and both pictures with their split, label and ID.

    Args:
        pairs: the pairs of `AuditReport.pairs`, the worst first.
        path: the PNG file to write.
    """
    shown = list(pairs)
    lines = max(1, -(-len(shown) // COLUMNS))
    width = COLUMNS * (CARD_WIDTH + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, lines * (CARD_HEIGHT + MARGIN) + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if not shown:
        draw.text((width // 2, sheet.height // 2), "No suspicious pairs.", MUTED, ImageFont.load_default(18), "mm")
    for number, pair in enumerate(shown):
        line, column = divmod(number, COLUMNS)
        left, top = MARGIN + column * (CARD_WIDTH + MARGIN), MARGIN + line * (CARD_HEIGHT + MARGIN)
        draw.rounded_rectangle((left, top, left + CARD_WIDTH, top + CARD_HEIGHT), 8, CARD)
        _title(draw, pair.finding, left, top)
        for side, (item, picture) in enumerate(zip(pair.finding.items, pair.pictures, strict=False)):
            _half(sheet, draw, item, Image.fromarray(picture), left + GAP + side * (PICTURE + GAP), top + HEAD)
    with atomic_path(Path(path)) as beside:
        sheet.save(beside, format="PNG")


def _title(draw: ImageDraw.ImageDraw, finding: Finding, left: int, top: int) -> None:
    kind = finding.kind.replace("_", " ")
    similarity = "equal pixels" if finding.similarity == 1 else f"correlation {finding.similarity:.3f}"
    more = f", {len(finding.items)} copies" if len(finding.items) > 2 else ""
    middle = top + HEAD // 2
    draw.text((left + GAP + 4, middle), kind, COLOURS[finding.kind], ImageFont.load_default(17), "lm")
    draw.text((left + CARD_WIDTH - GAP - 4, middle), similarity + more, MUTED, ImageFont.load_default(15), "rm")


def _half(sheet: Image.Image, draw: ImageDraw.ImageDraw, item: AuditItem, picture: Image.Image, x: int, y: int) -> None:
    """Draw one picture centred in its black square, with its description below."""
    draw.rectangle((x, y, x + PICTURE, y + PICTURE), "#000000")
    scale = PICTURE / max(picture.size)
    fitted = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    sheet.paste(fitted, (x + (PICTURE - fitted.width) // 2, y + (PICTURE - fitted.height) // 2))
    text = "  ".join(filter(None, (f"{item.split}[{item.index}]", item.role, item.label)))
    draw.text((x + 4, y + PICTURE + 8), _fitting(draw, text, 16), INK, ImageFont.load_default(16))
    draw.text((x + 4, y + PICTURE + 32), _fitting(draw, item.id, 13), MUTED, ImageFont.load_default(13))


def _fitting(draw: ImageDraw.ImageDraw, text: str, size: int) -> str:
    """Shorten a text in its middle where it is too long: the series of a study differ at the end of their UIDs."""
    font, kept = ImageFont.load_default(size), len(text)
    shown = text
    while draw.textlength(shown, font) > PICTURE - 8:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}"
    return shown
