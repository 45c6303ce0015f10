"""Siemens mosaics: the tiles become a volume that lies where dcm2niix and nibabel put it, or the file has a code."""

from __future__ import annotations

import gzip
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, generate_uid

from monai_rd.dicom import index_dicom, load_series
from monai_rd.dicom.mosaic import csa_fields
from monai_rd.errors import StudyError
from tests.dicom_files import AXIAL, CORONAL, SAGITTAL, make_series, oblique

ROWS, COLUMNS, SPACING, DISTANCE = 12, 10, (2.5, 2.0), 3.5
ORIGIN = np.array([-31.5, 12.25, 40.0])  # of the first slice


def csa(fields: dict[str, tuple[str, list[str]]], new: bool = True) -> bytes:
    """Make a CSA header, "SV10" at its start or not; each field has more items than values, as scanners write them."""
    head = b"SV10\4\3\2\1" if new else b""
    found = [head, struct.pack("<2I", len(fields), 77)]
    base = 0
    for number, (name, (kind, values)) in enumerate(fields.items()):
        items = 6
        base = items if number == 0 else base
        found.append(struct.pack("<64si4siii", name.encode(), len(values), kind.encode(), 4, items, 77))
        for n in range(items):
            content = f"{values[n]:<8}".encode() + b"\0" if n < len(values) else b""
            length = len(content)
            found.append(struct.pack("<4i", length if new else length + base, length, 77, length))
            found.append(content + bytes(-length % 4))
    return b"".join(found)


def mosaic(
    folder: Path,
    count: int = 7,
    *,
    orientation: tuple[float, ...] = AXIAL,
    upwards: bool = True,
    new: bool = True,
    seed: int = 0,
    uid: str | None = None,
    change: Callable[[Dataset], None] = lambda ds: None,
) -> np.ndarray:
    """Write one mosaic; return its slices [slice, row, column], in the order of the tiles."""
    side = int(np.ceil(np.sqrt(count)))
    slices = np.random.default_rng(seed).integers(1, 2000, (count, ROWS, COLUMNS), dtype=np.int16)
    image = np.zeros((side * ROWS, side * COLUMNS), np.int16)
    for n, one in enumerate(slices):
        row, column = divmod(n, side)
        image[row * ROWS :, column * COLUMNS :][:ROWS, :COLUMNS] = one
    across = np.cross(orientation[:3], orientation[3:]) * (1 if upwards else -1)
    corner = ORIGIN - np.multiply(orientation[:3], SPACING[1] * (side - 1) * COLUMNS / 2)
    corner = corner - np.multiply(orientation[3:], SPACING[0] * (side - 1) * ROWS / 2)

    def as_mosaic(k: int, ds: Dataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        ds.Manufacturer, ds.ProtocolName, ds.MRAcquisitionType = "SIEMENS", "bold", "2D"
        ds.SequenceName, ds.RepetitionTime, ds.EchoTime, ds.MagneticFieldStrength = "epfid2d1_64", 2000, 30, 3
        ds.ImagePositionPatient, ds.SpacingBetweenSlices = [f"{v:.8f}" for v in corner], DISTANCE
        ds.SliceThickness, ds.PixelData, ds.AcquisitionNumber = 3, image.tobytes(), seed + 1
        ds.InstanceNumber, ds.AcquisitionTime = seed + 1, f"12000{seed}.0"
        del ds.WindowCenter, ds.WindowWidth
        ds.private_block(0x19, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", count)
        fields = {
            "AcquisitionMatrixText": ("SH", [f"{COLUMNS}*{ROWS}"]),
            "NumberOfImagesInMosaic": ("US", [str(count)]),
            "SliceNormalVector": ("FD", [f"{v:.8f}" for v in across]),
        }
        header = csa(fields, new)
        ds.private_block(0x29, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", header + bytes(len(header) % 2))
        if uid is not None:
            ds.SeriesInstanceUID = ds.StudyInstanceUID = ds.FrameOfReferenceUID = uid
        change(ds)

    shape = (side * ROWS, side * COLUMNS)
    place = folder / str(seed)
    options: dict[str, Any] = {"orientation": orientation, "shape": shape, "spacing": SPACING}
    make_series(place, slices=1, modality="MR", rescale=None, change=as_mosaic, **options)
    shutil.move(next(place.iterdir()), folder / f"{seed}.dcm")
    place.rmdir()
    return slices


def check(source: Path, slices: np.ndarray, orientation: tuple[float, ...], upwards: bool) -> None:
    """Compare values and places with what was written."""
    volume = load_series(source, window=False)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    across = np.cross(row, column)
    step = across * DISTANCE * (1 if upwards else -1)
    first = ORIGIN if upwards else ORIGIN + (len(slices) - 1) * step  # slices ascend along row x column
    expected = slices if upwards else slices[::-1]
    np.testing.assert_array_equal(volume.array[0], expected.transpose(2, 1, 0))
    affine = np.eye(4)
    affine[:3] = np.stack([row * SPACING[1], column * SPACING[0], across * DISTANCE, first], axis=1)
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-4)


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL, oblique()], ids=["ax", "cor", "sag", "oblique"])
@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("new", [True, False])
def test_the_tiles_are_a_volume(tmp_path: Path, orientation: tuple[float, ...], upwards: bool, new: bool) -> None:
    slices = mosaic(tmp_path, orientation=orientation, upwards=upwards, new=new)
    check(tmp_path, slices, orientation, upwards)


