"""What is told of a training: console, TensorBoard, speed; and its settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_rd.datasets.lists import DataList
from monai_rd.handlers import RunLog, progress, run_log, run_settings

Run = Callable[..., Any]


def test_epochs_are_shown_drawn_and_timed(tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(max_epochs=2)
    RunLog(tmp_path, run.evaluator).attach(run.trainer)
    run.trainer.run()
    assert "epoch   2/2  loss" in capsys.readouterr().out
    assert (tmp_path / "speed.json").is_file()
    events = [EventAccumulator(str(file)).Reload() for file in (tmp_path / "tensorboard").iterdir()]
    values = {tag: [one.value for one in found.Scalars(tag)] for found in events for tag in found.Tags()["scalars"]}
    assert values["loss"][-1] == pytest.approx(run.trainer.state.metrics["loss"])
    assert values["accuracy"][-1] == pytest.approx(run.evaluator.state.metrics["accuracy"])
    assert len(values["loss"]) == len(values["accuracy"]) == 2


def test_a_line_stands_after_what_was_attached_before(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`RunCheckpoint` comes before it: who kills the run on seeing the line loses nothing of the epoch."""
    run, saved = tiny_run(max_epochs=1), []
    RunLog(tmp_path, run.evaluator).attach(run.trainer)
    monkeypatch.setattr(progress.tqdm, "write", lambda *_, **__: saved.append(run.checkpoint.last.exists()))
    run.trainer.run()
    assert saved == [True]


def test_of_several_processes_the_first_one_tells(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(max_epochs=1)
    monkeypatch.setattr(run_log, "rank", lambda: 1)
    RunLog(tmp_path, run.evaluator).attach(run.trainer)
    run.trainer.run()
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("taught", [True, False])
def test_settings_say_what_follows_from_data_and_teacher(tiny_run: Run, taught: bool) -> None:
    items = [{"image": "a.png", "label": 0, "modality": "CT"}, {"image": "b.png", "label": 1, "modality": "CT"}]
    data = DataList(("well", "ill"), training=items[:1], validation=items[1:], test=[])
    teacher = tiny_run().teacher if taught else None
    found = run_settings(
        data, teacher, [{"image": torch.rand(1, 3, 8, 8)}], student="resnet18", seed=3, windows=["lung"]
    )
    assert found["class_names"] == ["well", "ill"]
    assert found["multi_label"] is False
    assert found["teacher"] == (teacher.name if teacher is not None else None)
    assert (found["seed"], found["windows"]) == (3, ["lung"])
    assert found["scope"]["modality"] == ["CT"]


@pytest.mark.parametrize("weights", [None, "imagenet", "MUELLER_HANS.pt"])
def test_settings_name_initial_weights_and_of_a_file_only_its_content(weights: str | None, tmp_path: Path) -> None:
    data, items = DataList(("well", "ill"), training=[], validation=[], test=[]), [{"image": torch.rand(1, 3, 8, 8)}]
    told = weights or "random"
    if weights not in (None, "imagenet"):
        (tmp_path / weights).write_bytes(b"weights")
        weights, told = str(tmp_path / weights), f"sha256 {hashlib.sha256(b'weights').hexdigest()}"
    assert run_settings(data, None, items, "resnet18", weights)["student_weights"] == told


@pytest.mark.parametrize(
    ("images", "student", "settings", "told"),
    [
        (30, "resnet18", {}, True),
        (30, "timm:mobilenetv3_small_100", {"phantom": False}, True),
        (1000, "resnet18", {}, False),
        (30, "resnet18", {"student_weights": "imagenet"}, False),
        (30, "resnet18", {"phantom": True}, False),
        (30, "resnet10_3d", {}, False),  # of which no such weights are published
    ],
)
def test_who_has_few_images_is_told_of_initial_weights(
    images: int, student: str, settings: dict[str, Any], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    data = DataList(("well", "ill"), training=[{"image": "a.png", "label": 0}] * images, validation=[], test=[])
    with caplog.at_level("INFO"):
        run_settings(data, None, [{"image": torch.rand(1, 3, 8, 8)}], student, **settings)
    assert ("(here 30) compare --student_weights imagenet" in caplog.text) is told
