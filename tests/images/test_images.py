"""Image files of every kind: what is read, as what, and what is refused with a reason and without a name."""

from __future__ import annotations

import gzip
import io
import logging
import os
import pickle
import struct
import traceback
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.data import get_testdata_file

from monai_rd.cache.file_hashes import item_keys
from monai_rd.cache.fingerprints import item_key
from monai_rd.errors import (
    BadGeometryError,
    InvalidValuesError,
    StudyError,
    TooLargeError,
    UnreadableFileError,
    UnreadableImageError,
)
from monai_rd.files import content_hash
from monai_rd.images import read_image, validation

PATIENT = "DOE_JANE_19500101"
AFFINE = nibabel.affines.from_matvec([[-0.7, 0.02, 0.1], [0.03, 0.8, -0.2], [0.1, 0.2, 2.5]], [10, -20, 30])


class Marks:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def voxels(shape: tuple[int, ...] = (5, 4, 3)) -> np.ndarray:
    return np.random.default_rng(1).integers(-1000, 1000, shape).astype(np.int16)


def picture(mode: str = "RGB") -> Image.Image:
    """Broad stripes, so that JPEG keeps them; no symmetry hides a wrong turn."""
    grey = np.zeros((24, 40), np.uint8)
    grey[:8, :16], grey[16:, 24:], grey[8:16] = 250, 120, 60
    colours = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    return Image.fromarray(grey if mode == "L" else colours)


def array_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.npy", array_of(np.zeros(3)))
    return buffer.getvalue()