@pytest.mark.parametrize("count", [2, 4, 5, 9, 36])
def test_any_number_of_tiles(tmp_path: Path, count: int) -> None:
    check(tmp_path, mosaic(tmp_path, count), AXIAL, True)


def big_endian(path: Path) -> None:
    ds = dcmread(path)
    ds.decode()
    ds.PixelData = np.frombuffer(ds.PixelData, "<i2").byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dcmwrite(path, ds, implicit_vr=False, little_endian=False, force_encoding=True)


def implicit(path: Path) -> None:
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(path, implicit_vr=True, little_endian=True)


def lossless(path: Path) -> None:
    ds = dcmread(path)
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 0
    image = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    ds.PixelData = encapsulate([bytes(imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=16))])
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    ds.save_as(path)


def moved_blocks(path: Path) -> None:
    """The private elements stand in other blocks than usual."""
    ds = dcmread(path)
    for group, last in ((0x19, 0x0A), (0x29, 0x10)):
        ds.add_new((group, 0x12), "LO", ds[group, 0x10].value)
        ds.add_new((group, 0x1200 | last), ds[group, 0x1000 | last].VR, ds[group, 0x1000 | last].value)
        ds[group, 0x10].value = "OTHER"
        del ds[group, 0x1000 | last]
    ds.save_as(path)


def named_otherwise(path: Path) -> None:
    ds = dcmread(path)
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.save_as(path)


def named_in_small_letters_first(path: Path) -> None:
    ds = dcmread(path)
    ds.ImageType = ["Mosaic", "PRIMARY"]
    del ds[0x0019, 0x100A]  # the other header tells it too
    ds.save_as(path)


@pytest.mark.parametrize(
    "written", [big_endian, implicit, lossless, moved_blocks, named_otherwise, named_in_small_letters_first]
)
def test_any_way_to_write_it(tmp_path: Path, written: Callable[[Path], None]) -> None:
    slices = mosaic(tmp_path, upwards=False)
    written(tmp_path / "0.dcm")
    check(tmp_path, slices, AXIAL, False)


def test_mosaics_of_one_series_are_volumes_of_their_own(tmp_path: Path) -> None:
    uid = generate_uid()
    slices = [mosaic(tmp_path, seed=n, uid=uid) for n in range(3)]
    series = index_dicom(tmp_path)
    assert [(one.slices, one.shape, one.problems) for one in series] == [(7, (ROWS, COLUMNS), ())] * 3
    assert len({one.volume for one in series}) == 3
    for one, expected in zip(series, slices, strict=True):
        check(one.files[0], expected, AXIAL, True)
    with pytest.raises(StudyError) as caught:
        load_series(tmp_path)
    assert caught.value.code == "DUPLICATE_SLICES"


# -------------------------------------------------------------------------------------------------------- refusals


def without_private(ds: Dataset) -> None:
    ds.remove_private_tags()


def without_csa(ds: Dataset) -> None:
    del ds[0x0029, 0x1010]


def of_another_direction(ds: Dataset) -> None:
    ds[0x0029, 0x1010].value = csa({"A": ("IS", ["1"]), "SliceNormalVector": ("FD", ["1", "0", "0"])})


def without_direction(ds: Dataset) -> None:
    ds[0x0029, 0x1010].value = csa({"NumberOfImagesInMosaic": ("US", ["7"])})


def of_two_numbers(ds: Dataset) -> None:
    ds[0x0019, 0x100A].value = 8


def of_another_size(ds: Dataset) -> None:
    ds[0x0019, 0x100A].value = 64
    ds[0x0029, 0x1010].value = csa({"A": ("IS", ["1"]), "SliceNormalVector": ("FD", ["0", "0", "1"])})


def without_distance(ds: Dataset) -> None:
    del ds.SpacingBetweenSlices, ds.SliceThickness


def cut_off_csa(ds: Dataset) -> None:
    ds[0x0029, 0x1010].value = ds[0x0029, 0x1010].value[:300]


def in_colour(ds: Dataset) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = bytes(ds.Rows * ds.Columns * 3)


def without_position(ds: Dataset) -> None:
    del ds.ImagePositionPatient


def of_another_modality(ds: Dataset) -> None:
    del ds.ImagePositionPatient
    ds.Modality = "OT"


