"""What a training says of its speed, by a clock of the test's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Events

from monai_rd.handlers import SpeedHandler
from monai_rd.handlers import speed as module
from monai_rd.handlers.speed import peak_memory

Run = Callable[..., Any]


def test_rate_wait_and_share(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]

    def pass_time(seconds: float) -> Callable[[Any], None]:
        return lambda engine: now.__setitem__(0, now[0] + seconds)

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))  # the module's own, no one else's
    run = tiny_run(max_epochs=3)
    SpeedHandler(tmp_path / "speed.json").attach(run.trainer)
    with_features = []

    def bring(engine: Any) -> None:
        if engine.state.epoch == 2:
            image = engine.state.batch["image"]
            engine.state.batch["teacher_features"] = run.teacher.rows(image, run.method.reads)
            with_features.append(len(image))

    run.trainer.add_event_handler(Events.ITERATION_STARTED, bring)
    run.trainer.add_event_handler(Events.GET_BATCH_STARTED, pass_time(1))  # attached later: after the handler's own
    run.trainer.add_event_handler(Events.ITERATION_STARTED, pass_time(3))
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, pass_time(1000))  # validation is no training step
    caplog.set_level(logging.INFO)
    run.trainer.run()
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["items_per_second"] == 2.0  # 8 items in 4 s
    assert found["data_wait"] == 0.25
    assert found["stored_features"] == pytest.approx(1 / 3, abs=1e-4)
    assert sum(with_features) == 16
    assert "2.0 items/s, 25 % of the time waiting for data" in caplog.text
    assert "33 % of the items with stored teacher features" in caplog.text


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    held = torch.ones(300 << 18)  # 300 MB
    assert peak_memory() >= before
    assert peak_memory() > 300 << 20
    assert held[0] == 1
