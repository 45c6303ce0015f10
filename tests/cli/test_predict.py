"""`monai-rd predict` of folders, as a person types it."""

from __future__ import annotations

import csv
import json
import logging
import os
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from typer.testing import CliRunner, Result

from monai_rd.cli.app import app
from monai_rd.datasets import studies
from monai_rd.inference.facts import SCANNER
from tests.dicom_files import CORONAL, NAME, PATIENT_ID, make_series

Bundle = Callable[..., Path]
SHAPE = (40, 44)
# What no file may tell, but the SR and the SC, which carry what DICOM needs.
SECRET = {
    "PatientName": NAME,
    "PatientID": PATIENT_ID,
    "PatientBirthDate": "19310417",
    "StudyDate": "20190823",
    "AccessionNumber": "ACC-90817",
    "InstitutionName": "St. Geheim Hospital",
    "ReferringPhysicianName": "Verborgen^Otto",
}
WORDS = (*NAME.split("^"), PATIENT_ID, "19310417", "20190823", "ACC-90817", "Geheim", "Verborgen", "wardfolder")


def secret(_: int, ds: Dataset) -> None:
    for keyword, value in SECRET.items():
        setattr(ds, keyword, value)


def say(*words: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, words)])


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Two series in one folder, a localizer, a junk file, a damaged image and a series with a gap."""
    root = tmp_path_factory.mktemp("ward") / f"wardfolder_{NAME}"
    common: dict[str, Any] = {"shape": SHAPE, "change": secret}
    one, _ = make_series(root / "mixed", **common)
    for file in (root / "mixed").iterdir():
        file.rename(file.with_name(f"first_{file.name}"))
    two, _ = make_series(root / "mixed", **common, seed=1)
    gap, _ = make_series(root / "gap", **common, slices=8, skip=(3,), seed=2)

    def as_localizer(k: int, ds: Dataset) -> None:
        secret(k, ds)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    localizer, _ = make_series(root / "scout", shape=SHAPE, slices=1, orientation=CORONAL, change=as_localizer, seed=3)
    (root / f"{PATIENT_ID}_junk.dcm").write_bytes(b"no image at all" * 100)
    (root / "notes.txt").write_text("of no interest")
    return root, {"one": one, "two": two, "gap": gap, "localizer": localizer}


def test_a_ward_of_good_and_bad(ward: tuple[Path, dict[str, str]], bundle_of: Bundle, tmp_path: Path) -> None:
    root, uids = ward
    done = say("rd_ct", "--from", root, "--to", tmp_path / "out", "--", "--bundle_root", bundle_of(), "--device", "cpu")
    assert done.exit_code == 3, done.output
    rows = rows_of(tmp_path / "out")
    codes = {row["series"]: row["problem"] for row in rows}
    assert codes == {
        uids["one"]: "",
        uids["two"]: "",
        uids["gap"]: "MISSING_SLICES",
        uids["localizer"]: "LOCALIZER",
        "": "UNREADABLE_IMAGE",
    }
    assert len(rows) == 5
    for row in rows:
        assert (row["class"] in ("clear", "opacity")) is (not row["problem"])
        assert bool(row["message"]) is bool(row["problem"])
    assert "2 studies scored, 3 left out" in done.output
    assert all(f"1 {code}" in done.output for code in codes.values() if code)
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    reports = {f"dicom/{uids[name]}_sr.dcm" for name in ("one", "two")}
    assert written == {"scores.csv", "scores.json", *reports}
    assert {row["scored"] for row in rows} <= {(date.today() - timedelta(days)).isoformat() for days in (0, 1)}
    told = json.loads((tmp_path / "out" / "scores.json").read_text())["studies"]
    facts = [row["facts"] for row in told if not row.get("problem")]
    assert len(facts) == 2
    for one in facts:
        assert [one[name] for name in SCANNER] == ["another (3272)", "another", "3 mm"]
        assert 0 <= one["dark end (5 %)"] <= one["median"] <= one["bright end (95 %)"] <= 1
        assert 0 < one["fine detail (difference of neighbours)"] < 1


def test_what_cannot_be_opened_or_is_of_another_kind_has_its_row(
    bundle_of: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And nobody else goes without a score, and no path is told: not even of what goes while others are read."""
    root = tmp_path / "in"
    uid, _ = make_series(root / "linked_from", shape=SHAPE)
    (root / "linked_from").rename(tmp_path / "elsewhere")
    (root / NAME).symlink_to(tmp_path / "elsewhere")
    (root / f"{NAME}.png").symlink_to(tmp_path / "gone.png")
    (root / f"{NAME}.nii.gz").symlink_to(root / f"{NAME}.nii.gz")
    os.mkfifo(root / f"{NAME}.dcm")
    for name in ("webp", "dcm.gz", "zip"):
        (root / f"{NAME}.{name}").write_bytes(name.encode() * 20)
    (root / f"._{NAME}.png").write_bytes(b"no image")
    going = root / f"{NAME}.nii"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 5), np.float32), np.eye(4)), going)
    closed = root / f"closed_{NAME}"
    closed.mkdir()
    scandir, opened = os.scandir, studies.known_hash
    refuse = PermissionError(13, "Permission denied", str(closed))
    monkeypatch.setattr(os, "scandir", lambda path: _raise(refuse) if str(path) == str(closed) else scandir(path))

    def hashed_and_gone(path: Path) -> str:
        digest = opened(path)
        if path == going:
            going.unlink()
        return digest

    monkeypatch.setattr(studies, "known_hash", hashed_and_gone)
    with caplog.at_level(logging.DEBUG):
        done = say("rd_ct", "--from", root, "--to", tmp_path / "out", "--", "--bundle_root", bundle_of())
    assert done.exit_code == 3, done.output
    rows = rows_of(tmp_path / "out")
    codes = [row["problem"] for row in rows if row["id"] != uid]
    assert sorted(codes) == ["UNREADABLE_FILE"] * 5 + ["UNREADABLE_IMAGE"] * 3
    assert [row["problem"] for row in rows if row["id"] == uid] == [""]
    assert len({row["id"] for row in rows}) == len(rows)
    told = done.output + caplog.text + (tmp_path / "out" / "scores.json").read_text()
    assert NAME not in told