def image_bytes(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def nifti(array: np.ndarray | None = None, kind: type = nibabel.Nifti1Image, **fields: object) -> bytes:
    """A file of those voxels, with fields of the header set as they are given, valid or not."""
    content = bytearray(kind(voxels() if array is None else array, AFFINE).to_bytes())
    header = kind.header_class(bytes(content[: kind.header_class.sizeof_hdr]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[: header.sizeof_hdr] = header.binaryblock
    return bytes(content)


def refusal(path: Path, kind: type[StudyError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        read_image(path)
    assert type(caught.value) is kind
    assert str(caught.value).startswith("a ." if path.suffix else "a data file")
    assert PATIENT not in "".join(traceback.format_exception(caught.value))


def saved(content: bytes, suffix: str, folder: Path) -> Path:
    path = folder / f"{PATIENT}{suffix}"
    path.write_bytes(content)
    return path


# ------------------------------------------------------------------------------------------------ one reader a kind


def foreign(mark: Path) -> dict[str, bytes]:
    """Content by what is said of it."""
    evil = np.array([Marks(mark)], dtype=object)
    return {
        "NumPy": array_of(evil),
        r"NumPy array \(.npy\)": array_of(np.random.default_rng(0).random((4, 4, 4), np.float32)),
        "zip archive": archive(),
        "pickle": pickle.dumps(Marks(mark)),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "DICOM": Path(get_testdata_file("CT_small.dcm")).read_bytes(),
        "web page": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
        "GIF": image_bytes(picture("L"), format="GIF"),
        "WebP": image_bytes(picture(), format="WEBP"),
        "gzip-compressed": gzip.compress(array_of(evil)),
        "empty file": b"",
        "damaged": b"nothing known",
    }


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".nii", ".nii.gz", ".mha", ".nrrd"])
def test_what_a_file_seems_to_be_counts_and_nothing_else_is_tried(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "ran"
    other = {"NIfTI": nifti()} if suffix in (".png", ".jpg", ".tif") else {"PNG": image_bytes(picture(), format="PNG")}
    with caplog.at_level(logging.DEBUG):
        for said, held in (foreign(mark) | other).items():
            refusal(saved(held, suffix, tmp_path), UnreadableImageError, said)
    assert not mark.exists()
    printed = capfd.readouterr()
    assert PATIENT not in caplog.text + printed.out + printed.err


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("suffix", [".png", ".JPG", ".tiff"])
def test_a_picture_under_the_suffix_of_another_is_read_as_what_it_is(kind: str, suffix: str, tmp_path: Path) -> None:
    image = read_image(saved(image_bytes(picture(), format=kind), suffix, tmp_path))
    np.testing.assert_array_equal(image.values, np.asarray(picture()).transpose(2, 1, 0))
    assert image.intensity == "display"
    np.testing.assert_array_equal(image.affine, np.eye(4))


def test_files_that_are_not_to_be_had_are_refused_without_their_names(tmp_path: Path) -> None:
    (tmp_path / f"{PATIENT}.nii.gz").symlink_to(tmp_path / "gone")
    (tmp_path / f"{PATIENT}.mha").mkdir()
    os.mkfifo(tmp_path / f"{PATIENT}.jpg")
    for suffix in (".png", ".nii.gz", ".mha", ".jpg", ""):
        with pytest.raises(UnreadableFileError) as caught:
            read_image(tmp_path / f"{PATIENT}{suffix}")
        assert PATIENT not in "".join(traceback.format_exception(caught.value))


# ------------------------------------------------------------------------------------------- pictures as they are shown


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
    for mode in ("LA", "RGBA"):
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


# ----------------------------------------------------------------------------------------------------- size


def png_of(width: int, height: int) -> bytes:
    """A PNG that announces a size, with a row of zeros."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(width + 1)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def test_bombs_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    for side in (10_000, 50_000):
        refusal(saved(png_of(side, side), ".png", tmp_path), TooLargeError, "more than 89 million pixels")
    huge = nifti(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    refusal(saved(gzip.compress(huge), ".nii.gz", tmp_path), TooLargeError, "announces 3.52e.13 voxels")
    large = nifti(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])
    refusal(saved(gzip.compress(large), ".nii.gz", tmp_path), UnreadableImageError, "announces 2.0 GB, and there can")
    refusal(saved(nifti(dim=[3, 6, 4, 3, 1, 1, 1, 1]), ".nii", tmp_path), UnreadableImageError, "is cut off")
    endless = saved(gzip.compress(nifti() + bytes(50_000_000)), ".nii.gz", tmp_path)
    np.testing.assert_array_equal(read_image(endless).values[0], voxels())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_an_image_for_which_there_is_no_memory(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = volume(voxels(), suffix, tmp_path)
    monkeypatch.setattr(validation, "available_memory", lambda: 500)
    refusal(path, TooLargeError, "needs 0.6 kB of memory, and 0.5 kB are left")


# -------------------------------------------------------------------------------------------------- volumes


def volume(array: np.ndarray, suffix: str, folder: Path, affine: np.ndarray = AFFINE, compress: bool = False) -> Path:
    """`[X, Y, Z]` in a file of that kind."""
    path = folder / f"{PATIENT}{suffix}"
    if ".nii" in suffix:
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
        return path
    lps = np.diag([-1, -1, 1]) @ affine[:3, :3]
    edges = np.linalg.norm(lps, axis=0)
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(edges.tolist())
    image.SetOrigin((np.diag([-1, -1, 1]) @ affine[:3, 3]).tolist())
    image.SetDirection((lps / edges).ravel().tolist())
    sitk.WriteImage(image, str(path), compress)
    return path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"])
def test_all_volume_formats_give_one_volume(suffix: str, compress: bool, tmp_path: Path) -> None:
    turn = np.linalg.qr(AFFINE[:3, :3])[0] * [0.7, 0.8, 2.5]  # ITK's directions are orthonormal
    affine = nibabel.affines.from_matvec(turn, AFFINE[:3, 3])
    for dtype in (np.int16, np.uint8, np.float32, np.float64):
        array = (voxels() % 200).astype(dtype)
        image = read_image(volume(array, suffix, tmp_path, affine, compress))
        np.testing.assert_array_equal(image.values[0], array)
        np.testing.assert_allclose(image.affine, affine, atol=1e-5)
        assert image.values.dtype == np.float32
        assert image.intensity == "unstated"


ZIPPED = zlib.compress(voxels().tobytes("F"))
META = """ObjectType = Image
NDims = 3
Comment = {patient}
BinaryData = True
BinaryDataByteOrderMSB = False
DimSize = 5 4 3
ElementSpacing = 0.7 0.8 2.5
Offset = 1 2 3
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
NRRD = """NRRD0005
# {patient}
type: short
dimension: 3
sizes: 5 4 3
space: left-posterior-superior
space directions: (0,0.7,0) (0.8,0,0) (0,0,2.5)
space origin: (1,2,3)
endian: little
encoding: raw
patient:={patient}

"""


def by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values `[X, Y, Z]` and the affine in RAS+ by the reader that others use."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize(
    ("suffix", "changes", "stored"),
    [
        (".mha", {}, voxels().tobytes("F")),
        (".mha", {"MSB = False": "MSB = True"}, voxels().byteswap().tobytes("F")),
        (".mha", {"BinaryDataByteOrderMSB": "ElementByteOrderMSB"}, voxels().tobytes("F")),
        (".mha", {"BinaryData = True": "BinaryData = False"}, f"{' '.join(map(str, voxels().ravel('F')))}\n".encode()),
        (".mha", {"Offset": "TransformMatrix = 0 1 0 -1 0 0 0 0 1\nPosition"}, voxels().tobytes("F")),
        (".mha", {"ElementType": "HeaderSize = -1\nElementType"}, voxels().tobytes("F")),
        (".mha", {"DimSize": f"CompressedData = True\nCompressedDataSize = {len(ZIPPED)}\nDimSize"}, ZIPPED),
        (".mha", {"MET_SHORT": "MET_LONG_LONG"}, voxels().astype("<i8").tobytes("F")),
        (".mha", {"MET_SHORT": "MET_FLOAT"}, voxels().astype("<f4").tobytes("F")),
        (".mha", {"ElementSpacing": "ElementSize"}, voxels().tobytes("F")),
        (".nrrd", {}, voxels().tobytes("F")),
        (".nrrd", {"little": "big"}, voxels().byteswap().tobytes("F")),
        (".nrrd", {"left-posterior-superior": "right-anterior-superior"}, voxels().tobytes("F")),
        (".nrrd", {"left-posterior-superior": "LAS"}, voxels().tobytes("F")),
        (".nrrd", {"type: short": "type: int16_t"}, voxels().tobytes("F")),
        (".nrrd", {"type: short": "type: double"}, voxels().astype("<f8").tobytes("F")),
        (".nrrd", {"encoding: raw": "encoding: gzip"}, gzip.compress(voxels().tobytes("F"))),
        (".nrrd", {"encoding: raw": "encoding: ascii"}, " ".join(map(str, voxels().ravel("F"))).encode()),
        (".nrrd", {"encoding: raw": "encoding: hex"}, voxels().tobytes("F").hex().encode()),
        (".nrrd", {"encoding: raw": "encoding: raw\nbyte skip: 7"}, bytes(7) + voxels().tobytes("F")),
        (".nrrd", {"encoding: raw": "encoding: raw\nbyte skip: -1"}, bytes(9) + voxels().tobytes("F")),
    ],
)
def test_every_storage_of_metaimage_and_nrrd_as_itk_reads_it(
    suffix: str, changes: dict[str, str], stored: bytes, tmp_path: Path
) -> None:
    header = (META if suffix == ".mha" else NRRD).format(patient=PATIENT)
    for old, new in changes.items():
        assert old in header
        header = header.replace(old, new)
    path = saved(header.encode() + stored, suffix, tmp_path)
    image, (values, affine) = read_image(path), by_itk(path)
    np.testing.assert_array_equal(image.values[0], values)
    np.testing.assert_array_equal(image.values[0], voxels())
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "changes", "said"),
    [
        (".mha", {"NDims = 3": "NDims = 65535"}, "is damaged"),
        (".mha", {"NDims = 3": "NDims = 999999999"}, "is damaged"),
        (".mha", {"DimSize = 5 4 3": "DimSize = 5 4"}, "is damaged"),
        (".mha", {"DimSize = 5 4 3": "DimSize = 5 -4 3"}, "has shape .5, -4, 3."),
        (".mha", {"DimSize = 5 4 3": "DimSize = 5 4 99"}, "is cut off"),
        (".mha", {"MET_SHORT": "MET_STRING"}, "holds values of a type that is not read here"),
        (".mha", {"DimSize": "ElementToIntensityFunctionSlope = 2\nDimSize"}, "its values are to be scaled"),
        (".mha", {"DimSize": "CompressedData = True\nDimSize"}, "is damaged"),
        (".nrrd", {"dimension: 3": "dimension: 99999"}, "is damaged"),
        (".nrrd", {"sizes: 5 4 3": "sizes: 5 4 99"}, "is cut off"),
        (".nrrd", {"sizes: 5 4 3": "sizes: 5 4 0"}, "has shape .5, 4, 0."),
        (".nrrd", {"type: short": "type: block"}, "is of a type or an encoding that is not read here"),
        (".nrrd", {"encoding: raw": "encoding: bzip2"}, "is of a type or an encoding that is not read here"),
        (".nrrd", {"encoding: raw": "encoding: raw\nline skip: 2"}, "is of a type or an encoding that is not read"),
        (".nrrd", {"encoding: raw": "encoding: gzip"}, "is damaged"),
    ],
)
def test_headers_that_do_not_hold(suffix: str, changes: dict[str, str], said: str, tmp_path: Path) -> None:
    header = (META if suffix == ".mha" else NRRD).format(patient=PATIENT)
    for old, new in changes.items():
        header = header.replace(old, new)
    refusal(saved(header.encode() + voxels().tobytes("F"), suffix, tmp_path), UnreadableImageError, said)


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_volumes_of_other_than_three_dimensions(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"{PATIENT}{suffix}"
    three = sitk.GetImageFromArray(voxels().T)
    sitk.WriteImage(sitk.JoinSeries([three]), str(path))
    np.testing.assert_array_equal(read_image(path).values[0], voxels())
    sitk.WriteImage(three[:, :, 1], str(path))
    np.testing.assert_array_equal(read_image(path).values[0], voxels()[..., 1:2])
    sitk.WriteImage(sitk.JoinSeries([three, three]), str(path))
    refusal(path, UnreadableImageError, "has shape .5, 4, 3, 2.: a 3D volume of one channel is needed")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True), str(path))
    refusal(path, UnreadableImageError, "holds 3 values a voxel")


