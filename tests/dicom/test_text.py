"""Text in headers: whose it is in any encoding, what is shown of it, and what never reaches a terminal."""

from __future__ import annotations

import hmac
import logging
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from rich.console import Console

from monai_rd.datasets.datalist import make_datalist
from monai_rd.dicom import SeriesRule, choose_series, index_dicom, load_series
from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.dicom.redaction import Identity, redacted
from monai_rd.errors import DicomSeriesError
from monai_rd.pseudonyms import patient_pseudonym
from monai_rd.report.series import series_table, write_series
from tests.dicom_files import make_series, set_bytes

KEY = b"k" * 32
JAPANESE = b"\x1b$B;3ED\x1b(B01"  # 山田01 by ISO 2022 IR 87


def series_of(folder: Path, identity: bytes, *character_sets: str, seed: int) -> None:
    """Write one slice of a patient whose ID is stored as these bytes."""
    make_series(folder, slices=1, seed=seed, change=lambda k, ds: setattr(ds, "PatientName", ""))
    set_bytes(folder, "PatientID", "LO", identity)
    if character_sets:
        set_bytes(folder, "SpecificCharacterSet", "CS", "\\".join(character_sets).encode())


# ------------------------------------------------------------------------------------------------------ pseudonyms


def test_an_ascii_id_keeps_its_pseudonym() -> None:
    for identity in ("4711", "SECRET-4711", "PANCREAS_0001", "a b  c"):
        plain = hmac.new(KEY, b"patient:" + identity.encode(), "sha256").hexdigest()[:16]
        assert patient_pseudonym(identity, KEY) == plain
        assert patient_pseudonym(f" {identity}\0 ".encode(), KEY) == plain
    assert patient_pseudonym("4711", bytes(32)) == "58ffb09f98fc364e"


@pytest.mark.parametrize(
    ("identity", "stored_as"),
    [
        (
            "MÜL001",
            [
                ("MÜL001".encode("latin-1"), ("ISO_IR 100",)),
                ("MÜL001 ".encode("latin-1"), ("ISO 2022 IR 100",)),
                ("MÜL001".encode(), ("ISO_IR 192",)),
                (unicodedata.normalize("NFD", "MÜL001").encode(), ("ISO_IR 192",)),
                ("MÜL001".encode(), ()),  # undeclared UTF-8
                ("MÜL001\0".encode("latin-1"), ()),  # undeclared Latin-1
                ("MÜL001".encode("latin-1"), ("ISO_IR 192",)),  # declared wrongly
                ("MÜL001".encode("latin-1"), ("ISO-IR 100",)),  # misspelt
                ("MÜL001".encode("gb18030"), ("GB18030",)),
            ],
        ),
        ("山田01", [(JAPANESE, ("", "ISO 2022 IR 87")), ("山田01".encode(), ("ISO_IR 192",))]),
        ("山田01", [("山田01".encode("gb18030"), ("GB18030",)), ("山田０１".encode(), ("ISO_IR 192",))]),
        ("Иван7", [("Иван7".encode("iso8859-5"), ("ISO_IR 144",)), ("Иван7".encode(), ("ISO_IR 192",))]),
        ("김12", [(b"\x1b$)C\xb1\xe812", ("", "ISO 2022 IR 149")), ("김12".encode(), ("ISO_IR 192",))]),
    ],
)
def test_one_patient_in_every_encoding(
    identity: str, stored_as: list[tuple[bytes, tuple[str, ...]]], tmp_path: Path
) -> None:
    for number, (content, character_sets) in enumerate(stored_as):
        series_of(tmp_path / str(number), content, *character_sets, seed=number)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = index_dicom(tmp_path, key=KEY)
    assert len(found) == len(stored_as)
    assert {one.patient_key for one in found} == {patient_pseudonym(identity, KEY)}
    assert patient_pseudonym(unicodedata.normalize("NFD", f"\ufeff{identity}\u3000"), KEY) == found[0].patient_key


def test_a_sheet_in_any_encoding_finds_the_patient(tmp_path: Path) -> None:
    for number in range(20):
        identity = f"MÜL{number:03d}"
        encoding, declared = ("latin-1", "ISO_IR 100") if number % 2 else ("utf-8", "ISO_IR 192")
        series_of(tmp_path / "data" / str(number), identity.encode(encoding), declared, seed=number)
    lines = ["PatientID,label", *(f"MÜL{number:03d},{'ab'[number % 2]}" for number in range(20))]
    sheets = [
        "\n".join(lines).encode(),
        "\n".join(lines).encode("utf-8-sig"),
        "\n".join(lines).encode("cp1252"),
        "\n".join(lines).encode("utf-16"),
        unicodedata.normalize("NFD", "\n".join(lines)).encode(),
    ]
    made = []
    for number, content in enumerate(sheets):
        (tmp_path / f"{number}.csv").write_bytes(content)
        made.append(make_datalist(tmp_path / "data", tmp_path / f"{number}.csv", key=KEY))
    assert all(one == made[0] for one in made)


