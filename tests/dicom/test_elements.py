"""What is read of an ordinary file is what pydicom reads of it; everything else is left to pydicom."""

from __future__ import annotations

import io
import random
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from monai_rd.dicom import load_series
from monai_rd.dicom.elements import BLOCK, FilePart, ordinary_elements
from monai_rd.dicom.geometry import arrange
from monai_rd.dicom.values import all_numbers, parts, tag_of
from monai_rd.errors import UnreadableFileError
from tests.dicom_files import PATIENT_ID, make_series

WANTED = frozenset(
    {0x00080008, 0x00080016, 0x00080060, 0x0020000E, 0x00200032, 0x00280010, 0x00280011, 0x00283010, 0x7FE00010}
)


def _ours(content: bytes, folder: Path, pixels: bool = True) -> Dataset | None:
    file = folder / "file"
    file.write_bytes(content)
    with open(file, "rb") as stream:
        return ordinary_elements(stream, WANTED, pixels)


def _assert_same(ours: Dataset, content: bytes, pixels: bool = True) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = dcmread(io.BytesIO(content), force=True, stop_before_pixels=not pixels, specific_tags=list(WANTED))
        assert set(dict(ours.items())) == set(dict(theirs.items()))
        assert ours.original_encoding == theirs.original_encoding
        assert ours.original_character_set == theirs.original_character_set
        for tag, mine in ours.items():
            if tag == 0x00080005:  # which pydicom has converted
                assert ours[tag].value == theirs[tag].value
            else:
                other = theirs.get_item(tag)
                value = mine.value.read() if isinstance(mine.value, FilePart) else mine.value
                assert (mine.VR, value) == (other.VR, other.value)
        assert ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID


def _content(syntax: str, undefined: bool = True) -> bytes:
    """A small image with sequences in sequences, private ones among them, and a value longer than a block."""
    inner, item, other = Dataset(), Dataset(), Dataset()
    inner.Modality = "XX"  # a wanted attribute where it is not wanted
    inner.is_undefined_length_sequence_item = True
    item.ReferencedSOPInstanceUID, item.PurposeOfReferenceCodeSequence = "1.2.3", Sequence([inner, inner])
    other.StudyDescription = "other"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4"
    ds.SpecificCharacterSet, ds.PatientName, ds.Modality = "ISO_IR 100", "Müller", "CT"
    ds.ImageType, ds.ImagePositionPatient, ds.SeriesInstanceUID = ["ORIGINAL", "PRIMARY"], [1, 2.5, -3], "1.2.3.5"
    ds.ReferencedImageSequence, ds.PatientComments = Sequence([item, other, item]), ""
    ds.private_block(0x0029, "TEST", create=True).add_new(0x10, "OB", b"\x00\x01" * 20_000)
    ds.private_block(0x0031, "TEST", create=True).add_new(0x10, "SQ", Sequence([other]))
    for one in (ds, item):
        for element in one:
            if element.VR == "SQ":
                element.is_undefined_length = undefined
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.SamplesPerPixel, ds.PixelRepresentation = 4, 4, 16, 1, 0
    ds.PhotometricInterpretation, ds.PixelData = "MONOCHROME2", bytes(range(32))
    return _saved(ds)


