"""The page of a run: what it says, what it must not say, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import Markup
from monai.data import DataLoader, Dataset
from PIL import Image
from torch import nn

from monai_rd.files import atomic_write
from monai_rd.networks import FrozenFoundationModel, Preprocessing, Student
from monai_rd.report import FinalReport, Section, write_page
from monai_rd.report.page import note, table
from tests.small import SMALL
from transforms import bag_collate

SECRET = "Doe^Jane"


def a_teacher() -> FrozenFoundationModel:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Conv2d(4, 5, 2, 2))
    backbone.stages = ["1", "2"]
    plain = Preprocessing(None, (0.0,) * 3, (1.0,) * 3)
    return FrozenFoundationModel(backbone, channels=5, kind="map", preprocessing=plain, name="tiny")


def history(epochs: int = 4) -> list[dict[str, Any]]:
    terms = {"loss": 2.0, "student_ce": 0.7, "teacher_ce": 0.6, "kl": 0.1, "cka": -0.5}
    weights = {"teacher_ce": 1.0, "kl": 0.5, "cka": 0.5}
    return [
        {
            "epoch": epoch + 1,
            "terms": {name: value * 0.9**epoch for name, value in terms.items()},
            "weights": weights,
            "validation": {"val_accuracy": 0.6 + 0.05 * epoch, "val_auc": None if epoch == 1 else 0.7},
            "best": epoch in (0, 2),
            "seconds": 1.5,
        }
        for epoch in range(epochs)
    ]


def a_report(
    folder: Path, classes: int = 2, slices: int = 3, dims: int = 2, multi_label: bool = False, **options: Any
) -> FinalReport:
    """A report on an untrained student; every item carries a name and a path as a data list does."""
    torch.manual_seed(0)
    network = Student(SMALL if dims == 2 else "resnet10_3d", classes)
    with torch.no_grad():
        network.classifier.weight.mul_(20)  # so that it does not say the same of all
    shape, each = ((slices, 3, 64, 64), 6) if dims == 2 else ((1, 32, 32, 32), 2)
    random = torch.Generator().manual_seed(5)
    items = []
    for index in range(each * classes):
        label: Any = index % classes
        if multi_label:
            label = [float((index >> bit) % 2) for bit in range(classes)]
        image = torch.rand(shape, generator=random) * (0.3 + 0.7 * (index % classes) / classes)
        items.append({"image": image, "label": label, "id": SECRET, "path": f"/data/{SECRET}.dcm", "problem": ""})
    loader = DataLoader(Dataset(items), batch_size=5, collate_fn=bag_collate)
    model = folder / "models" / "model.pt"
    model.parent.mkdir(parents=True)
    torch.save(network.state_dict(), model)
    names = ["clear", "<b>opacity</b> & more", *(f"class {index}" for index in range(2, classes))][:classes]
    settings = {"student": network.name, "teacher": "tiny", "learning_rate": 0.001, "windows": ["lung"], "amp": False}
    return FinalReport(
        model,
        folder / "eval",
        network,
        loader,
        names,
        torch.device("cpu"),
        settings=settings,
        multi_label=multi_label,
        **options,
    )


class Reader(HTMLParser):
    """All text, all attributes that could fetch something, all ids, and whether the tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.fetched, self.ids, self.open, self.tags = "", [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.fetched += [given[name] for name in ("src", "href", "xlink:href", "srcset", "action") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of studies of two classes, with a teacher and phantoms."""
    folder = tmp_path_factory.mktemp("run")
    teacher = a_teacher()
    object.__setattr__(teacher, "head", nn.Linear(5, 2))  # as one that was fitted to the task
    report = a_report(folder, teacher=teacher, phantom=True)
    atomic_write(json.dumps(history()), folder / "eval" / "history.json")
    report.run()
    return folder / "eval"


def test_everything_is_in_one_file_and_as_figures(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    found = Reader(page)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert all(one.startswith(("data:", "#")) for one in found.fetched)
    assert {one[1:] for one in found.fetched if one.startswith("#")} <= set(found.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(found.ids)
    assert "script" not in found.tags
    assert "@import" not in page
    assert "http://" not in page.replace("http-equiv", "")
    assert "https://" not in page
    assert len(page) < 5e6
    assert found.tags.count("svg") == 6
    figures = ("calibration", "cka", "confusion_matrix", "learning_curves", "roc", "slice_scores")
    assert sorted(path.name for path in (run / "figures").iterdir()) == [
        f"{name}.{kind}" for name in figures for kind in ("png", "svg")
    ]


def test_what_the_teacher_path_knew_is_shown_and_said(tmp_path: Path) -> None:
    path = {"train_accuracy": 0.99, "validation_accuracy": 0.7, "validation_auc": 0.99}
    watched = [{**row, "teacher_path": {**path, "temperature": 1 + number}} for number, row in enumerate(history(4))]
    report = a_report(tmp_path)
    atomic_write(json.dumps(watched), tmp_path / "eval" / "history.json")
    report.run()
    text = Reader((tmp_path / "eval" / "report.html").read_text(encoding="utf-8")).text
    assert "On them KL now repeats the labels: give --unlabelled images" in text
    assert "The student ranks validation images worse than the reprogrammed teacher" in text
    assert "on validation, at the end: 4.00 (above 1: too sure)" in text
    assert (tmp_path / "eval" / "figures" / "teacher_path.png").is_file()


def test_it_tells_the_numbers_of_the_metrics(run: Path) -> None:
    text = Reader((run / "report.html").read_text(encoding="utf-8")).text
    student = json.loads((run / "metrics.json").read_text())["test"]["student"]
    for metric in ("accuracy", "roc_auc", "sensitivity", "specificity"):
        low, high = student[metric]["interval"]
        assert f"{student[metric]['value']:.3f}" in text
        assert f"({low:.3f}–{high:.3f})" in text
    for said in (
        "PHANTOMS",
        f"{SMALL}, taught by tiny",
        "learning rate",
        "0.001",
        "4 epochs in 6 s",
        "epoch 3: chosen",
    ):
        assert said in text
    assert "could not be made" not in text


def test_nobody_is_named_and_class_names_are_escaped(run: Path) -> None:
    for path in [run / "report.html", run / "metrics.json", *(run / "figures").glob("*.svg")]:
        content = path.read_text(encoding="utf-8")
        assert SECRET not in content
        assert "Jane" not in content
        assert str(run) not in content
        assert path.suffix == ".json" or "<b>opacity" not in content
    assert "<b>opacity</b> & more" in Reader((run / "report.html").read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    ("options", "figures", "said"),
    [
        pytest.param(
            *({"classes": 4, "slices": 1}, {"calibration", "confusion_matrix", "roc"}, "right when named"),
            marks=pytest.mark.slow,
        ),
        ({"classes": 3, "multi_label": True, "slices": 1}, {"calibration", "roc"}, "average precision"),
        pytest.param({"dims": 3}, {"calibration", "confusion_matrix", "roc"}, "heat by slice", marks=pytest.mark.slow),
    ],
)
def test_other_kinds_of_data(
    options: dict[str, Any], figures: set[str], said: str, tmp_path: Path, few_positions: None
) -> None:
    a_report(tmp_path, **options).run()
    assert {path.stem for path in (tmp_path / "eval" / "figures").iterdir()} == figures
    found = Reader((tmp_path / "eval" / "report.html").read_text(encoding="utf-8"))
    assert said in found.text
    assert "no curves of the training" in found.text
    assert "could not be made" not in found.text
    assert found.tags.count("img") >= 8  # four items or more, each with its heat


def fail(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("on purpose")


def test_parts_that_fail_are_named_and_cost_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A figure, and what is measured for the page alone while the test set is scored."""
    monkeypatch.setattr("monai_rd.report.figures.roc_curves", fail)
    monkeypatch.setattr("monai_rd.report.scoring.item_features", fail)
    told = a_report(tmp_path, teacher=a_teacher()).run()
    text = Reader((tmp_path / "eval" / "report.html").read_text(encoding="utf-8")).text
    assert text.count("This part could not be made (ZeroDivisionError)") == 1
    assert f"{told['test']['student']['accuracy']['value']:.3f}" in text
    assert "scoring failed" in caplog.text
    assert "'How well it tells the classes apart' could not be made" in caplog.text
    assert {path.stem for path in (tmp_path / "eval" / "figures").iterdir()} == {"calibration"}


def test_without_a_page_the_numbers_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("monai_rd.report.run_page.RunPage.write", fail)
    told = a_report(tmp_path).run()
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text()) == told
    assert "on purpose" in caplog.text
    assert not (tmp_path / "eval" / "report.html").exists()


def test_write_page_escapes(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&"
    write_page(tmp_path / "page.html", evil, [Section(evil, [note(evil), table([[evil]], [evil])])], evil, [evil], evil)
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert Reader(page).text.count(evil) == 9  # the title twice, the section's title and three parts of it


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


def browse(page: Path, folder: Path, width: int, dark: bool = False) -> tuple[np.ndarray, list[str]]:
    """What Chromium draws of a page `[4000, width, 3]`, and what its console says.

    The page forbids itself to fetch anything; what it would fetch all the same is an error in the console.
    """
    picture = folder / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    flags += ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", f"--window-size={width},4000"]
    flags += ["--blink-settings=preferredColorScheme=0"] * dark
    command = [str(CHROMIUM), *flags, f"--screenshot={picture}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return np.asarray(Image.open(picture).convert("RGB")).astype(int), said


@in_chromium
@pytest.mark.parametrize(("dark", "width"), [(False, 1200), pytest.param(True, 500, marks=pytest.mark.slow)])
def test_in_a_browser(dark: bool, width: int, run: Path, tmp_path: Path) -> None:
    pixels, said = browse(run / "report.html", tmp_path, width, dark)
    assert said == []
    assert pixels.shape == (4000, width, 3)
    assert (pixels[3, 3].sum() < 150) == dark  # the page's back
    for top in range(0, 2400, 400):  # not blank
        assert pixels[top : top + 400].std() > 5, top
    blue = np.array((0x4F, 0xA8, 0xDE) if dark else (0x00, 0x72, 0xB2))
    assert (np.abs(pixels - blue).max(axis=-1) < 8).sum() > 500  # curves and bars


@in_chromium
def test_the_browser_would_tell_of_what_is_fetched(tmp_path: Path) -> None:
    write_page(
        tmp_path / "page.html", "title", [Section("part", [Markup('<img src="http://localhost:9/x.png" alt="">')])]
    )
    _, said = browse(tmp_path / "page.html", tmp_path, 500)
    assert len(said) == 1
    assert "Content Security Policy" in said[0]


@pytest.mark.parametrize(("classes", "multi_label"), [(2, False), (3, True)])
def test_the_page_tells_what_the_sets_promise(classes: int, multi_label: bool, tmp_path: Path) -> None:
    report = a_report(tmp_path, classes=classes, multi_label=multi_label)
    items = report.loader.dataset.data
    for number, item in enumerate(items):
        item["scanner"] = f"Siemens {number % 3 > 0}"
    report.validation = Dataset(items * 3)
    report.operating_point, report.conformal_groups = "specificity 0.5", "scanner"
    told = report.run()
    text = Reader((tmp_path / "eval" / "report.html").read_text(encoding="utf-8")).text
    assert "could not be made" not in text
    assert "exchangeable with those of the validation set" in text
    assert f"{told['sets']['coverage']['value']:.3f}" in text
    assert "(specificity 0.5 on the validation set)" in text
    known, others = told["sets"]["groups"]["Siemens True"], told["sets"]["groups"][""]
    assert f"Siemens True{known['n']}{known['coverage']['value']:.3f}" in text.replace("\n", "")
    assert f"any other{others['n']}{others['coverage']['value']:.3f}" in text.replace("\n", "")
    assert (tmp_path / "eval" / "figures" / "answered.png").is_file() is not multi_label