def united_imaging(ds: Dataset) -> None:
    ds.remove_private_tags()
    ds.Manufacturer, ds.ImageType = "UIH", ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.private_block(0x65, "Image Private Header", create=True).add_new(0x50, "DS", "7")


@pytest.mark.parametrize(
    "change",
    [
        *(without_private, without_csa, of_another_direction, without_direction, of_two_numbers, of_another_size),
        *(without_distance, cut_off_csa, in_colour, without_position, of_another_modality, united_imaging),
    ],
)
def test_a_mosaic_that_cannot_be_a_volume_has_a_code(tmp_path: Path, change: Callable[[Dataset], None]) -> None:
    mosaic(tmp_path, change=change)
    with pytest.raises(StudyError, match="mosaic") as caught:
        load_series(tmp_path)
    assert caught.value.code == "UNSUPPORTED_IMAGE"
    assert [one.code for one in index_dicom(tmp_path)[0].problems] == ["UNSUPPORTED_IMAGE"]


@pytest.mark.parametrize("new", [True, False])
def test_a_damaged_csa_header_is_an_error_of_ours(new: bool) -> None:
    header = csa({"A": ("IS", ["1"]), "SliceNormalVector": ("FD", ["0", "0", "1"])}, new)
    assert csa_fields(header, {"SliceNormalVector"}) == {"SliceNormalVector": (b"0", b"0", b"1")}
    for number in range(2000):
        dice = random.Random(number)
        broken = bytearray(header[: dice.randrange(1, len(header))] if dice.random() < 0.3 else header)
        for _ in range(dice.choice((1, 2, 8))):
            place = dice.randrange(len(broken))
            broken[place : place + 4] = dice.choice((b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f", dice.randbytes(4)))
        try:
            csa_fields(bytes(broken), {"SliceNormalVector"})
        except ValueError as error:
            assert str(error) == "its private header is damaged"  # noqa: PT017


# --------------------------------------------------------------------------------------------------- other readers


def by_dcm2niix(source: Path, target: Path) -> list[nib.Nifti1Image]:
    if not shutil.which("dcm2niix"):
        pytest.skip("dcm2niix is not installed")
    target.mkdir()
    command = ["dcm2niix", "-b", "n", "-z", "n", "-o", target, source]
    subprocess.run(command, check=True, capture_output=True)
    return [nib.load(file) for file in sorted(target.glob("*.nii"))]


def agrees(volume: Any, other: nib.Nifti1Image, number: int = 0) -> None:
    values = np.asarray(other.dataobj)
    values = values[..., number] if values.ndim == 4 else values
    ours = nib.as_closest_canonical(nib.Nifti1Image(volume.array[0], volume.affine))
    theirs = nib.as_closest_canonical(nib.Nifti1Image(values.astype(np.float32), other.affine))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL, oblique()], ids=["ax", "cor", "sag", "oblique"])
@pytest.mark.parametrize("upwards", [True, False])
def test_agrees_with_dcm2niix(tmp_path: Path, orientation: tuple[float, ...], upwards: bool) -> None:
    (tmp_path / "in").mkdir()
    uid = generate_uid()
    for n in range(2):
        mosaic(tmp_path / "in", orientation=orientation, upwards=upwards, uid=uid, seed=n)
    (other,) = by_dcm2niix(tmp_path / "in", tmp_path / "out")
    for n in range(2):
        agrees(load_series(tmp_path / "in" / f"{n}.dcm", window=False), other, n)


@pytest.mark.parametrize("upwards", [True, False])
def test_agrees_with_nibabel(tmp_path: Path, upwards: bool) -> None:
    wrappers = pytest.importorskip("nibabel.nicom.dicomwrappers")
    mosaic(tmp_path, orientation=oblique(), upwards=upwards)
    other = wrappers.wrapper_from_file(tmp_path / "0.dcm")
    affine = np.diag([-1, -1, 1, 1]) @ other.affine
    # Its first axis runs along the rows of the array.
    image = nib.Nifti1Image(other.get_data().astype(np.float32), affine)
    agrees(load_series(tmp_path, window=False), image)


def test_mosaics_of_a_scanner(tmp_path: Path) -> None:
    """Two that nibabel brings for its own tests; their pixels are zero, their headers whole."""
    data = Path(nib.__file__).parent / "nicom" / "tests" / "data"
    (tmp_path / "in").mkdir()
    for name in ("siemens_dwi_0", "siemens_dwi_1000"):
        packed = data / f"{name}.dcm.gz"
        if not packed.is_file():
            pytest.skip("nibabel without its test data")
        (tmp_path / "in" / f"{name}.dcm").write_bytes(gzip.decompress(packed.read_bytes()))
    (other,) = by_dcm2niix(tmp_path / "in", tmp_path / "out")
    for n, one in enumerate(index_dicom(tmp_path / "in")):
        volume = load_series(one.files[0], window=False)
        assert volume.array.shape == (1, 128, 128, 48)
        agrees(volume, other, n)
