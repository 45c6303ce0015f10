"""The console command, from words to files, with trainings that are not real."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_rd.cli.app import main
from monai_rd.protocol import paper
from monai_rd.protocol.statistics import compare


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images in class folders, with a split."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                picture = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(picture).save(folder / f"{split}{label}{number}.png")
    return tmp_path / "images"


def typed(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "argv", ["monai-rd", "benchmark", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.usefixtures("fake_bundle")
def test_table3(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["table3", "--dataset", images, "--students", "resnet18,mobilenet_v2", "--methods", "ce,rd"]
    words += ["--seeds", 2, "--max-epochs", 2, "--jobs", 2, "--out", out, "--", "--image_size", "32"]
    assert typed(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert "8 runs, 0 finished before" in shown
    text, content = (out / "table3.md").read_text(), json.loads((out / "table3.json").read_text())
    with open(out / "table3.csv", newline="") as file:
        records = list(csv.DictReader(file))

    assert "8/8" in shown
    assert "Against the best baseline" in shown
    assert content["command"] == "monai-rd " + " ".join(map(str, ["benchmark", *words]))
    assert content["command"] in text
    assert (content["seeds"], content["test_images"], content["model_selection"]) == (2, 60, "best")
    assert {"monai_rd", "torch", "timm", "monai", "python", "machine"} <= content["made_with"][0].keys()
    assert "The paper's own accuracy is known here of 0 of 4 cells." in text
    assert content["settings"] == {"batch_size": 8, "device": None, "threads": content["settings"]["threads"]}

    page = (out / "table3.html").read_text()
    assert "Against the best baseline" in page
    assert "**" not in page
    assert page.count("<td><b>") == 3 * 5

    places = {(one["method"], one["student"], one["measure"]): one for one in records}
    assert len(places) == len(records) == 2 * 3 * 5
    runs = list((out / "runs").glob("rd_resnet18_*"))
    accuracies = [json.loads((c / "metrics.json").read_text())["test"]["student"]["accuracy"]["value"] for c in runs]
    mean, sd = np.mean(accuracies), np.std(accuracies, ddof=1)
    ours = places["rd", "resnet18", "accuracy"]
    assert (float(ours["mean"]), float(ours["sd"])) == pytest.approx((mean, sd))
    assert f"| rd | **{100 * mean:.1f} ± {100 * sd:.1f} [" in text
    assert "| rd: reprogrammed teacher | 90.0 | 90.0 | 90.0 |" in text
    shares = {one["student"]: one["share"] for one in content["handed_over"] if one["method"] == "rd"}
    assert shares.keys() == {"resnet18", "mobilenet_v2", "mean of the students"}
    auc, alone = (float(places[row, "resnet18", "roc_auc"]["mean"]) for row in ("rd", "ce"))
    assert shares["resnet18"]["mean"] == pytest.approx((auc - alone) / (1 - alone))  # the path's AUC is 1
    assert shares["resnet18"]["low"] < shares["resnet18"]["mean"] < shares["resnet18"]["high"]
    assert f"| rd | {shares['resnet18']['mean']:.2f} [" in text.split("Handed over")[1]
    difference = next(one for one in content["differences"] if one["student"] == "resnet18")
    assert (difference["method"], difference["minus"], difference["best_baseline"]) == ("rd", "ce", True)
    other = float(places["ce", "resnet18", "accuracy"]["mean"])
    assert difference["measures"]["accuracy"]["mean"] == pytest.approx(mean - other)

    pooled = [float(places["rd", student, "roc_auc"]["mean"]) for student in ("resnet18", "mobilenet_v2")]
    assert float(places["rd", "mean of the students", "roc_auc"]["mean"]) == pytest.approx(np.mean(pooled))

    before = {path: path.stat().st_mtime_ns for path in out.rglob("run.json")}
    assert typed(monkeypatch, *words) == 0
    assert "8 runs, 8 finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("run.json")} == before
    assert (out / "table3.md").read_text() == text


@pytest.mark.slow
@pytest.mark.usefixtures("fake_bundle")
def test_over_the_students(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RD against every other row, on seeds that all students have, by a test that literal means over students pass."""
    out = tmp_path / "out"
    words = ["table3", "--dataset", images, "--methods", "ce,hint,rd", "--out", out]
    assert typed(monkeypatch, *words, "--students", "resnet18", "--seeds", 1) == 0
    text = (out / "table3.md").read_text()
    assert "mean of the students" not in text.lower()  # of one student
    assert "**Against every other row; teacher: phantom_ct; resnet18**" in text
    assert typed(monkeypatch, *words, "--students", "resnet18,mobilenet_v2", "--seeds", 2) == 0
    text, content = (out / "table3.md").read_text(), json.loads((out / "table3.json").read_text())
    assert "**Against every other row; teacher: phantom_ct; mean of the students**" in text

    def values(method: str) -> np.ndarray:
        def one(student: str, seed: int) -> np.ndarray:
            (file,) = out.glob(f"runs/{method}_{student}_seed_{seed}_*/predictions.npz")
            with np.load(file) as saved:
                return np.asarray(saved["probabilities"].argmax(1) == saved["labels"], dtype=float)

        return np.stack([(one("resnet18", seed) + one("mobilenet_v2", seed)) / 2 for seed in range(2)])

    found = {
        one["minus"]: one["measures"]["accuracy"]
        for one in content["differences"]
        if one["student"] == "mean of the students"
    }
    expected = {name: compare(values("rd"), values(name)) for name in ("ce", "hint")}
    assert found.keys() == expected.keys()
    for name, difference in expected.items():
        assert found[name]["mean"] == pytest.approx(difference.estimate.mean)
        assert found[name]["p"] == pytest.approx(difference.p)
    lower, higher = sorted(found.values(), key=lambda one: one["p"])
    assert lower["p_holm"] == pytest.approx(min(2 * lower["p"], 1))
    assert higher["p_holm"] == pytest.approx(max(higher["p"], lower["p_holm"]))


