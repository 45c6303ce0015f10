"""The console during a run: a bar with the loss terms, and a line for each epoch."""

from __future__ import annotations

import sys
import time

from ignite.engine import Engine, Events
from tqdm.auto import tqdm

from monai_rd.handlers.failing import on_failure

__all__ = ["ProgressHandler"]

SHORT = {"student_ce": "ce", "teacher_ce": "teacher ce"}


class ProgressHandler:
    """Shows where a `SupervisedTrainer` with a `CoTrainingHandler` stands. List it after all that measures an epoch.

    With a `TeacherPathWatch` an epoch's line also has the accuracy of the teacher path on both sides; the rest of what
    is measured of it stands in the history.

    Args:
        evaluator: the evaluator whose metrics stand at the end of each epoch's line.
    """

    def __init__(self, evaluator: Engine) -> None:
        self.evaluator = evaluator
        self._bar: tqdm | None = None
        self._shown, self._since = 0.0, 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._close)
        on_failure(engine, lambda engine, error: self._close(engine))

    def _epoch_started(self, engine: Engine) -> None:
        self._since = time.monotonic()
        if self._bar is None:
            total = engine.state.max_epochs * engine.state.epoch_length
            # Without a terminal every refresh is a line of a log file: none then.
            quiet = not sys.stderr.isatty()
            self._bar = tqdm(
                total=total, initial=engine.state.iteration, unit="step", dynamic_ncols=True, disable=quiet
            )

    def _iteration_completed(self, engine: Engine) -> None:
        assert self._bar is not None
        self._bar.update(1)
        # Reading a loss waits for the device: twice a second is often enough.
        if self._bar.disable or time.monotonic() - self._shown < 0.5:
            return
        self._shown = time.monotonic()
        terms = {SHORT.get(name, name): f"{value.item():.3f}" for name, value in engine.state.output["terms"].items()}
        self._bar.set_postfix({"epoch": f"{engine.state.epoch}/{engine.state.max_epochs}", **terms})

    def _epoch_completed(self, engine: Engine) -> None:
        metrics, weights = engine.state.metrics, engine.state.term_weights
        terms = [] if "student_ce" in weights else [f"{metrics['student_ce']:.3f} ce"]
        terms += [f"{weights[name]:.2f}*{metrics[name]:.3f} {SHORT.get(name, name)}" for name in weights]
        shown = "  ".join(f"{name} {value:.3f}" for name, value in self.evaluator.state.metrics.items())
        best = "  *best so far" if self.evaluator.state.best_metric_epoch == engine.state.epoch else ""
        line = (
            f"epoch {engine.state.epoch:3d}/{engine.state.max_epochs}  loss {metrics['loss']:.3f} = {' + '.join(terms)}"
            f"  |  {shown}{_teacher_path(engine)}  |  {time.monotonic() - self._since:.1f} s{best}"
        )
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _teacher_path(engine: Engine) -> str:
    path = getattr(engine.state, "teacher_path", {})
    sides = [(short, path.get(f"{side}_accuracy")) for short, side in (("train", "train"), ("val", "validation"))]
    told = [f"{short} {value:.3f}" for short, value in sides if value is not None]
    return f"  |  teacher {' '.join(told)}" if told else ""
