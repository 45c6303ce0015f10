"""NIfTI files: every storage, what is no grey volume, damage, and which coordinates count."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_rd.errors import BadGeometryError, UnreadableImageError
from monai_rd.images import read_image
from tests.images.image_files import AFFINE, PATIENT, nifti, refusal, saved, voxels


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