@pytest.mark.usefixtures("fake_bundle")
def test_a_failure_is_told_and_the_rest_is_shown(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("FAKE_FAILS", "rd{'kd': False}")
    words = ["table2", "--dataset", images, "--students", "resnet18", "--methods", "ce,no_kd,rd", "--seeds", 1]
    assert typed(monkeypatch, *words, "--out", out) == 1
    printed = capsys.readouterr()
    assert "FAILED rd kd=False resnet18 seed 0: the teacher's file is gone" in printed.err
    text = (out / "table2.md").read_text()
    assert "| no_kd | not finished |" in text
    assert "Not finished: rd kd=False resnet18 seed 0." in text
    assert "One seed: how much another seed changes is unknown" in text
    assert "±" not in text.partition("- mean")[0]

    monkeypatch.setenv("FAKE_FAILS", "ce")
    assert typed(monkeypatch, *words, "--methods", "ce", "--out", tmp_path / "other") == 1
    assert not list((tmp_path / "other").glob("table2.*"))


@pytest.mark.usefixtures("fake_bundle")
def test_table5(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        typed(
            monkeypatch,
            "table5",
            "--dataset",
            images,
            "--methods",
            "ce",
            "--seeds",
            1,
            "--jobs",
            2,
            "--out",
            tmp_path / "out",
        )
        == 0
    )
    text = (tmp_path / "out" / "table5.md").read_text()
    header = [f"resnet18, {count} training images" for count in (2, 4, 6, 12)]
    assert f"| method | {' | '.join(header)} |" in text


def test_wrong_words(images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(monkeypatch, "table4", "--dataset", images, "--methods", "hint") == 2
    assert "--methods hint: there are adaptformer, lora" in capsys.readouterr().err
    assert typed(monkeypatch, "figure2", "--dataset", images, "--", "--cross_fit", 5) == 2
    assert "figure 2 looks at the one that taught" in capsys.readouterr().err


def test_the_papers_numbers() -> None:
    """Only a cell whose place in the paper is known has one."""
    known = paper.paper_value("COVID-CT", "ce", "pmc_clip", "resnet18")
    assert known is not None
    assert known.percent == 75.86
    assert paper.paper_value("COVID-CT", "rd", "pmc_clip", "resnet18") is None
    assert paper.paper_value("BUSI", "rd", "lvm_med_vit_b", "resnet18") is None
    assert paper.paper_value(None, "ce", None, "resnet18") is None
    sizes = {"COVID-CT": 203, "BUSI": 154, "ISIC2018": 1512}
    for one in paper.PUBLISHED:  # every accuracy is a share of the test images
        hits = round(one.percent / 100 * sizes[one.data])
        assert round(100 * hits / sizes[one.data], 2) == one.percent
