"""The report at the end of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset

from monai_rd.drift import Reference
from monai_rd.files import sha256
from monai_rd.inference import Decision
from monai_rd.report import FinalReport


def a_report(run: object, folder: Path, **options: object) -> FinalReport:
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    items = [{"image": image, "label": index % 2} for index, image in enumerate(images)]
    loader = DataLoader(Dataset(items), batch_size=5)
    places = (folder / "models" / "model.pt", folder / "eval")
    device = torch.device("cpu")  # the page is tested in test_page.py, on a student whose maps are known
    return FinalReport(*places, run.network, loader, ["clear", "opacity"], device, page=False, **options)


@pytest.mark.parametrize("method", ["rd", "two_stages"])
def test_table_and_file_tell_the_same(
    method: str, tiny_run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(method=method)
    run.trainer.run()
    capsys.readouterr()
    told = a_report(run, tmp_path / "run", method=run.method, teacher=run.teacher, settings={"seed": 0}).run()
    written = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert written == told
    assert written["settings"] == {"seed": 0}
    assert set(written["test"]) == {"student", "reprogrammed teacher"}
    printed = capsys.readouterr().out
    table = [line for line in printed.splitlines() if line[:1] in "┏┃┡│├└"]
    assert max(map(len, table)) <= 80
    for row in written["test"].values():
        for metric in ("accuracy", "roc_auc", "sensitivity", "specificity"):
            assert f"{row[metric]['value']:.3f}" in printed
    assert "positive class: opacity" in printed
    assert "PHANTOM" not in printed
    assert sorted(file.name for file in (tmp_path / "run" / "eval").iterdir()) == [
        "best_method.pt",
        "last.pt",
        "metrics.json",
        "predictions.npz",
    ]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("fitted", [False, True])
def test_what_is_printed_was_done(
    fitted: bool, multi_label: bool, tiny_run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation, without a validation set, says neither that it fitted a temperature nor that it saved one."""
    run = tiny_run()
    run.trainer.run()
    capsys.readouterr()
    report = a_report(run, tmp_path / "run", multi_label=multi_label)
    if multi_label:
        for place, item in enumerate(report.loader.dataset.data):
            item["label"] = torch.tensor([float(place % 2), float(place % 3 == 0)])
    if fitted:
        report.validation = report.loader.dataset
    before = report.model_path.read_bytes()
    report.run()
    printed = capsys.readouterr().out
    saved = report.model_path.read_bytes() != before
    assert saved is fitted
    assert ("fitted" in printed, "saved" in printed) == (saved, saved)
    temperature = torch.load(report.model_path, weights_only=True)["temperature"]
    assert f"temperature {temperature:.2f}, " in printed
    assert str(report.model_path) in printed
    reference = report.model_path.with_name("reference.json")
    assert reference.is_file() is fitted
    if fitted:
        known = Reference.read(reference)
        assert (known.model, known.studies) == (sha256(report.model_path), 24)  # validation and test set
        assert known.class_names == ("clear", "opacity")
        assert ("says opacity" in known.categories, "class" in known.categories) == (multi_label, not multi_label)


def test_it_is_the_best_model_that_is_scored(tiny_run: Callable, tmp_path: Path) -> None:
    run = tiny_run()
    run.trainer.run()
    report = a_report(run, tmp_path / "run")
    before = report.run()["test"]
    with torch.no_grad():
        for parameter in run.network.parameters():
            parameter.add_(1.0)
    assert report.run()["test"] == before
    assert set(before) == {"student"}


