"""The console command, as a person types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from typer.main import get_command
from typer.testing import CliRunner

from monai_rd.cli.app import app, main
from monai_rd.datasets import make_datalist
from monai_rd.pseudonyms import project_key
from tests.dicom_files import NAME, PATIENT_ID, make_series


@dataclass
class Ran:
    """What a person sees of a command."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Ran]


@pytest.fixture
def monai_rd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Command:
    """Run the command in a folder of its own, within this process, as starting Python anew takes seconds each."""

    def run(*words: object, folder: Path) -> Ran:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(sys, "argv", ["monai-rd", *map(str, words)])
        caplog.clear()
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return Ran(int(left.value.code or 0), printed.out, printed.err + caplog.text)

    return run


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 patients of two classes, one of them with a series that has a gap; folders named after the patients."""
    root = tmp_path_factory.mktemp("hospital")
    rows = ["PatientID,label"]
    for number in range(24):

        def change(k: int, ds: Dataset, number: int = number) -> None:
            ds.PatientID, ds.SeriesDescription = f"{PATIENT_ID}-{number}", f"Thorax {NAME}"

        make_series(root / "data" / f"{NAME}_{number}", slices=4, shape=(20, 20), change=change, seed=number)
        rows.append(f"{PATIENT_ID}-{number},{'sick' if number % 2 else 'well'}")
    make_series(root / "data" / "gap", slices=9, skip=(3,), seed=99)
    (root / "sheet.csv").write_text("\n".join(rows))
    return root


def private(text: str) -> bool:
    return any(word.lower() in text.lower() for word in (*NAME.split("^"), PATIENT_ID))


def test_index_prints_and_writes_what_is_there(monai_rd: Command, hospital: Path, tmp_path: Path) -> None:
    ran = monai_rd(
        "index", hospital / "data", "--csv", "i.csv", "--json", "i.json", "--modality", "CT", folder=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert "25 DICOM series" in ran.stdout
    assert "not read as they are: 1 MISSING_SLICES" in ran.stdout
    assert "24 of 25 series taken: modality CT; of each patient the one with the most slices" in ran.stdout
    assert "CT axial, 4 slices" in ran.stdout
    rows = json.loads((tmp_path / "i.json").read_text())
    assert sum(row["taken"] for row in rows) == 24
    assert len((tmp_path / "i.csv").read_text().splitlines()) == 26
    assert not private(ran.stdout + ran.stderr + (tmp_path / "i.csv").read_text() + json.dumps(rows))
    assert (tmp_path / "monai_rd.key").stat().st_mode & 0o077 == 0
    again = monai_rd("index", hospital / "data", "--json", "j.json", folder=tmp_path)
    assert again.returncode == 0
    assert [r["patient"] for r in json.loads((tmp_path / "j.json").read_text())] == [r["patient"] for r in rows]


def test_index_alone_leaves_nothing_behind(monai_rd: Command, hospital: Path, tmp_path: Path) -> None:
    assert monai_rd("index", hospital / "data", folder=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_from_a_sheet_of_patients_to_a_list_that_a_bundle_reads(
    monai_rd: Command, hospital: Path, tmp_path: Path
) -> None:
    data = hospital / "data"
    words = ("datalist", data, "--sheet", hospital / "sheet.csv", "--class-names", "well,sick")
    ran = monai_rd(*words, "--out", "list.json", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("list.json: training 15 (")
    assert not private((tmp_path / "list.json").read_text() + ran.stdout + ran.stderr)
    made = make_datalist(data, tmp_path / "list.json", key=project_key(tmp_path / "monai_rd.key"))
    assert made.class_names == ("well", "sick")
    assert sum(len(made[split]) for split in ("training", "validation", "test")) == 24

    ran = monai_rd(*words, "--out", "cv.json", "--folds", 4, folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    tested = [make_datalist(data, tmp_path / f"cv_{fold}.json").test for fold in range(4)]
    assert len({item["series"] for fold in tested for item in fold}) == 24


def test_everything_wrong_is_said_at_once_and_nothing_is_written(
    monai_rd: Command, hospital: Path, tmp_path: Path
) -> None:
    (tmp_path / "sheet.csv").write_text(f"PatientID,label\nnobody,well\n{PATIENT_ID}-1,\n{PATIENT_ID}-2,well\n")
    ran = monai_rd("datalist", hospital / "data", "--sheet", "sheet.csv", "--out", "list.json", folder=tmp_path)
    assert ran.returncode == 2
    for words in ("row 2: no DICOM series of this patient", "row 3: no label", "at least two classes"):
        assert words in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not private(ran.stderr)
    assert not (tmp_path / "list.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("index", "nowhere"), "The folder given does not exist"),
        (("index", ".", "--pick", "best"), "pick 'best' is none of most_slices, largest, all"),
        (("index", ".", "--policy", "TILTED_STACK"), "give CODE=error, CODE=skip or CODE=warn"),
        (("index", ".", "--policy", "TILT=skip"), "there is no code 'TILT'"),
        (("datalist", ".", "--out", "x.json", "--sheet", "none.csv"), "'none.csv' is not a file"),
        (("datalist", ".", "--out", "x.json"), "no two class folders with images. Give one of: a CSV or Excel sheet"),
        (("audit", "nowhere"), "is not a folder"),
    ],
)
def test_wrong_words_end_with_one_line(monai_rd: Command, words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    ran = monai_rd(*words, folder=tmp_path)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def options_of(command: Any, *path: str) -> Iterator[tuple[list[str], str]]:
    """Every long option of every command below, with the words that lead there."""
    for name, below in getattr(command, "commands", {}).items():
        yield from options_of(below, *path, name)
    if not hasattr(command, "commands"):
        for parameter in command.params:
            yield from ((list(path), option) for option in parameter.opts if option.startswith("--"))


@pytest.mark.slow
def test_a_misspelt_option_of_any_command_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    tried = [one for one in options_of(get_command(app)) if one[1] != "--help"]
    assert {("predict",), ("export",), ("features", "fill"), ("benchmark", "table3"), ("index",)} <= {
        tuple(path) for path, _ in tried
    }
    for path, option in tried:
        misspelt = option[:-2] + option[-1] + option[-2]
        said = CliRunner().invoke(app, [*path, misspelt, "1"])
        assert said.exit_code == 2, (path, misspelt)
        known = re.search(rf"No such option: {misspelt} .*", said.output)
        assert known is not None, (path, misspelt, said.output)
        assert option in known[0]


@pytest.mark.parametrize("words", [["predict", "--from", "x", "--to", "y"], ["export", "--format", "onnx"]])
def test_words_for_a_bundle_stand_after_two_dashes(words: list[str], monai_rd: Command, tmp_path: Path) -> None:
    """Else they would be options of ours that are misspelt; where they belong, they are looked at by the bundle."""
    (tmp_path / "x").mkdir()
    ran = monai_rd(*words, "rd_ct", "--dataset_dir", "z", folder=tmp_path)
    assert ran.returncode == 2
    assert re.search("No such option:? '?--dataset_dir", ran.stderr)  # as Typer's versions word it
    assert "-- --ID VALUE" in ran.stderr
    ran = monai_rd(*words, "rd_ct", "--", "--datasetdir", "z", folder=tmp_path)
    assert ran.returncode == 2
    assert "nothing reads --datasetdir (did you mean 'dataset_dir'?)" in ran.stderr


def test_audit_writes_its_findings_and_the_list_without_them(monai_rd: Command, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "data" / ("well", "sick")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 48), dtype=np.uint8)).save(folder / f"{NAME}{number}.png")
    twin = (tmp_path / "data" / "well" / f"{NAME}0.png").read_bytes()
    (tmp_path / "data" / "sick" / "twin.png").write_bytes(twin)
    ran = monai_rd("audit", "data", folder=tmp_path)
    assert ran.returncode == 1, ran.stderr
    assert "LABEL_CONFLICT" in ran.stdout
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["findings_by_kind"]["LABEL_CONFLICT"] == 1
    assert Image.open(tmp_path / "audit" / "pairs.png").size[0] > 500
    fixed = monai_rd("audit", "data", "--fix", "clean.json", "--out", "second", folder=tmp_path)
    assert fixed.returncode == 0, fixed.stderr
    removed = json.loads((tmp_path / "clean.removed.json").read_text())
    assert {entry["kind"] for entry in removed} == {"LABEL_CONFLICT"}
    clean = make_datalist(tmp_path / "data", tmp_path / "clean.json")
    assert sum(len(clean[split]) for split in ("training", "validation", "test")) == 41 - len(removed)
    for text in (ran.stdout, ran.stderr, json.dumps(found), json.dumps(removed)):
        assert not private(text)


def test_the_command_is_installed(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "monai_rd", "index", "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr == "monai-rd: The folder given does not exist. Give the folder that holds the DICOM files.\n"


def test_headers_do_not_wait_for_torch() -> None:
    code = "import sys, monai_rd.dicom, monai_rd.cli.app; print([n for n in ('torch', 'monai') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data", "Permission denied: data"),
        ("data/ill/Doe^Jane.png", "Permission denied: something below data"),
        ("out/Doe^Jane/list.json", "Permission denied: something below out/Doe^Jane"),  # of which the user typed it
        ("elsewhere/Doe^Jane.csv", "Permission denied: a file or folder below none of the paths typed"),
        (b"data/Doe^Jane\xff", "Permission denied: something below data"),
    ],
)
def test_of_a_path_no_more_is_told_than_was_typed(
    path: str | bytes, said: str, monai_rd: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*words: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("monai_rd.datasets.datalist.make_datalist", refused)
    ran = monai_rd("datalist", "data", "--out=out/Doe^Jane", "--key", tmp_path / "key", folder=tmp_path)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Doe" not in ran.stderr.replace("--out=out/Doe^Jane", "").replace("below out/Doe^Jane", "")


def test_what_the_system_says_otherwise_stays(
    monai_rd: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*words: object, **named: object) -> None:
        raise OSError("the disk is too small: take another")

    monkeypatch.setattr("monai_rd.datasets.datalist.make_datalist", refused)
    assert "the disk is too small: take another" in monai_rd("datalist", "data", "--out", "x", folder=tmp_path).stderr


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*words: object, **named: object) -> None:
        raise KeyError("student")

    monkeypatch.setattr("monai_rd.datasets.datalist.make_datalist", fails)
    monkeypatch.setattr(sys, "argv", ["monai-rd", "datalist", str(tmp_path), "--out", str(tmp_path / "x")])
    with pytest.raises(KeyError, match="student"):
        main()