@pytest.mark.parametrize(
    "named", ["../elsewhere.raw", "/etc/passwd", "LIST", "slice%03d.raw 1 3 1", "missing.raw", "a/b.raw", ".."]
)
@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nhdr", ".nrrd"])
def test_a_header_names_one_file_beside_it_and_no_other(suffix: str, named: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "elsewhere.raw").write_bytes(voxels().tobytes())
    path = volume(voxels(), ".mhd" if suffix.startswith(".m") else ".nhdr", folder)
    header = path.read_text().replace(f"{PATIENT}.raw", named)
    path = folder / f"{PATIENT}{suffix}"
    path.write_text(header)
    refusal(path, UnreadableImageError, "the header names no file beside it for its voxels")
    path.write_bytes(header.replace("\n", "\r\n").encode())
    refusal(path, UnreadableImageError, "names no file beside it|is damaged")


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_voxels_beside_a_header_belong_to_what_an_image_is(suffix: str, tmp_path: Path) -> None:
    path = volume(voxels(), suffix, tmp_path)
    before = content_hash(path), item_key(path), item_keys([path], tmp_path / "memory")
    assert before[1] == before[2][0]
    raw = path.with_suffix(".raw")
    raw.write_bytes((voxels() + 1).tobytes())
    after = content_hash(path), item_key(path), item_keys([path], tmp_path / "memory")
    assert all(old != new for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (nibabel.Nifti1Image(np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]), AFFINE), r"colour \(RGB\)"),
        (nibabel.Nifti1Image(np.zeros((3, 3, 3), np.complex64), AFFINE), "complex values"),
        (nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), AFFINE), "has shape .3, 3, 3, 2.: a 3D volume"),
        (nibabel.Nifti2Image(np.zeros((3, 3, 3, 1, 2), np.int16), AFFINE), "has shape .3, 3, 3, 1, 2.: a 3D volume"),
    ],
)
def test_nifti_that_is_no_volume_in_grey(content: nibabel.Nifti1Image, said: str, tmp_path: Path) -> None:
    refusal(saved(content.to_bytes(), ".nii", tmp_path), UnreadableImageError, said)
    refusal(saved(gzip.compress(content.to_bytes()), ".nii.gz", tmp_path), UnreadableImageError, said)