def _raise(error: Exception) -> Any:
    raise error


def test_nothing_but_dicom_objects_names_anybody(
    ward: tuple[Path, dict[str, str]], bundle_of: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of names, numbers, dates, institutions and folders; what is written, printed, logged, and file names."""
    root, bundle = ward[0], bundle_of()
    with caplog.at_level(logging.DEBUG):
        done = say("rd_ct", "--from", root, "--to", tmp_path / "out", "--sc", "--", "--bundle_root", bundle)
    assert done.exit_code == 3
    told = done.output.replace(str(tmp_path), "") + caplog.text
    files = [path for place in (tmp_path / "out", bundle) for path in place.rglob("*") if path.is_file()]
    assert sum(path.suffix == ".dcm" for path in files) == 4
    for word in WORDS:
        assert word not in told
        for path in files:
            assert word not in path.relative_to(tmp_path.parent).as_posix()
            assert path.suffix == ".dcm" or word.encode() not in path.read_bytes(), path


def test_all_scored_is_exit_code_0_and_words_choose_the_objects(
    bundle_of: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_series(tmp_path / "in", shape=SHAPE)
    words = ["--from", tmp_path / "in", "--to", tmp_path / "out", "--", "--bundle_root", bundle_of()]
    monkeypatch.setattr("monai_rd.cli.predict.find_spec", lambda name: None)
    assert "monai_rd[dicom]" in str(say("rd_ct", *words).exception)
    done = say("rd_ct", "--no-sr", *words)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scores.csv", "scores.json"]


def test_what_a_killed_run_left_unfinished_goes(
    ward: tuple[Path, dict[str, str]], bundle_of: Bundle, tmp_path: Path
) -> None:
    """A day later; what is being written, or somebody else's, stays."""
    out, long_ago = tmp_path / "out", time.time() - 2 * 86_400
    (out / "dicom").mkdir(parents=True)
    dead = [out / "scores.csv.0123abcd.tmp", out / "dicom" / "1.2.3_sr.dcm.0123abcd.tmp"]
    alive, other = out / "dicom" / "1.2.4_sr.dcm.4567cdef.tmp", out / "notes.tmp"
    for file in (*dead, alive, other):
        file.write_text("half of a")
        if file != alive:
            os.utime(file, (long_ago, long_ago))
    make_series(tmp_path / "in", shape=SHAPE)
    done = say("rd_ct", "--no-sr", "--from", tmp_path / "in", "--to", out, "--", "--bundle_root", bundle_of())
    assert done.exit_code == 0, done.output
    assert set(out.rglob("*.tmp")) == {alive, other}


def test_a_study_without_what_dicom_needs_is_scored_and_told(
    bundle_of: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(_: int, ds: Dataset) -> None:
        secret(_, ds)
        del ds.StudyInstanceUID

    make_series(tmp_path / "in", shape=SHAPE, change=change)
    done = say("rd_ct", "--from", tmp_path / "in", "--to", tmp_path / "out", "--", "--bundle_root", bundle_of())
    assert done.exit_code == 3
    assert "StudyInstanceUID" in caplog.text
    assert [row["problem"] for row in rows_of(tmp_path / "out")] == [""]
    assert not (tmp_path / "out" / "dicom").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "nowhere", "--to", "out"), "no such folder"),
        (("--from", "empty", "--to", "out"), "no DICOM series"),
        (("--from", "empty", "--to", "empty/out"), "lies in --from"),
        (("--from", "gopher://host", "--to", "out", "--modality", "CT"), "no archive"),
    ],
)
def test_wrong_places_are_told(
    words: tuple[str, ...], said: str, bundle_of: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    done = say("rd_ct", *words, "--", "--bundle_root", bundle_of())
    assert isinstance(done.exception, (ValueError, OSError))  # main() makes a line and exit code 2 of them
    assert said in str(done.exception)
    assert not list(tmp_path.rglob("scores.*"))
