"""Values of a header from its bytes: what pydicom makes of them, and nothing for what is none."""

from __future__ import annotations

import io
import struct
import warnings

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from monai_rd.dicom.values import integer, numbers, parts, raw, text, uid


def _stored(dataset: Dataset, implicit: bool, little: bool) -> Dataset:
    stream = io.BytesIO()
    dcmwrite(stream, dataset, implicit_vr=implicit, little_endian=little)
    stream.seek(0)
    return dcmread(stream, force=True) if implicit or little else _read_big(stream)


def _read_big(stream: io.BytesIO) -> Dataset:
    return read_dataset(stream, is_implicit_VR=False, is_little_endian=False)


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_every_kind_of_value_in_every_encoding(implicit: bool, little: bool) -> None:
    dataset = Dataset()
    dataset.SOPInstanceUID, dataset.Modality, dataset.ImageType = "1.2.34", "CT", ["ORIGINAL", "PRIMARY", "M_FFE"]
    dataset.InstanceNumber, dataset.PixelSpacing, dataset.RescaleSlope = 7, [0.5, 1e-3], 2.5
    dataset.Rows, dataset.DiffusionBValue, dataset.PixelPaddingValue = 512, 800.5, 65535
    dataset.add_new("PixelPaddingValue", "US", 65535)
    dataset.add_new("SelectorFLValue", "FL", [1.5, -2.0])
    dataset.add_new("SelectorSLValue", "SL", -70000)
    dataset.add_new("SelectorSSValue", "SS", -7)
    dataset.add_new("SelectorULValue", "UL", 70000)
    for made in (dataset, _stored(dataset, implicit, little)):
        assert uid(made, "SOPInstanceUID") == "1.2.34"
        assert text(made, "Modality") == "CT"
        assert parts(made, "ImageType") == ("ORIGINAL", "PRIMARY", "M_FFE")
        assert raw(made, "Modality") == b"CT"
        assert integer(made, "InstanceNumber", 0) == 7
        assert integer(made, "Rows", 0) == 512
        assert integer(made, "PixelPaddingValue", 0) == 65535
        assert integer(made, "SelectorSLValue", 0) == -70000
        assert integer(made, "SelectorSSValue", 0) == -7
        assert integer(made, "SelectorULValue", 0) == 70000
        assert numbers(made, "PixelSpacing", 2) == (0.5, 1e-3)
        assert numbers(made, "RescaleSlope", 1) == (2.5,)
        assert numbers(made, "DiffusionBValue", 1) == (800.5,)
        assert numbers(made, "SelectorFLValue", 2) == (1.5, -2.0)


def test_a_known_attribute_of_unknown_kind_is_read_by_the_dictionary() -> None:
    head = struct.Struct("<HH2sHI")
    rows, spacing = b"\x00\x02", b"0.5\\0.25 "
    content = (
        head.pack(0x28, 0x10, b"UN", 0, len(rows)) + rows + head.pack(0x28, 0x30, b"UN", 0, len(spacing)) + spacing
    )
    stored = read_dataset(io.BytesIO(content), is_implicit_VR=False, is_little_endian=True)
    assert integer(stored, "Rows", 0) == 512
    assert numbers(stored, "PixelSpacing", 2) == (0.5, 0.25)


@pytest.mark.parametrize("value", ["", " ", "Anna", "1.5\\Anna", "1_0", "nan", "inf", "1,5", "0x10", "1e999", "\u0661"])
def test_what_is_no_number_is_absent_and_quoted_nowhere(value: str) -> None:
    dataset = Dataset()
    dataset.add_new("RescaleSlope", "LO", value)
    dataset.add_new("SpecificCharacterSet", "CS", "ISO_IR 192")
    stream = io.BytesIO()
    dcmwrite(stream, dataset, implicit_vr=True, little_endian=True)
    stream.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = dcmread(stream, force=True)
        assert numbers(stored, "RescaleSlope", 1) is None
        assert integer(stored, "RescaleSlope", -1) == -1


@pytest.mark.parametrize("value", ["1.5", "1\\2"])
def test_a_whole_number_is_one_and_whole(value: str) -> None:
    dataset = Dataset()
    dataset.add_new("InstanceNumber", "LO", value)
    assert integer(_stored(dataset, implicit=True, little=True), "InstanceNumber", -1) == -1


@pytest.mark.parametrize("value", ["Müller^Anna", "a" * 65, "CT\\MR", "CT\nMR", ""])
def test_free_text_is_no_code(value: str) -> None:
    dataset = Dataset()
    dataset.add_new("SpecificCharacterSet", "CS", "ISO_IR 192")
    dataset.add_new("Modality", "LO", value)
    assert text(_stored(dataset, implicit=True, little=True), "Modality") == ""
    assert uid(_stored(dataset, implicit=True, little=True), "Modality") == ""