def test_other_files_of_the_nifti_family_are_named(tmp_path: Path) -> None:
    pair = nifti(magic=b"ni1\0")
    refusal(saved(pair, ".nii", tmp_path), UnreadableImageError, "the header of a NIfTI pair")
    refusal(saved(nifti(magic=b""), ".nii", tmp_path), UnreadableImageError, "Analyze 7.5")
    refusal(saved(nifti(datatype=1), ".nii", tmp_path), UnreadableImageError, "is damaged")
    refusal(saved(nifti(scl_slope=2, scl_inter=np.nan), ".nii", tmp_path), UnreadableImageError, "is damaged")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("compressed", [False, True])
def test_nifti_in_every_storage(kind: type, compressed: bool, tmp_path: Path) -> None:
    for order in "<>":
        for dtype in ("i1", "u2", "i4", "u8", "f4", "f8"):
            array = (np.abs(voxels()) % 100).astype(order + dtype)
            image = kind(array, AFFINE, kind.header_class(endianness=order), dtype=array.dtype)
            content = gzip.compress(image.to_bytes()) if compressed else image.to_bytes()
            for suffix in (".nii", ".nii.gz"):
                found = read_image(saved(content, suffix, tmp_path))
                np.testing.assert_array_equal(found.values[0], array)
                np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)
    for slope, inter, expected in ((2, -5, voxels() * 2 - 5), (0, 7, voxels()), (np.nan, 7, voxels())):
        scaled = nifti(kind=kind, scl_slope=slope, scl_inter=inter)
        np.testing.assert_array_equal(read_image(saved(scaled, ".nii", tmp_path)).values[0], expected)


