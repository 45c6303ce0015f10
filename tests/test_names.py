"""Names that are markup, formulas or escapes to a program: shown as they are by everything that shows a name."""

from __future__ import annotations

import csv
import io
import json
import re
from html import unescape
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from PIL import Image
from typer.testing import CliRunner

from monai_rd.cli.app import app, main
from monai_rd.console import terminal
from monai_rd.dicom import index_dicom
from monai_rd.inference import Prediction, write_scores
from monai_rd.networks import Student
from monai_rd.protocol.tables import Grid
from monai_rd.report import FinalReport, figures, save_figure
from monai_rd.report.labelled import _table
from monai_rd.report.metrics import classification_metrics
from monai_rd.report.page import note, table
from monai_rd.report.series import series_table, write_series
from monai_rd.text import csv_of, name_of, printable
from tests.dicom_files import make_series
from tests.small import SMALL

NAMES = [
    "[bold]mass",
    "[/]",
    ":brain: 1",
    "<b>x</b>&amp;",
    "a$b$c^2",
    "=1+1",
    "-x",
    "_under",
    "**star** `code` | bar",
    "😀 ok",
    "שלום",
    "%s {0} \\n",
]


def shown(text: str) -> str:
    """What is printed, without the frames and blanks of tables."""
    return re.sub(r"[\s│┃┡┩╇─━]+", " ", text)


