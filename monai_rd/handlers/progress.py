"""Console output of a run: a progress bar with the loss terms, and one line per epoch."""

from __future__ import annotations

import sys
import time

from ignite.engine import Engine, Events
from tqdm.auto import tqdm

from monai_rd.handlers.failing import on_failure

__all__ = ["ProgressHandler"]

SHORT = {"student_ce": "ce", "teacher_ce": "teacher ce"}


class ProgressHandler:
    """Shows the progress of a `SupervisedTrainer` with a `CoTrainingHandler`: a bar, and one line per epoch.

    List it after all handlers that measure something in an epoch. With a `TeacherPathWatch` the line also has the
    accuracy of the teacher path on training and validation data, and its ROC AUC on validation data; its other metrics
    are in the history.

    Args:
        evaluator: the evaluator whose metrics are shown in the epoch's line.

    Example:
        >>> from ignite.engine import Engine, Events
        >>> from monai_rd.handlers import ProgressHandler
        >>> trainer = Engine(lambda engine, batch: {"terms": {}})
        >>> evaluator = Engine(lambda engine, batch: None)
        >>> evaluator.state.metrics, evaluator.state.best_metric_epoch = {"val_auc": 0.81}, 1
        >>> @trainer.on(Events.EPOCH_COMPLETED)  # in a training `CoTrainingHandler` sets both
        ... def measure(engine):
        ...     engine.state.term_weights = {"kd": 0.5}
        ...     engine.state.metrics = {"loss": 1.2, "student_ce": 0.9, "kd": 0.6}
        >>> ProgressHandler(evaluator).attach(trainer)
        >>> _ = trainer.run([0], max_epochs=1)
        epoch   1/1  loss 1.200 = 0.900 ce + 0.50*0.600 kd  |  val_auc 0.810  |  ... s  *best so far
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
            # Without a terminal every refresh would be a line of a log file: no bar then.
            quiet = not sys.stderr.isatty()
            self._bar = tqdm(
                total=total, initial=engine.state.iteration, unit="step", dynamic_ncols=True, disable=quiet
            )

    def _iteration_completed(self, engine: Engine) -> None:
        assert self._bar is not None
        self._bar.update(1)
        # Reading a loss synchronises with the device: twice per second is enough.
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
    names = {"train": "train_accuracy", "val": "validation_accuracy", "val_auc": "validation_auc"}
    told = [f"{short} {path[name]:.3f}" for short, name in names.items() if name in path]
    return f"  |  teacher {' '.join(told)}" if told else ""
