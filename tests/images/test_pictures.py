"""Pictures are read as a screen shows them: palettes, orientation, transparency, colours."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from monai_rd.errors import UnreadableImageError
from monai_rd.images import read_image
from tests.images.image_files import PATIENT, image_bytes, picture, refusal, saved


def indexed(colours: Image.Image, transparent: bool = False) -> Image.Image:
    """With its palette in reverse order of brightness, so that indices are nothing like it."""
    image = colours.quantize(8)
    palette = np.reshape(image.getpalette(), (-1, 3))
    used = np.unique(np.asarray(image))
    order = used[np.argsort(palette[used].sum(1))[::-1]]
    place = np.zeros(256, np.uint8)
    place[order] = np.arange(len(order))
    made = Image.fromarray(place[np.asarray(image)], mode="P")
    made.putpalette(palette[order].ravel().tolist())
    if transparent:
        made.info["transparency"] = 0
    return made


# How a picture is turned to be stored with an Exif orientation (CIPA DC-008, tag 0x0112).
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def shown(content: bytes, suffix: str, folder: Path) -> np.ndarray:
    """As `[Y, X, C]`, as it stands on a screen."""
    return read_image(saved(content, suffix, folder)).values.transpose(2, 1, 0)


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif")])
def test_a_palette_is_looked_up(kind: str, suffix: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        shown(image_bytes(indexed(picture()), format=kind), suffix, tmp_path), np.asarray(picture())
    )
    grey = shown(image_bytes(indexed(picture("L").convert("RGB")), format=kind), suffix, tmp_path)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(picture("L")))
    assert grey.shape[-1] == 1


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_grey_levels_fill_the_range(bits: int, tmp_path: Path) -> None:
    levels = np.arange(24, dtype=np.uint8).reshape(3, 8) % 2**bits
    grey = Image.fromarray(levels, mode="P")
    grey.putpalette([value for level in range(2**bits) for value in [255 * level // (2**bits - 1)] * 3])
    found = shown(image_bytes(grey, format="PNG", bits=bits), ".png", tmp_path)
    np.testing.assert_array_equal(found[..., 0], levels * (255 // (2**bits - 1)))
    bilevel = shown(image_bytes(picture("L").convert("1"), format="TIFF"), ".tif", tmp_path)
    assert set(np.unique(bilevel)) == {0, 255}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("TIFF", ".tif")])
def test_a_picture_stands_upright(kind: str, suffix: str, orientation: int, tmp_path: Path) -> None:
    upright = picture()
    stored = upright.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} if kind != "TIFF" else {"tiffinfo": {0x0112: orientation}}
    found = shown(image_bytes(stored, format=kind, **options), suffix, tmp_path)
    assert found.shape == (24, 40, 3)
    assert np.abs(found - np.asarray(upright)).mean() < (8 if kind == "JPEG" else 1e-9)


def test_what_is_transparent_is_white_paper_and_what_is_not_keeps_its_colours(tmp_path: Path) -> None:
    hole = np.zeros((24, 40), bool)
    hole[2:9, 3:30] = True
    for mode in ("L", "RGB"):
        opaque, holed = picture(mode), picture(mode)
        opaque.putalpha(255)
        holed.putalpha(Image.fromarray(np.where(hole, 0, 255).astype(np.uint8)))
        plain = np.asarray(picture(mode)).reshape(24, 40, -1)
        for suffix, kind in ((".png", "PNG"), (".tif", "TIFF")):
            np.testing.assert_array_equal(shown(image_bytes(opaque, format=kind), suffix, tmp_path), plain)
            np.testing.assert_array_equal(
                shown(image_bytes(holed, format=kind), suffix, tmp_path), np.where(hole[..., None], 255, plain)
            )
    extra = b"\x52\1\3\0\1\0\0\0"  # TIFF's ExtraSamples: 2 is alpha, 1 one by which the others are weighted already
    for mode in ("LA", "RGBA") if int(PIL.__version__.split(".")[0]) >= 13 else ("RGBA",):  # older ones read no such LA
        weighted = image_bytes(holed.convert(mode), format="TIFF").replace(extra + b"\2", extra + b"\1")
        assert weighted != image_bytes(holed.convert(mode), format="TIFF")
        assert (shown(weighted, ".tif", tmp_path)[5, 10] == 255).all()
    first = np.asarray(indexed(picture()))[..., None] == 0
    found = shown(image_bytes(indexed(picture(), transparent=True), format="PNG"), ".png", tmp_path)
    np.testing.assert_array_equal(found, np.where(first, 255, np.asarray(picture())))
    keyed = shown(image_bytes(picture("L"), format="PNG", transparency=60), ".png", tmp_path)
    np.testing.assert_array_equal(keyed[8:16], 255)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["1", "L"])
def test_white_is_zero_is_no_negative(mode: str, compression: str | None, tmp_path: Path) -> None:
    image = picture("L").point(lambda value: 255 * (value > 100)).convert(mode)
    content = image_bytes(image, format="TIFF", tiffinfo={262: 0}, compression=compression)
    assert np.asarray(Image.open(io.BytesIO(content)).tag_v2[262]) == 0
    np.testing.assert_array_equal(shown(content, ".tif", tmp_path)[..., 0], np.asarray(image.convert("L")))


def test_cmyk_is_shown_in_rgb(tmp_path: Path) -> None:
    for kind, suffix in (("JPEG", ".jpg"), ("TIFF", ".tif")):
        found = shown(image_bytes(picture().convert("CMYK"), format=kind), suffix, tmp_path)
        assert np.abs(found - np.asarray(picture())).mean() < 8


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_mark_is_whole_and_one_without_its_last_pixels_is_not(
    progressive: bool, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    content = image_bytes(picture(), format="JPEG", progressive=progressive, exif=exif)
    whole = shown(content, ".jpg", tmp_path)
    np.testing.assert_array_equal(shown(content[:-2], ".jpg", tmp_path), whole)
    for cut in (20, 100):
        refusal(saved(content[:-cut], ".jpg", tmp_path), UnreadableImageError, "is damaged or cut off")
        filled = content[:-cut] + bytes(cut)
        refusal(saved(filled, ".jpg", tmp_path), UnreadableImageError, "is damaged or cut off")


def test_of_a_camera_s_jpeg_with_previews_the_picture_is_read(tmp_path: Path) -> None:
    behind = Image.new("RGB", (8, 8))
    content = image_bytes(picture(), format="MPO", save_all=True, append_images=[behind])
    assert shown(content, ".jpg", tmp_path).shape == (24, 40, 3)


@pytest.mark.parametrize(
    ("image", "kind", "said"),
    [
        (Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG", "holds 16-bit values; images must be 8-bit"),
        (Image.fromarray(np.zeros((4, 4), np.uint16)), "TIFF", "holds 16-bit values"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF", "holds floating-point values"),
        (Image.fromarray(np.zeros((4, 4), np.int32)), "TIFF", "holds 32-bit values"),
        (Image.new("LAB", (4, 4)), "TIFF", "holds CIELAB values"),
        (Image.new("L", (4, 4)), "signed TIFF", "holds signed values"),
    ],
)
def test_more_than_a_screen_shows_is_refused(image: Image.Image, kind: str, said: str, tmp_path: Path) -> None:
    suffix, options = ".png" if kind == "PNG" else ".tif", {"tiffinfo": {339: 2}} if kind == "signed TIFF" else {}
    content = image_bytes(image, format=kind.split()[-1], **options)
    refusal(saved(content, suffix, tmp_path), UnreadableImageError, said)


def test_no_tag_of_a_picture_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tags = PngInfo()
    tags.add_text("Description", PATIENT)
    exif = Image.Exif()
    exif[0x010E] = PATIENT
    with caplog.at_level(logging.DEBUG):
        for kind, suffix, options in (
            ("TIFF", ".tif", {"tiffinfo": {270: PATIENT}}),
            ("JPEG", ".jpg", {"exif": exif, "comment": PATIENT}),
            ("PNG", ".png", {"pnginfo": tags, "exif": exif}),
        ):
            shown(image_bytes(picture(), format=kind, **options), suffix, tmp_path)
    assert PATIENT not in caplog.text


def test_several_pages_are_no_picture(tmp_path: Path) -> None:
    others = [picture("L").rotate(angle) for angle in (90, 180)]
    for kind, suffix in (("TIFF", ".tif"), ("PNG", ".png")):
        content = image_bytes(picture("L"), format=kind, save_all=True, append_images=others)
        refusal(saved(content, suffix, tmp_path), UnreadableImageError, "holds 3 pages or frames")