@pytest.mark.parametrize("named", ["undefined", "idna", "rot13", "hex", "punycode", "utf-7", "nonsense", "\\\\"])
def test_no_character_set_loses_the_patient(named: str, tmp_path: Path) -> None:
    for number, identity in enumerate((b"M\xdcL1", b"M\xdcL2", b"PLAIN3")):
        series_of(tmp_path / str(number), identity, named, seed=number)
        make_series(
            tmp_path / "without" / str(number), slices=1, seed=number, change=lambda k, ds: delattr(ds, "PatientID")
        )
    found = {one.patient_key for one in index_dicom(tmp_path, key=KEY)}
    studies = {one.patient_key for one in index_dicom(tmp_path / "without", key=KEY)}
    assert len(found - studies) == 3
    assert patient_pseudonym("PLAIN3", KEY) in found


def test_bytes_that_are_no_text_are_a_patient_all_the_same(tmp_path: Path) -> None:
    for number, content in enumerate((b"\xff\xfe\x81", b"\xff\xfe\x81", b"\xff\xfe\x82", b"\x1b$B\xff\x1b(B")):
        series_of(tmp_path / str(number), content, "ISO 2022 IR 87", "nonsense", seed=number)
    found = [index_dicom(tmp_path / str(number), key=KEY)[0].patient_key for number in range(4)]
    assert found[0] == found[1]
    assert len(set(found)) == 3


# ------------------------------------------------------------------------------------------------------- redaction


@pytest.mark.parametrize(
    ("who", "description", "shown"),
    [
        (Identity(("PANCREAS_0001",)), "Pancreas portal", "Pancreas portal"),
        (Identity(("PANCREAS_0001",), ("PANCREAS_0001",)), "pancreas_0001 Pancreas", "*** Pancreas"),
        (Identity(("LUNG1-001",)), "Lung 1.0 B70f", "Lung 1.0 B70f"),
        (Identity(("Brain-12",)), "T1 BRAIN ax", "T1 BRAIN ax"),
        (Identity(("COVID_CT_7",)), "Covid chest CT", "Covid chest CT"),
        (Identity(("1",)), "Thorax 1.0 soft", "Thorax 1.0 soft"),
        (Identity(("0004711",)), "4711 thorax, 04711, 0004711", "*** thorax, ***, ***"),
        (Identity(("SECRET-4711",)), "for Secret 4711, SECRET4711", "for ***, ***"),
        (Identity(("DOE_JANE_1950",)), "Jane Doe thorax", "*** *** thorax"),
        (Identity((), ("Brain^Anna",)), "Anna Brain, T1", "*** ***, T1"),
        (Identity((), ("Young^Li",)), "LI, liver, young-adult", "***, liver, ***-adult"),
        (Identity((), ("Müller^Jürgen",)), "Mueller MULLER MÜLLER Juergen", "*** *** *** ***"),
        (Identity((), ("Mueller^J",)), "Ju\u0308rgen Mu\u0308ller J1".replace("u\u0308", "ü"), "Jürgen *** J1"),
        (Identity((), ("Yamada^Tarou=山田^太郎=やまだ^たろう",)), "山田太郎 CT yamada", "*** CT ***"),
        (Identity((), (), ("19500203",)), "19500203 or 1950-02-03, 03.02.1950 or 2/3/1950", "*** or ***, *** or ***"),
        (Identity((), (), ("19500203",)), "03.02.50 a 3 Feb 1950 b FEB 3, 1950 c 030250", "*** a *** b *** c ***"),
        (Identity((), (), ("19500203",)), "1950 slices, 119500203, 3.2", "1950 slices, 119500203, 3.2"),
        (Identity((), (), ("unknown",)), "unknown", "unknown"),
        (Identity((), ("Doe^Jane^^Mr^Jr",)), "MR of Jane Doe jr", "MR of *** *** jr"),
        (Identity((), (), (), ("CT^Tech", "Otto^Max", "Neck^")), "CT neck for Dr Otto", "CT neck for Dr ***"),
    ],
)
def test_what_identifies_is_blotted_out_and_words_are_not(who: Identity, description: str, shown: str) -> None:
    assert redacted(description, who) == shown
    assert not set(who.ids + who.names) & set(repr(who))


