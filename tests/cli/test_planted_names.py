"""Names planted wherever one can stand; every command is run on them, and whatever it says and writes is searched.

What may hold one, and why:

- names of class folders, which are labels: none is planted there, but in folders that are no classes;
- what a command echoes of the words that its user typed (`told_by` takes these very words out, no path below them);
- a data list, which names plain images by their paths (docs/guide/lists.md); DICOM and images of known patients
  it does not;
- DICOM objects, which bear the patient and study that they belong to.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_rd.cli.app import main
from tests.bundles.commands import BUNDLES, copied, monai
from tests.planted import (
    OF_THE_STUDY,
    names_below,
    names_in,
    planted,
    planted_damage,
    planted_picture,
    planted_series,
    planted_sheet,
    planted_volume,
    planted_volumes,
)
from tests.small import SMALL
from tests.trained import trained_bundle

Command = Callable[..., tuple[int, str]]
SUFFIXES = (".png", ".jpg", ".tif", ".nii.gz", ".nii", ".mha", ".nrrd")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any, caplog: Any) -> Command:
    """Run `monai-rd` in the folder `work`; gives its exit code and all that was said, at every level of the log."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: Any) -> tuple[int, str]:
        typed = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", ["monai-rd", *typed])
        caplog.clear()
        capfd.readouterr()
        with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG, "monai_rd"):
            warnings.simplefilter("always")
            with pytest.raises(SystemExit) as left:
                main()
        told = "".join(capfd.readouterr()) + caplog.text + "".join(f"{one.message} {one.filename}" for one in caught)
        code = left.value.code
        return int(code) if isinstance(code, int | None) and code else (0 if not code else 1), told_by(told, typed)

    return run


