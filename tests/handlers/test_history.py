"""The numbers of a training by epoch, through kill and resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events

from monai_rd.handlers import HistoryHandler, read_history


def with_history(run: Any) -> Path:
    """Attach the handler where a bundle lists it: between validation and checkpoint."""
    path = run.checkpoint.last.with_name("history.json")
    run.trainer.remove_event_handler(run.checkpoint._save, Events.EPOCH_COMPLETED)
    HistoryHandler(path, run.evaluator).attach(run.trainer)
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, run.checkpoint._save)
    return path


def without_time(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_history(path)]


def test_every_epoch_has_its_numbers(tiny_run: Callable) -> None:
    run, seen = tiny_run(max_epochs=3), []
    path = with_history(run)
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda e: seen.append((dict(e.state.metrics), dict(e.state.term_weights), dict(run.evaluator.state.metrics))),
    )
    run.trainer.run()
    rows = read_history(path)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row, (metrics, weights, validation) in zip(rows, seen, strict=True):
        assert row["terms"] == {name: metrics[name] for name in ("loss", "student_ce", "teacher_ce", "kl", "cka")}
        assert (row["weights"], row["validation"]) == (weights, validation)
        assert row["seconds"] >= 0
    best = run.evaluator.state.best_metric_epoch
    assert [row["epoch"] for row in rows if row["best"]][-1] == best


class Killed(BaseException):
    """A kill that no handler catches."""


@pytest.mark.parametrize("saved", [True, False])
def test_killed_and_resumed_it_is_that_of_an_unbroken_run(
    tiny_run: Callable, saved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within an epoch, or after the row was written and before the checkpoint was."""
    whole, killed = tiny_run("whole"), tiny_run("killed")
    expected = with_history(whole)
    whole.trainer.run()
    path = with_history(killed)

    def kill(*_: Any) -> None:
        raise Killed

    if saved:
        killed.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), kill)
    else:
        monkeypatch.setattr(killed.checkpoint, "_save", kill)
        killed.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), kill)
    with pytest.raises(Killed):
        killed.trainer.run()
    assert len(read_history(path)) == (2 if saved else 1)
    resumed = tiny_run("killed", resume=True)
    with_history(resumed)
    resumed.trainer.run()
    assert without_time(path) == without_time(expected)


def test_a_new_run_begins_a_new_file_and_an_epoch_without_validation_has_none(tiny_run: Callable) -> None:
    first = tiny_run(max_epochs=3)
    path = with_history(first)
    first.trainer.run()
    again = tiny_run(max_epochs=1)
    with_history(again)
    again.evaluator.run = lambda epoch: None  # as ValidationHandler skips epochs by its interval
    again.evaluator.state.best_metric, again.evaluator.state.best_metric_epoch = 0.0, 0
    again.trainer.run()
    assert [(row["epoch"], row["validation"], row["best"]) for row in read_history(path)] == [(1, {}, False)]


def test_numbers_that_are_none_and_files_that_are_damaged(tiny_run: Callable, tmp_path: Path) -> None:
    run = tiny_run(max_epochs=1)
    path = with_history(run)
    undefined = {"accuracy": float("nan")}
    run.evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(undefined))
    run.trainer.run()
    assert read_history(path)[0]["validation"] == {"accuracy": None}
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read_history(tmp_path / "none.json") == []
    path.write_text("[{]")
    with pytest.raises(ValueError, match="damaged"):
        read_history(path)