def _saved(ds: Dataset) -> bytes:
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("pixels", [True, False])
def test_a_file_with_sequences_in_sequences(tmp_path: Path, syntax: str, undefined: bool, pixels: bool) -> None:
    content = _content(syntax, undefined)
    ours = _ours(content, tmp_path, pixels)
    assert ours is not None
    _assert_same(ours, content, pixels)
    assert ours.Modality == "CT"
    assert list(ours.ImagePositionPatient) == [1, 2.5, -3]
    assert ("PixelData" in ours) == pixels


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("behind", ["a wanted element", "the end of the file"])
def test_what_lies_across_the_edge_of_what_is_read_at_once(tmp_path: Path, syntax: str, behind: str) -> None:
    ds = dcmread(io.BytesIO(_content(syntax)))
    del ds[0x00290010:0x00400000]
    filler = ds.private_block(0x001F, "TEST", create=True)
    filler.add_new(0x10, "OB", b"")
    short = _saved(ds)
    end = short.index(b"\x20\x00\x0e\x00") if behind == "a wanted element" else len(short)
    for past in range(-14, 15, 2):
        filler.add_new(0x10, "OB", bytes(BLOCK + past - end))
        content = _saved(ds)
        assert behind != "a wanted element" or content[BLOCK + past :].startswith(b"\x20\x00\x0e\x00")
        ours = _ours(content, tmp_path)
        assert ours is not None
        _assert_same(ours, content)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_cut_off_anywhere_is_left_to_pydicom_or_read_alike(tmp_path: Path, syntax: str) -> None:
    content = _content(syntax)
    places = [*range(100, 1500, 3), *range(len(content) - 300, len(content))]
    read = 0
    for place in places:
        ours = _ours(content[:place], tmp_path)
        if ours is not None:
            read += 1
            _assert_same(ours, content[:place])
    assert 5 < read < len(places) / 4  # those cut off between two elements


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_damaged_file_is_left_to_pydicom_or_read_alike(tmp_path: Path, syntax: str) -> None:
    whole, chance = _content(syntax), random.Random(0)
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 1, 3])):
            content[chance.choice([chance.randrange(132, 1100), chance.randrange(len(content))])] = chance.randrange(
                256
            )
        ours = _ours(bytes(content), tmp_path)
        if ours is not None:
            with suppress(OSError):  # pydicom gives up within a sequence that nobody asks for
                _assert_same(ours, bytes(content))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0"),  # said to be big endian
        (b"DICM", b"XXXX"),
        (b"CS\x02\x00CT", b"XX\x02\x00CT"),  # a kind that there is not
    ],
)
def test_what_is_unusual_is_left_to_pydicom(tmp_path: Path, old: bytes, new: bytes) -> None:
    content = _content(SYNTAXES[1])
    assert content.count(old) >= 1
    assert _ours(content.replace(old, new), tmp_path) is None


def test_the_files_that_pydicom_ships(tmp_path: Path) -> None:
    read = 0
    for file in sorted((Path(pydicom.__file__).parent / "data").rglob("*.dcm")):
        for pixels in (True, False):
            ours = _ours(file.read_bytes(), tmp_path, pixels)
            if ours is not None:
                read += 1
                _assert_same(ours, file.read_bytes(), pixels)
    assert read > 50


def test_pixels_are_read_when_they_are_needed(tmp_path: Path) -> None:
    content = _content(SYNTAXES[1])
    ours = _ours(content, tmp_path)
    assert ours is not None
    pixels = ours.get_item("PixelData").value
    assert isinstance(pixels, FilePart)
    assert (len(pixels), pixels.read()) == (32, bytes(range(32)))
    assert str(tmp_path) not in repr(pixels)
    (tmp_path / "file").write_bytes(content[:-5])
    with pytest.raises(UnreadableFileError, match="shorter"):
        pixels.read()
    (tmp_path / "file").unlink()
    with pytest.raises(UnreadableFileError) as caught:
        pixels.read()
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("harm", ["gone", "shorter", "a folder"])
def test_a_file_that_changes_while_a_series_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    make_series(tmp_path / "series")
    file = sorted((tmp_path / "series").iterdir())[2]

    def arranged(*arguments: Any) -> Any:  # all headers are read by now
        if harm == "shorter":
            file.write_bytes(file.read_bytes()[:-9])
        else:
            file.unlink()
        if harm == "a folder":
            file.mkdir()
        return arrange(*arguments)

    monkeypatch.setattr("monai_rd.dicom.series.arrange", arranged)
    with pytest.raises(UnreadableFileError) as caught:
        load_series(tmp_path / "series")
    assert PATIENT_ID not in str(caught.value)


@pytest.mark.parametrize("count", [1, 6, 60])
def test_bytes_mean_what_their_kind_and_order_say_however_often_and_long(count: int) -> None:
    stored = b"12" * count
    one = {("US", True): 0x3231, ("US", False): 0x3132, ("SS", True): 0x3231}
    for _ in range(2):
        for (kind, little), number in one.items():
            element = RawDataElement(tag_of("Rows"), kind, len(stored), stored, 0, False, little)
            assert all_numbers(Dataset({element.tag: element}), "Rows") == (number,) * count
        for kind in ("IS", "DS"):
            written = b"\\".join([b"12"] * count) + b" "
            element = RawDataElement(tag_of("Rows"), kind, len(written), written, 0, False, True)
            assert all_numbers(Dataset({element.tag: element}), "Rows") == (12,) * count
            assert parts(Dataset({element.tag: element}), "Rows") == ("12",) * count
