"""A training's losses and metrics per epoch in one small file, for plots and tables."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_rd.files import atomic_write
from monai_rd.processes import rank

__all__ = ["HistoryHandler", "read_history"]


class HistoryHandler:
    """Writes `history.json`, a list with one row per finished epoch.

    A row has `epoch`, from 1; `terms`, the unweighted mean of each loss term over the epoch, and the weighted sum as
    `loss`; `weights` of the terms; `validation`, the evaluator's metrics (empty if the epoch was not validated);
    `best`, whether this epoch was the best so far; `seconds`, its duration; and with a `TeacherPathWatch` also
    `teacher_path`, its metrics by name. Numbers that are not finite are null.

    List it after `ValidationHandler` and `TeacherPathWatch` and before `RunCheckpoint`: a run that is killed between
    row and checkpoint repeats the epoch and rewrites its row. A resumed run keeps the rows of earlier epochs; a new run
    starts a new file.

    Args:
        path: the file to write.
        evaluator: the evaluator that `ValidationHandler` runs.

    Example:
        >>> from ignite.engine import Engine, Events
        >>> from monai_rd.handlers import HistoryHandler, read_history
        >>> trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
        >>> evaluator.state.best_metric_epoch = 1  # a MONAI evaluator sets it
        >>> @trainer.on(Events.EPOCH_COMPLETED)  # in a training `CoTrainingHandler` sets both
        ... def measure(engine):
        ...     engine.state.term_weights = {"kd": 0.5}
        ...     engine.state.metrics = {"loss": 1.2, "student_ce": 0.9, "kd": 0.6}
        >>> HistoryHandler("history.json", evaluator).attach(trainer)
        >>> _ = trainer.run([0], max_epochs=1)
        >>> read_history("history.json")[0]["terms"]
        {'loss': 1.2, 'student_ce': 0.9, 'kd': 0.6}
    """

    def __init__(self, path: str | os.PathLike[str], evaluator: Engine) -> None:
        self.path, self.evaluator = Path(path), evaluator
        self._rows: list[dict[str, Any]] | None = None
        self._since = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer with a `CoTrainingHandler`."""
        engine.add_event_handler(Events.STARTED, self._forget)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _forget(self, engine: Engine) -> None:
        self._rows = None

    def _begin(self, engine: Engine) -> None:
        self._since = time.monotonic()
        if self._rows is None:  # only now is the first epoch of a resumed run known
            old = read_history(self.path) if engine.state.epoch > 1 else []
            self._rows = [row for row in old if row["epoch"] < engine.state.epoch]

    def _write(self, engine: Engine) -> None:
        if rank() != 0:
            return
        assert self._rows is not None
        weights, metrics = engine.state.term_weights, engine.state.metrics
        validated = self.evaluator.state.epoch == engine.state.epoch
        row = {
            "epoch": engine.state.epoch,
            "terms": {name: _finite(metrics[name]) for name in ("loss", "student_ce", *weights)},
            "weights": {name: _finite(weight) for name, weight in weights.items()},
            "validation": {n: _finite(v) for n, v in self.evaluator.state.metrics.items()} if validated else {},
            "best": self.evaluator.state.best_metric_epoch == engine.state.epoch,
            "seconds": round(time.monotonic() - self._since, 3),
        }
        if path := getattr(engine.state, "teacher_path", {}):
            row["teacher_path"] = {name: _finite(value) for name, value in path.items()}
        self._rows.append(row)
        lines = ",\n".join(json.dumps(row) for row in self._rows)
        atomic_write(f"[\n{lines}\n]\n", self.path)


def read_history(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the rows that `HistoryHandler` wrote; an empty list if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not Path(path).is_file():
        return []
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        if not all(isinstance(row, dict) and isinstance(row["epoch"], int) for row in rows):
            raise TypeError("rows without an epoch")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and the next training writes it anew") from error
    return rows


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