def test_lists_and_audits_tell_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    names = [name.replace("|", "") for name in NAMES]
    with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "split"])
        for number in range(3 * len(names)):
            split = ("training", "validation", "test")[number % 3]
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32), np.uint8)).save(f"{number}.png")
            writer.writerow([f"{number}.png", names[number // 3], split if number else "test"])
    said = CliRunner().invoke(app, ["datalist", ".", "--sheet", "labels.csv", "--out", "list.json"])
    assert said.exit_code == 1, "a class is not in training"
    assert f"class {name_of(names[0])!r}" in str(said.exception) or name_of(names[0]) in str(said.exception)
    content = (
        (tmp_path / "labels.csv")
        .read_text(encoding="utf-8")
        .replace("0.png,[bold]mass,test", "0.png,[bold]mass,training")
    )
    (tmp_path / "labels.csv").write_text(content, encoding="utf-8")
    said = CliRunner().invoke(app, ["datalist", ".", "--sheet", "labels.csv", "--out", "list.json"])
    assert said.exit_code == 0, said.output
    for name in names:
        assert f"1 {name_of(name)}" in said.output
    assert json.loads((tmp_path / "list.json").read_text())["class_names"] == sorted(map(name_of, names))
    items = json.loads((tmp_path / "list.json").read_text())
    test = items["test"]
    for name in ("[bold]mass", "[/]", ":brain: 1", "%s {0} \\n"):
        items["test"] = [one for one in test if items["class_names"][one["label"]] != name]
        (tmp_path / "list.json").write_text(json.dumps(items))
        said = CliRunner().invoke(app, ["audit", ".", "list.json"])
        assert f"Class '{name}' has no item in test" in shown(said.output)


def test_a_description_is_no_markup_and_no_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(NAMES):

        def change(k: int, ds: object, name: str = name) -> None:
            ds.SpecificCharacterSet, ds.SeriesDescription = "ISO_IR 192", name.replace("\\", "/")  # type: ignore[attr-defined]

        make_series(tmp_path / "data" / str(number), slices=1, seed=number, change=change)
    found = index_dicom(tmp_path / "data")
    terminal(width=300).print(series_table(found))
    printed = capsys.readouterr().out
    for name in NAMES:
        assert name.replace("\\", "/") in printed
    write_series(found, tmp_path / "index.csv")
    cells = {row["description"] for row in csv.DictReader(io.StringIO((tmp_path / "index.csv").read_text()))}
    assert {"'=1+1", "'-x", "[bold]mass"} <= cells


def test_scores_hold_no_formula_and_their_json_the_name(tmp_path: Path) -> None:
    chances = dict.fromkeys(NAMES, 1 / len(NAMES))
    answers = [Prediction(str(n), classes=(name,), probabilities=chances, model="ab") for n, name in enumerate(NAMES)]
    write_scores(tmp_path / "scores.csv", answers, NAMES, {"sha256": "ab", "temperature": 1.0})
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [f"'{name}" if name[0] in "=-" else name for name in NAMES]
    assert float(rows[0]["p_=1+1"]) == pytest.approx(1 / len(NAMES), abs=1e-6)
    told = json.loads((tmp_path / "scores.json").read_text())
    assert [one["class"] for one in told["studies"]] == NAMES


@pytest.mark.slow
def test_the_tables_of_a_run_and_of_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    torch.manual_seed(0)
    network = Student(SMALL, len(NAMES))
    items = [{"image": torch.rand(3, 32, 32), "label": n % len(NAMES)} for n in range(2 * len(NAMES))]
    folder = tmp_path / "[red]run"
    folder.mkdir()
    torch.save(network.state_dict(), folder / "model.pt")
    loader = DataLoader(Dataset(items), batch_size=8)
    FinalReport(folder / "model.pt", tmp_path / "eval", network, loader, NAMES, torch.device("cpu")).run()
    told = capsys.readouterr().out
    assert "[red]run" in told
    page = (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")
    assert "<b>x</b>" not in page
    for name in NAMES:
        assert name in unescape(page)
    found = classification_metrics(np.eye(2)[[0, 1, 0, 1]], np.array([0, 1, 0, 1]))
    terminal(width=200).print(_table(found, {"site": {name: found for name in NAMES}}))
    terminal(width=200).print(Grid("[i]title", ["", *NAMES], [["**[u]best**", *NAMES]]).rich())
    printed = capsys.readouterr().out
    for name in (*NAMES, "[i]title", "[u]best"):
        assert name in printed


def test_figures_draw_names_as_they_are(tmp_path: Path) -> None:
    chances = np.full((len(NAMES), len(NAMES)), 1 / len(NAMES))
    figure = figures.confusion_matrix(np.asarray(chances).argmax(axis=1), np.arange(len(NAMES)), NAMES)
    _, svg = save_figure(figure, tmp_path / "matrix")
    drawn = unescape(svg.read_text(encoding="utf-8"))
    for name in NAMES:
        assert name in drawn
    scores = [np.array([0.2, 0.4])] * 2
    figure = figures.slice_scores(scores, [0.3, 0.3], [0, 1], ["_under", "a$b$"], "probability")
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [one.strip("\u200b") for one in legend] == ["_under", "a$b$"]
    assert not mpl.rcParams["text.usetex"]


def test_names_lose_what_is_no_character() -> None:
    assert name_of(" x\ny\t z ") == "x y z"
    assert name_of("\x1b[31mred\x07") == "[31mred"
    assert name_of("a\u202eb\u200b") == "ab"
    assert name_of("👩\u200d⚕️ M\u0308") == "👩\u200d⚕️ M̈"
    assert printable("\x1b[31m\u202e\u2028a\nb") == "\\x1b[31m\\u202e\\u2028a\nb"
    assert name_of("a" * 1000) == "a" * 1000


def test_a_csv_has_numbers_as_numbers() -> None:
    row = {"a": -1.5, "b": "-1.5", "c": "+1e-3", "d": "@x", "e": "\tx", "f": None, "=g": "x"}
    (cells,) = csv.reader(io.StringIO(csv_of(list(row), [row]).split("\r\n", 1)[1]))
    assert cells == ["-1.5", "-1.5", "+1e-3", "'@x", "'\tx", "", "x"]
    assert csv_of(["=g"], []).startswith("'=g")


@pytest.mark.parametrize("words", [["index", "[bold]no folder"], ["datalist", "[/]", "--out", "x"], ["[red]command"]])
def test_errors_tell_what_was_typed(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["monai-rd", *words])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr()
    assert words[0] == "index" or words[0 if "command" in words[0] else 1] in told.err + told.out


def test_escapes_in_an_error_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["monai-rd", "datalist", "no\x1b[31mfolder", "--out", "x"])
    with pytest.raises(SystemExit):
        main()
    assert "no\\x1b[31mfolder" in capsys.readouterr().err
    terminal(width=100).print("a\x1b[31mb", ":brain:", "[bold]c")
    assert capsys.readouterr().out == "a\\x1b[31mb :brain: [bold]c\n"


def test_notes_and_tables_of_a_page_are_escaped() -> None:
    for name in NAMES:
        made = note(name) + table([[name]], [name])
        assert unescape(made).count(name) == 3
        assert "<b>" not in made