def test_predictions_are_in_the_order_of_the_test_list(tiny_run: Callable, tmp_path: Path) -> None:
    run = tiny_run()
    run.trainer.run()
    report = a_report(run, tmp_path / "run")
    items = report.loader.dataset.data
    for place, item in enumerate(items):
        item["problem"] = "UNREADABLE" if place in (0, 7) else ""
    told = report.run()
    assert told["unread"] == "2 UNREADABLE"
    with np.load(tmp_path / "run" / "eval" / "predictions.npz") as found:
        read = [place for place in range(12) if place not in (0, 7)]
        assert found["places"].tolist() == read
        assert found["labels"].tolist() == [place % 2 for place in read]
        assert found["probabilities"].dtype == np.float32
        images = torch.stack([items[place]["image"] for place in read])
        expected = run.network(images).softmax(dim=1).detach().numpy()
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)
        accuracy = (found["probabilities"].argmax(axis=1) == found["labels"]).mean()
    assert told["test"]["student"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_the_students_file_is_calibrated(
    tiny_run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run()
    run.trainer.run()
    before = a_report(run, tmp_path / "run").run()
    validation = Dataset([{**item, "label": index % 3 % 2} for index, item in enumerate(run.loader.dataset.data)])
    capsys.readouterr()
    told = a_report(run, tmp_path / "run", validation=validation).run()
    temperature = told["calibration"]["temperature"]
    assert temperature != pytest.approx(1, abs=0.1)
    assert told["test"] == before["test"]
    assert told["calibration"]["error_before"] == pytest.approx(before["calibration"]["error"], abs=1e-5)
    assert before["calibration"]["temperature"] == 1
    printed = capsys.readouterr().out
    settings = json.loads((tmp_path / "run" / "models" / "settings.json").read_text())
    assert settings["class_names"] == ["a", "b"], "the training's settings are kept"
    decision = Decision.of(settings["decision"], sha256(tmp_path / "run" / "models" / "model.pt"))
    with np.load(tmp_path / "run" / "eval" / "predictions.npz") as found:
        assert decision == Decision.fit(found["validation_probabilities"], found["validation_labels"])
    assert [one.n for one in decision.sets] == [(11, 5)]
    assert told["sets"]["kinds"] == ["marginal"]
    assert told["decision"] == decision.stored()
    assert f"90 % conformal sets, marginal: {told['sets']['coverage']['value']:.3f} (" in printed
    assert f"temperature {temperature:.2f}" in printed
    assert f"{told['calibration']['error']:.3f} with it" in printed

    state = torch.load(tmp_path / "run" / "models" / "model.pt", weights_only=True)
    assert float(state["temperature"]) == temperature
    run.network.load_state_dict(state)
    report = a_report(run, tmp_path / "run")
    images = torch.stack([item["image"] for item in report.loader.dataset.data])
    with torch.no_grad():
        expected = (run.network.classifier(run.network.features(images)) / temperature).softmax(dim=1)
    with np.load(tmp_path / "run" / "eval" / "predictions.npz") as found:
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)
    assert a_report(run, tmp_path / "run", validation=validation).run() == told  # not on top of the first time
    assert report.run() == told


def test_limits_by_scanner_are_chosen_stored_and_told(
    tiny_run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run()
    run.trainer.run()
    items = run.loader.dataset.data
    validation = Dataset([{**items[n % len(items)], "scanner": "GE A" if n < 24 else "B"} for n in range(36)])

    def reported(**options: object) -> dict[str, Any]:
        report = a_report(run, tmp_path / "run", **options)
        for place, item in enumerate(report.loader.dataset.data):
            item["scanner"] = ("GE A", "GE A", "B")[place % 3]
        return report.run()

    told = reported(validation=validation, conformal_groups="scanner")
    settings = json.loads((tmp_path / "run" / "models" / "settings.json").read_text())
    decision = Decision.of(settings["decision"], sha256(tmp_path / "run" / "models" / "model.pt"))
    with np.load(tmp_path / "run" / "eval" / "predictions.npz") as found:
        known = found["validation_probabilities"], found["validation_labels"]
    groups = [item["scanner"] for item in validation]
    assert decision == Decision.fit(*known, grouped_by="scanner", groups=groups)
    assert told["decision"]["of_groups"].keys() == {"GE A"}
    assert {key: one["n"] for key, one in told["sets"]["groups"].items()} == {"GE A": 8, "": 4}
    printed = capsys.readouterr().out
    assert "conformal limits by scanner: GE A (n = 24); any other scanner has the lowest of all" in printed
    assert reported()["sets"] == told["sets"], "measured again as it is stored"
    capsys.readouterr()
    reported(validation=validation, conformal_groups="site")
    assert "no site has 20 validation studies, so the limits are the same for all" in capsys.readouterr().out


def test_phantoms_are_named(tiny_run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run()
    run.trainer.run()
    a_report(run, tmp_path / "run", phantom=True).run()
    assert "PHANTOMS" in capsys.readouterr().out


def test_without_a_model_nothing_is_written(tiny_run: Callable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train\.json first"):
        a_report(tiny_run(), tmp_path / "nothing").run()
    assert not (tmp_path / "nothing").exists()
