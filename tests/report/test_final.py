"""The report at the end of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.data import DataLoader, Dataset

from monai_rd.report import FinalReport


def a_report(run: object, folder: Path, **options: object) -> FinalReport:
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    items = [{"image": image, "label": index % 2} for index, image in enumerate(images)]
    loader = DataLoader(Dataset(items), batch_size=5)
    places = (folder / "models" / "model.pt", folder / "eval")
    return FinalReport(*places, run.network, loader, ["clear", "opacity"], torch.device("cpu"), **options)


def test_table_and_file_tell_the_same(tiny_run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run()
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


def test_phantoms_are_named(tiny_run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run()
    run.trainer.run()
    a_report(run, tmp_path / "run", phantom=True).run()
    assert "PHANTOMS" in capsys.readouterr().out


def test_without_a_model_nothing_is_written(tiny_run: Callable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train\.json first"):
        a_report(tiny_run(), tmp_path / "nothing").run()
    assert not (tmp_path / "nothing").exists()
