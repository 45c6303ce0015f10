"""Volume files of every format give one volume; MetaImage and NRRD are read as ITK reads them."""

from __future__ import annotations

import gzip
import zlib
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from packaging.version import Version

from monai_rd.cache.file_hashes import item_keys
from monai_rd.cache.fingerprints import item_key
from monai_rd.errors import UnreadableImageError
from monai_rd.files import content_hash
from monai_rd.images import read_image
from tests.images.image_files import AFFINE, PATIENT, refusal, saved, volume, voxels


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
        pytest.param(
            ".nrrd",
            {"left-posterior-superior": "LAS"},
            voxels().tobytes("F"),
            marks=pytest.mark.skipif(Version(version("SimpleITK")) < Version("2.5.6"), reason="older ITK misreads LAS"),
        ),
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