@pytest.mark.parametrize(
    ("identity", "name", "description", "rule"),
    [
        ("PANCREAS_0001", "PANCREAS_0001", "Pancreas of PANCREAS_0001", "pancreas of"),
        ("7", "Brain^Anna", "BRAIN t2", "brain"),
        ("4711081508", "Doe^Jane", "scan 4711081508 of Jane", "4711081508"),  # long enough not to be in a random UID
        ("8", "Müller^Eva", "müller protocol", "MÜLLER"),
    ],
)
def test_a_rule_finds_what_is_not_shown(
    identity: str, name: str, description: str, rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientID, ds.PatientName, ds.SeriesDescription = identity, name, description

    make_series(tmp_path / "data", slices=2, change=change)
    found = index_dicom(tmp_path / "data")
    assert choose_series(found, SeriesRule(description=rule)) == found
    assert description not in repr(found)
    assert not choose_series(found, SeriesRule(description="liver"))
    for suffix in ("csv", "json"):
        write_series(found, tmp_path / f"index.{suffix}")
    Console(width=200).print(series_table(found))
    written = "".join((tmp_path / f"index.{suffix}").read_text() for suffix in ("csv", "json"))
    told = (written + capsys.readouterr().out).lower()
    for word in (name.split("^")[-1], identity if len(identity) > 1 else name.split("^")[-1]):
        assert word.lower() not in told


@pytest.mark.parametrize("keyword", ["Modality", "BodyPartExamined", "RescaleType", "PhotometricInterpretation"])
def test_a_name_in_place_of_a_code_is_not_shown(keyword: str, tmp_path: Path) -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.PatientName = "Plantedname^Eva"
        if keyword == "PhotometricInterpretation":
            ds.Modality = "US"
            del ds.ImagePositionPatient

    make_series(tmp_path, slices=1, change=change)
    set_bytes(tmp_path, keyword, "CS", b"PLANTEDNAME")
    (found,) = index_dicom(tmp_path)
    told = str(found.row()) + "".join(map(str, found.problems))
    try:
        told += load_series(tmp_path).modality
    except DicomSeriesError as error:
        told += str(error)
    assert "planted" not in told.lower()


def test_codes_stay_whoever_has_them_as_a_name(tmp_path: Path) -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.PatientName, ds.PatientID, ds.BodyPartExamined = "Chest^CT", "CT", "CHEST"

    make_series(tmp_path, slices=2, change=change)
    assert load_series(tmp_path).intensity == "HU"
    row = index_dicom(tmp_path)[0].row()
    assert (row["modality"], row["body_part"]) == ("CT", "CHEST")


# -------------------------------------------------------------------------------------------------------- warnings

ODD = {
    "StudyInstanceUID": ("UI", b"Plantedname^Eva "),
    "FrameOfReferenceUID": ("UI", b"Plantedname"),
    "RescaleSlope": ("DS", b"Plantedname"),
    "InstanceNumber": ("IS", b"Plantedname"),
    "PatientBirthDate": ("DA", b"Plantedname^1950"),
    "PatientAge": ("AS", b"Plantedname"),
    "PatientSex": ("CS", b"plantedname\xfc"),
    "SeriesDescription": ("LO", b"of Planted\xfc name " * 8),
    "Manufacturer": ("UN", b"Plantedname"),
    "InstitutionName": ("LO", b"Plantedname \x1b$Bzz\xff"),
    "PatientName": ("PN", b"Plantedname^Eva=\xff\xfe"),
    "SpecificCharacterSet": ("CS", b"PLANTEDNAME\\ISO_IR 192\\Planted"),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Series with one odd value each, and one cut off in its header."""
    root = tmp_path_factory.mktemp("odd")
    for number, (keyword, (vr, content)) in enumerate(ODD.items()):
        make_series(root / str(number), slices=3, seed=number)
        set_bytes(root / str(number), keyword, vr, content)
    make_series(root / "cut", slices=1, seed=99)
    (file,) = (root / "cut").iterdir()
    file.write_bytes(file.read_bytes()[:420])
    return root


EVERY_WAY = """
import logging, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from monai_rd.datasets import find_studies
from monai_rd.datasets.datalist import make_datalist
from monai_rd.dicom import index, index_dicom, load_series
logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s", stream=sys.stderr)
index._CHUNK = 4
def attempt(call, *given, **more):
    try:
        return call(*given, **more)
    except Exception as error:
        print(error, file=sys.stderr)
root = Path(sys.argv[1])
folders = sorted(root.iterdir())
index_dicom(root, workers=2)
index_dicom(root, workers=1)
[attempt(load_series, folder) for folder in folders]
list(ThreadPoolExecutor(4).map(lambda folder: attempt(load_series, folder), folders * 3))
attempt(make_datalist, root)
attempt(find_studies, root, policy={"default": "skip"})
"""


@pytest.mark.slow
def test_nothing_of_a_header_reaches_the_terminal(odd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", EVERY_WAY, str(odd)], capture_output=True, timeout=120, check=False
    )
    told = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, told
    assert "planted" not in told.lower()
    assert "pydicom" not in told
    odd_lines = [line for line in told.splitlines() if "DICOM headers hold" in line]
    assert odd_lines, told
    assert len(odd_lines) == len(set(odd_lines)) <= 5


def test_overlapping_guards_leave_things_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    before = (warnings.showwarning, list(warnings.filters), logging.getLogger("pydicom").filters[:])
    first, second = log_warnings_once(), log_warnings_once()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    logging.getLogger("pydicom").warning("Invalid value for VR UI: 'Plantedname'.")
    second.__exit__(None, None, None)
    assert (warnings.showwarning, list(warnings.filters), logging.getLogger("pydicom").filters[:]) == before
    assert "Planted" not in caplog.text
    with log_warnings_once(), pytest.warns(UserWarning, match="of others"):
        warnings.warn("of others", stacklevel=1)