def told_by(told: str, typed: list[str]) -> str:
    """What a command says of its own accord: without its user's words."""
    for word in sorted(typed, key=len, reverse=True):
        told = told.replace(word, "") if names_in(word) else told
    return told


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export as it comes: folders of patients, a link, images beside them, damage."""
    root = tmp_path_factory.mktemp("hospital") / planted("RootFolder")
    for number in range(3):
        planted_series(root / planted("PatientFolder") / planted("StudyFolder") / str(number), number, slices=3)
    elsewhere = root.parent / planted("LinkedFolder")
    planted_series(elsewhere, 7)
    (root / planted("Link")).symlink_to(elsewhere)
    for number, suffix in enumerate(SUFFIXES):
        write = planted_picture if number < 3 else planted_volume
        write(root / planted("ImageFolder") / f"{planted('ImageFile')}{suffix}", number)
    planted_volumes(root / planted("VolumesFolder"))
    planted_damage(root / planted("DamagedFolder"), 20)
    return root


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of two classes, with folders of patients in them; nothing is damaged."""
    root = tmp_path_factory.mktemp("classes") / planted("RootFolder")
    for number in range(40):
        place = root / ("sick" if number % 2 else "well")
        kind = number // 2 % 8
        if kind == 7:
            planted_series(place / planted("PatientFolder") / str(number), number, slices=2)
        else:
            write = planted_picture if kind < 3 else planted_volume
            write(place / planted("ImageFolder") / f"{planted('ImageFile')}{number}{SUFFIXES[kind]}", number)
    return root


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DICOM alone, of 40 patients, and sheets beside it."""
    root = tmp_path_factory.mktemp("export") / planted("RootFolder")
    rows = []
    for number in range(40):
        planted_series(root / planted("PatientFolder") / str(number), number)
        rows.append({"PatientID": f"{planted('PatientID')}-{number:03d}", "label": "sick" if number % 2 else "well"})
    for suffix in (".csv", ".xlsx"):
        planted_sheet(root / f"{planted('SheetFile')}{suffix}", rows)
    wrong = [*rows, *({**row, "PatientID": planted("SheetUnknown")} for row in rows[:2]), {**rows[0], "label": "other"}]
    planted_sheet(root / f"{planted('WrongSheet')}.csv", wrong)
    return root


def test_the_search_finds_what_is_planted(hospital: Path) -> None:
    """So that an empty result means something: the source is full of names, packed ones too."""
    found = set().union(*names_below(hospital).values())
    assert {"patientname", "pngcompressed", "privatebytes", "descri", "headervalue", "artist", "oddpatientage"} <= found
    assert names_in(planted("PatientName").encode("utf-16")) == {"patientname"}
    assert names_in("Plantqz\nPatient\n  Name") == {"patientname"}
    assert names_in(gzip.compress(planted("PatientName").encode())) == {"patientname"}


@pytest.mark.parametrize("start", [b"\x1f\x8b", b"\x1f\x8b\x08\0", b"PK\3\4"], ids=["gzip", "deflate", "zip"])
def test_the_search_takes_numbers_that_begin_like_a_packed_file(start: bytes) -> None:
    """The bytes of a tensor in a checkpoint are as good as random."""
    assert names_in(start + bytes(range(256))) == set()
    assert names_in(start + planted("PatientName").encode()) == {"patientname"}


def test_index(command: Command, hospital: Path, tmp_path: Path) -> None:
    code, told = command("index", hospital, "--csv", "a.csv", "--json", "a.json", "--workers", 1)
    assert code == 3, told
    assert names_in(told) == set(), told
    for words in (["--description", "thorax"], ["--modality", "CT", "--per", "patient"]):
        assert names_in(command("index", hospital, *words, "--workers", 1)[1]) == set()
    assert names_in(command("index", hospital / "nothing")[1]) == set()
    assert names_below(tmp_path / "work") == {}


def test_lists_and_audit_of_folders(command: Command, classes: Path, hospital: Path, tmp_path: Path) -> None:
    code, told = command("datalist", classes, "--out", "list.json")
    assert code == 0, told
    assert names_in(told) == set(), told
    code, told = command("audit", classes, "list.json", "--out", "audit", "--fix", "clean.json")
    assert names_in(told) == set(), told
    code, told = command("audit", classes, "--out", "audit2", "--fix", "clean2.json")
    assert names_in(told) == set(), told
    named = {"imagefolder", "imagefile"}
    lists = {name: named for name in ("list.json", "clean.json", "clean2.json")}
    assert names_below(tmp_path / "work") == lists
    # Folders that are no classes, damage, wrong words
    for words in ([], ["--policy", "default=skip"], ["--class-names", "sick,well"], ["--folds", "3"]):
        assert names_in(command("datalist", hospital, "--out", "no.json", *words)[1]) == set()
    assert names_in(command("audit", hospital, "--out", "audit3")[1]) == set()


def test_folders_of_patients_are_no_classes(command: Command, tmp_path: Path) -> None:
    """Given for class folders: what is too small for a class is refused, and not named."""
    root = tmp_path / "data"
    for number, name in enumerate(("FirstPatient", "SecondPatient", "ThirdPatient", "ThirdPatient")):
        planted_series(root / planted(name) / str(number), number)
    for words in ([], ["--folds", "3"], ["--policy", "default=skip"]):
        code, told = command("datalist", root, "--out", "no.json", *words)
        assert code == 2
        assert "class folder 3 of 3 (sorted by name) has 2 patients" in told
        assert names_in(told) == set(), told
    code, told = command("audit", root, "--fix", "clean.json")
    assert names_in(told) == set(), told
    assert names_below(tmp_path / "work") == {}


def test_wrong_lists(command: Command, classes: Path, tmp_path: Path) -> None:
    """With paths, series and patients that are not there, and keys and values that nobody asked for."""
    places = ("ListPath", "ListSeries", "ListSop", "ListHash", "ListPatient", "ListSite")
    path, series, sop, content, patient, site = map(planted, places)
    entries: list[Any] = [
        {"image": f"{path}/a.png", "label": 0},
        {"image": f"/{path}/a.png", "label": 0, "patient": patient, planted("ListKey"): planted("ListValue")},
        {"image": f"../{path}", "label": "sick", "site": site},
        {"image": [path], "label": "sick"},
        {"series": series, "label": "sick", "series_volume": planted("ListVolume")},
        {"series": series, "sop": sop, "label": "well"},
        {
            "sha256": content,
            "label": "well",
            "patient": [patient],
            "age": planted("ListAge"),
            "sex": planted("ListSex"),
        },
        {"image": f"sick/{path}.png", "label": {planted("ListLabel"): 1}},
        path,
    ]
    lists = {"training": entries, "validation": [], "test": [], planted("ListSplit"): []}
    (tmp_path / "work" / "wrong.json").write_text(json.dumps(lists))
    keys = ("image", "series", "patient", "series_volume", "split", "sex", "age", planted("ListColumn"))
    for key in ("image", "series", "patient"):
        rows = [[planted(f"Sheet{one}") for one in keys], *[[planted(f"Sheet{one}2") for one in keys]] * 2]
        chosen = [column for column in range(len(keys)) if keys[column] == key or column > 2]
        lines = [",".join(keys[n] for n in chosen), *(",".join(row[n] for n in chosen) for row in rows)]
        content = [f"{line},{'label' if number == 0 else 'sick'}" for number, line in enumerate(lines)]
        (tmp_path / "work" / f"{key}.csv").write_text("\n".join(content))
    for wrong in ("wrong.json", "image.csv", "series.csv", "patient.csv"):
        for words in (["datalist", classes, "--out", "no.json", "--sheet", wrong], ["audit", classes, wrong]):
            code, told = command(*words)
            assert code, told
            assert names_in(told) == set(), told
    assert not (tmp_path / "work" / "no.json").exists()


@pytest.mark.parametrize("sheet", ["SheetFile.csv", "SheetFile.xlsx"])
def test_lists_and_audit_of_sheets(sheet: str, command: Command, export: Path, tmp_path: Path) -> None:
    file = export / planted(sheet.partition(".")[0])
    file = file.with_suffix(f".{sheet.partition('.')[2]}")
    code, told = command("datalist", export, "--sheet", file, "--out", "list.json")
    assert code == 0, told
    assert names_in(told) == set(), told
    for number, given in enumerate((file, "list.json")):
        code, told = command("audit", export, given, "--out", f"audit{number}", "--fix", f"clean{number}.json")
        assert names_in(told) == set(), told
    code, told = command("datalist", export, "--sheet", export / f"{planted('WrongSheet')}.csv", "--out", "no.json")
    assert code != 0, told
    assert names_in(told) == set(), told
    assert names_below(tmp_path / "work") == {}


def test_predict(command: Command, hospital: Path, tmp_path: Path) -> None:
    bundle = trained_bundle(tmp_path / "bundle")
    code, told = command("predict", bundle, "--from", hospital, "--to", "out", "--map")
    assert code == 3, told
    assert "studies scored" in told
    assert names_in(told) == set(), told
    code, told = command(
        "predict", bundle, "--from", hospital / planted("PatientFolder") / "0", "--to", "one", "--sc", "--text"
    )
    assert names_in(told) == set(), told
    assert len(list((tmp_path / "work").rglob("*_s[rc].dcm"))) > 3
    assert list((tmp_path / "work").rglob("*_map.dcm"))
    assert names_but_of_objects(tmp_path / "work") == {}
    for words in ([hospital / planted("CutFolder"), "--no-sr"], [hospital / "nowhere"]):
        assert names_in(command("predict", bundle, "--to", "bad", "--from", *words)[1]) == set()


def names_but_of_objects(folder: Path) -> dict[str, set[str]]:
    """The names below a folder without those that DICOM objects bear, which have no other than they must."""
    found = names_below(folder)
    for name in [one for one in found if re.fullmatch(r"\w+/dicom/[\w.-]+_(sr|sc|text|map)\.dcm", one)]:
        assert found.pop(name) <= OF_THE_STUDY
    return found


def test_label_app(command: Command, tmp_path: Path) -> None:
    application(command, "label-app", tmp_path)


@pytest.mark.slow
def test_deploy_app(command: Command, tmp_path: Path) -> None:
    application(command, "deploy-app", tmp_path)


def application(command: Command, name: str, folder: Path) -> None:
    """Of a bundle in a folder with a name."""
    code, told = command(name, "app", trained_bundle(folder / planted("Home")))
    assert code == 0, told
    assert names_in(told) == set(), told
    assert names_below(folder / "work") == {}


@pytest.mark.slow
def test_a_training_and_what_follows(command: Command, classes: Path, hospital: Path, tmp_path: Path) -> None:
    """With every file it leaves; then once more, failing."""
    root = copied("ct", tmp_path / planted("Home"))
    out, configs = root / "eval", BUNDLES / "rd_ct" / "configs"
    places = ["--bundle_root", str(root), "--output_dir", str(out), "--dataset_dir", str(classes)]
    words = ["--max_epochs", "1", "--image_size", "32", "--slices", "2", "--batch_size", "4", "--feature_views", "2"]
    words += ["--student", SMALL, "--method_options", "{'width': 8}"]

    def run(config: str, *more: str, code: int = 0) -> None:
        typed = ["run", "--config_file", config, *places, *more]
        told = told_by(monai(*typed, code=code), [*typed, *(str(path) for path in (root / "models", out))])
        assert names_in(told) == set(), told

    run(str(configs / "train.json"), *words)
    written = {path.relative_to(out).parts[0] for path in out.rglob("*") if path.is_file()}
    assert written >= {"report.html", "history.json", "metrics.json", "tensorboard", "features", "cache"}, written
    assert names_below(root) == {}
    run(str([str(configs / name) for name in ("train.json", "evaluate.json")]), *words)
    run(str(configs / "inference.json"), "--labelled", "true")
    for one in (
        ["features", "verify", "--", *places, *words],
        ["features", "info", out / "features"],
        ["export", root, "--format", "torchscript,onnx,torch.export", "--out", "exports", "--", *places[4:]],
        ["predict", root, "--from", classes, "--to", "scores"],
    ):
        code, told = command(*one)
        assert code == 0, told
        assert names_in(told) == set(), told
    for more in ([], ["--policy", "{'default': 'skip'}"]):  # folders that are no classes
        again = ["--dataset_dir", str(hospital), *words, *more, "--output_dir", str(tmp_path / "failed")]
        run(str(configs / "train.json"), *again, code=1)
    damaged = classes.with_name("damaged")
    shutil.copytree(classes, damaged)
    planted_damage(damaged / "sick" / planted("DamagedFolder"), 60)
    again = ["--dataset_dir", str(damaged), *words, "--output_dir", str(tmp_path / "failed"), "--report_page", "false"]
    run(str(configs / "train.json"), *again, code=1)
    run(str(configs / "train.json"), *again, "--policy", "{'default': 'skip'}")
    assert names_below(tmp_path / "failed") == {}
    assert names_below(root) == {}
    assert names_but_of_objects(tmp_path / "work") == {}
