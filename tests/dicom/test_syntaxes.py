"""Every transfer syntax gives the same volume; those that nothing decodes and cut off pixels are refused."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian

from monai_rd import errors as dicom
from monai_rd.dicom import load_series
from tests.dicom.refusals import refusal
from tests.dicom_files import COLUMNS, PATIENT_ID, ROWS, SHARED, make_series

# HU that a lossy codec may be off; JPEG process 1 keeps 8 bits.
LOSSY = {
    "1.2.840.10008.1.2.4.50": 65.0,
    "1.2.840.10008.1.2.4.51": 36.0,
    "1.2.840.10008.1.2.4.53": 36.0,
    "1.2.840.10008.1.2.4.55": 36.0,
    "1.2.840.10008.1.2.4.81": 1.0,
    "1.2.840.10008.1.2.4.91": 5.0,
}


def test_ct_in_14_transfer_syntaxes() -> None:
    folder = SHARED / "dicom" / "ct_14_transfer_syntaxes" / "testImages"
    if not folder.is_dir():
        pytest.skip("shared/data/dicom/ct_14_transfer_syntaxes is not beside this checkout")
    reference = load_series(folder / "CTImage.dcm")
    read = set()
    for file in sorted(folder.glob("CTImage.dcm_*.dcm")):
        syntax = file.name.removesuffix(".dcm").rsplit("_", 1)[1]
        volume = load_series(file)
        np.testing.assert_array_equal(volume.affine, reference.affine)
        off = np.abs(volume.array - reference.array).max()
        assert off <= LOSSY.get(syntax, 0.0), syntax
        assert (off > 0) == (syntax in LOSSY)
        read.add(syntax)
    assert len(read) == 15
    assert ImplicitVRLittleEndian in read


def test_mr_in_7_transfer_syntaxes() -> None:
    folder = SHARED / "dicom" / "mr_7_transfer_syntaxes" / "In"
    if not folder.is_dir():
        pytest.skip("shared/data/dicom/mr_7_transfer_syntaxes is not beside this checkout")
    volumes = [load_series(file, window=False) for file in sorted(folder.glob("*.dcm"))]
    assert len(volumes) == 9
    for volume in volumes:
        np.testing.assert_array_equal(volume.array, volumes[0].array)
        np.testing.assert_array_equal(volume.affine, volumes[0].affine)


ENCODERS = {
    "1.2.840.10008.1.2.4.57": lambda image: imagecodecs.jpeg8_encode(image, lossless=True, predictor=4),
    "1.2.840.10008.1.2.4.70": lambda image: imagecodecs.jpeg8_encode(image, lossless=True, predictor=1),
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
    "1.2.840.10008.1.2.4.90": lambda image: imagecodecs.jpeg2k_encode(image, level=0, codecformat="j2k"),
    "1.2.840.10008.1.2.4.201": lambda image: imagecodecs.htj2k_encode(image, reversible=True),
    "1.2.840.10008.1.2.5": None,
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", ENCODERS)
def test_lossless_syntaxes_give_the_same_volume(tmp_path: Path, syntax: str, signed: bool) -> None:
    if syntax.endswith("201") and not getattr(imagecodecs, "HTJ2K", None):
        pytest.skip("this imagecodecs cannot write HTJ2K")

    def compress(k: int, ds: Dataset) -> None:
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = int(signed), 12, 11
        image = np.frombuffer(ds.PixelData, np.int16).reshape(ROWS, COLUMNS) - (1000 if signed else 0)
        ds.PixelData = image.astype(np.int16).tobytes()
        encode = ENCODERS[syntax]
        if encode is None:
            ds.compress(pydicom.uid.RLELossless)
            return
        ds.PixelData = encapsulate([bytes(encode((image & 0xFFF).astype(np.uint16)))])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = syntax

    _, stored = make_series(tmp_path, change=compress)
    expected = (stored - (1000 if signed else 0)) * 2.0 - 1024.0
    np.testing.assert_array_equal(load_series(tmp_path).array[0], expected.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("syntax", "said"),
    [
        ("1.2.840.10008.1.2.4.100", "it holds video, not images"),
        ("1.2.826.0.1.3680043.10", "private syntax"),
        ("1.2.840.10008.1.2.4.94", "JPIP"),
    ],
)
def test_a_syntax_that_nothing_decodes(tmp_path: Path, syntax: str, said: str) -> None:
    def other(k: int, ds: Dataset) -> None:
        ds.PixelData = encapsulate([bytes(100)])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = known

    known = "1.2.840.10008.1.2.4.94" if len(syntax) == 22 else syntax  # pydicom writes no private syntax
    uid, _ = make_series(tmp_path, slices=2, change=other)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes().replace(known.encode(), syntax.encode()))
    text = str(refusal(tmp_path, dicom.UnsupportedSyntaxError, "UNSUPPORTED_SYNTAX", uid))
    assert said in text
    assert syntax in text
    assert "gdcmconv --raw" in text


def test_truncated_pixels(tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture) -> None:
    uid, _ = make_series(tmp_path)
    file = sorted(tmp_path.iterdir())[2]
    file.write_bytes(file.read_bytes()[:-40])
    text = str(refusal(tmp_path, dicom.TruncatedPixelsError, "TRUNCATED_PIXELS", uid))
    assert "Explicit VR Little Endian" in text
    assert "export the series again" in text
    said = caplog.text + "".join(str(w.message) for w in recwarn)
    assert PATIENT_ID not in said
    assert str(tmp_path) not in said


def test_truncated_compressed_pixels_do_not_tell_the_path(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    uid, _ = make_series(tmp_path, slices=1)
    file = next(tmp_path.iterdir())
    ds = pydicom.dcmread(file)
    ds.compress(pydicom.uid.RLELossless)
    ds.save_as(file)
    file.write_bytes(file.read_bytes()[:-60])  # without its end mark the parser drops the element, with a warning
    text = str(refusal(file, dicom.TruncatedPixelsError, "TRUNCATED_PIXELS", uid))
    assert "RLE Lossless" in text
    said = caplog.text + "".join(str(w.message) for w in recwarn)
    assert PATIENT_ID not in said
    assert str(tmp_path) not in said
