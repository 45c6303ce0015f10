"""What a file is, is told by its content: anything else is refused with a reason and without a name."""

from __future__ import annotations

import gzip
import io
import logging
import os
import pickle
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from monai_rd.errors import UnreadableFileError, UnreadableImageError
from monai_rd.images import read_image
from tests.images.image_files import PATIENT, image_bytes, nifti, picture, refusal, saved
from tests.pickled import Marks


def array_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.npy", array_of(np.zeros(3)))
    return buffer.getvalue()


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
