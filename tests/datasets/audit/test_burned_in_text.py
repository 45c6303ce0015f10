"""Text in the pixels."""

from __future__ import annotations

from PIL import ImageDraw, ImageFont

from tests.datasets.audit.spoilt import Lists, drawn, found, places


def test_text_in_the_pixels(lists: Lists) -> None:
    image = drawn(77, 192)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 192, 24), 0)
    draw.text((6, 4), "L 12:04 KV 120", 255, ImageFont.load_default(16))
    lists.add(image, "test", 0)
    (finding,) = found(lists.audit(), "BURNED_IN_TEXT")
    assert places(finding) == {("test", 8)}