def test_damaged_and_cut_off_nifti(tmp_path: Path) -> None:
    whole = nifti()
    packed = gzip.compress(whole)
    for suffix, content in ((".nii", whole[:-1]), (".nii", whole[:300]), (".nii.gz", packed[:-40])):
        refusal(saved(content, suffix, tmp_path), UnreadableImageError, "is cut off|is damaged")
    stored = bytearray(gzip.compress(whole, 0))
    stored[-20] ^= 1  # deflate does not notice, the checksum does
    refusal(saved(bytes(stored), ".nii.gz", tmp_path), UnreadableImageError, "is damaged")
    for more in (whole + b"behind it", gzip.compress(whole + b"behind it"), packed + bytes(16)):
        np.testing.assert_array_equal(read_image(saved(more, ".nii", tmp_path)).values[0], voxels())
    extended = nibabel.Nifti1Image(voxels(), AFFINE)
    extended.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, PATIENT.encode()))
    np.testing.assert_array_equal(read_image(saved(extended.to_bytes(), ".nii", tmp_path)).values[0], voxels())


# ---------------------------------------------------------------------------------------- values and geometry


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"])
def test_values_that_are_no_numbers_are_counted(suffix: str, tmp_path: Path) -> None:
    array = voxels().astype(np.float64)
    array[0, 0, 0], array[1, 1, 1], array[2, 2, 2] = np.nan, np.inf, 1e300
    refusal(volume(array, suffix, tmp_path), InvalidValuesError, "holds 3 values of 60 that are no finite numbers")
    if suffix == ".nii":
        scaled = nifti(voxels((5, 4, 3)), scl_slope=3e38, scl_inter=0)
        refusal(saved(scaled, suffix, tmp_path), InvalidValuesError, "of 60 that are no finite numbers")


NO_SFORM = {"sform_code": 0}
SINGULAR = {"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0], "srow_z": [0, 0, 1, 0]}


@pytest.mark.parametrize(
    "sform",
    [
        {"srow_x": 0, "srow_y": 0, "srow_z": 0},
        {"srow_y": np.nan},
        {"srow_z": 0},
        {"srow_x": [1e9, 0, 0, 0]},
        SINGULAR,
    ],
)
def test_of_sform_and_qform_the_valid_one_counts(sform: dict[str, object], tmp_path: Path) -> None:
    turn = np.linalg.qr(AFFINE[:3, :3])[0] * [0.7, 0.8, 2.5]
    image = nibabel.Nifti1Image(voxels(), AFFINE)
    image.set_qform(nibabel.affines.from_matvec(turn, [1, 2, 3]), 1)
    header = image.header
    fields = {name: header[name] for name in ("qform_code", "pixdim", "quatern_b", "quatern_c", "quatern_d")}
    fields |= {name: header[name] for name in ("qoffset_x", "qoffset_y", "qoffset_z")}
    both = read_image(saved(nifti(**fields), ".nii", tmp_path))
    np.testing.assert_allclose(both.affine, AFFINE, atol=1e-5)
    other = read_image(saved(nifti(**fields | sform), ".nii", tmp_path))
    np.testing.assert_allclose(other.affine, image.get_qform(), atol=1e-5)
    for damage in ({"qform_code": 0}, {"quatern_b": np.nan}, {"quatern_b": 9}, {"pixdim": 0}, {"qoffset_x": np.inf}):
        path = saved(nifti(**fields | sform | damage), ".nii", tmp_path)
        refusal(path, BadGeometryError, "does not say where its voxels lie")


def test_a_header_without_coordinates_has_sizes_of_voxels_or_nothing(tmp_path: Path) -> None:
    sized = nifti(sform_code=0, qform_code=0, pixdim=[1, 0.7, 0.8, 2.5, 0, 0, 0, 0])
    found = read_image(saved(sized, ".nii", tmp_path)).affine
    np.testing.assert_allclose(found[:3, :3], np.diag([-0.7, 0.8, 2.5]), atol=1e-6)
    for pixdim in (0, np.nan, np.inf, [1, 1e9, 1, 1, 0, 0, 0, 0]):
        path = saved(nifti(sform_code=0, qform_code=0, pixdim=pixdim), ".nii", tmp_path)
        refusal(path, BadGeometryError, "does not say where its voxels lie")


@pytest.mark.parametrize(
    ("suffix", "line", "bad"),
    [
        (".mha", "TransformMatrix", "TransformMatrix = 0 0 0 0 0 0 0 0 0"),
        (".mhd", "TransformMatrix", "TransformMatrix = 1 0 0 1 0 0 0 0 1"),
        (".mha", "ElementSpacing", "ElementSpacing = 0 1 1"),
        (".mhd", "ElementSpacing", "ElementSpacing = -1 1 1"),
        (".mha", "ElementSpacing", "ElementSpacing = 1e9 1 1"),
        (".nrrd", "space directions", "space directions: (0,0,0) (0,0,0) (0,0,0)"),
        (".nhdr", "space directions", "space directions: (1,0,0) (1,0,0) (0,0,1)"),
    ],
)
def test_volumes_that_lie_nowhere(suffix: str, line: str, bad: str, tmp_path: Path) -> None:
    path = volume(voxels(), suffix, tmp_path, np.eye(4))
    lines = path.read_bytes().split(b"\n")
    changed = [bad.encode() if one.startswith(line.encode()) else one for one in lines]
    path.write_bytes(b"\n".join(changed))
    refusal(path, BadGeometryError, "does not say where its voxels lie")
