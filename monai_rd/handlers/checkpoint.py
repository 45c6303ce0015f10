"""Checkpoints of a run: the best student alone, and the state that a killed run needs to continue.

MONAI's `CheckpointSaver` writes in place and does not save the evaluator's best metric; a run that is killed while it
writes, or that is resumed from such a checkpoint, could lose or replace a better model. Here every file is written to a
temporary file next to its target and then renamed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys
from torch import nn

from monai_rd.datasets.lists import DataList, compare_identities
from monai_rd.files import atomic_path, atomic_write
from monai_rd.finite import NotFiniteError
from monai_rd.handlers.run_lock import RunLock
from monai_rd.methods.base import unwrapped
from monai_rd.processes import rank

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["RunCheckpoint", "save_atomically"]

logger = logging.getLogger(__name__)


class RunCheckpoint:
    """Saves the student and the training state after every epoch, and restores them when a run is resumed.

    List it after `ValidationHandler`. It writes `model_path`, the state dict of the best student and nothing else;
    `settings.json` in the same folder; `best_method.pt` in `output_dir`, the method's modules (phi) of the same epoch,
    for the report on the reprogrammed teacher; and `last.pt` in `output_dir`, the state that a killed run needs. The
    student is saved when the evaluator reports a best epoch, or with `selection="last"` after every epoch; without the
    modules that the method added for the training (`Method.deployable`).

    Args:
        model_path: file for the best student, `BUNDLE/models/model.pt`.
        output_dir: folder for `best_method.pt` and `last.pt`.
        network: the student.
        method: the distillation method.
        stateful: further objects with `state_dict` and `load_state_dict`, such as optimizer and scheduler.
        evaluator: MONAI evaluator whose `best_metric` selects the best epoch.
        settings: settings that must be equal when a run is resumed: numbers, strings, None.
        resume: continue the run in `output_dir` if there is one; if False, an older `last.pt` is removed at the start.
        selection: "best" keeps the student of the evaluator's best epoch, "last" the student of the last epoch.
        data: the data list, which must be equal when a run is resumed, see `DataList.identity`; None: not compared.
        teacher: the frozen teacher, whose weights must be equal when a run is resumed; None for a method without one.
        lock: lock that is held during the training; None for a new one on both folders.

    Raises:
        ValueError: an unknown selection; (at the start) the run in `output_dir` has other settings or other data.
        OSError: (at the start) another training is running in one of the folders.
        NotFiniteError: (in a validation) the student's output has NaN or infinity.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai_rd.handlers import RunCheckpoint
        >>> from monai_rd.methods import build_method
        >>> from monai_rd.networks import Student
        >>> student, evaluator = Student("resnet18", num_classes=2), Engine(lambda engine, batch: None)
        >>> evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.9, 1  # a MONAI evaluator sets them
        >>> method, trainer = build_method("ce", student, None, [0, 1]), Engine(lambda engine, batch: None)
        >>> RunCheckpoint("models/model.pt", "eval", student, method, {}, evaluator, {"seed": 0}).attach(trainer)
        >>> _ = trainer.run([0], max_epochs=1)
        >>> torch.load("models/model.pt")["classifier.weight"].shape
        torch.Size([2, 512])
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        network: nn.Module,
        method: nn.Module,
        stateful: Mapping[str, Any],
        evaluator: Engine,
        settings: Mapping[str, Any],
        resume: bool = False,
        selection: Literal["best", "last"] = "best",
        data: DataList | None = None,
        teacher: FrozenFoundationModel | None = None,
        lock: RunLock | None = None,
    ) -> None:
        if selection not in ("best", "last"):
            raise ValueError(f"model_selection is 'best' (on the validation split) or 'last', not {selection!r}")
        self.selection = selection
        self.model_path, self.best_method = Path(model_path), Path(output_dir) / "best_method.pt"
        self.last = Path(output_dir) / "last.pt"
        self.network, self.method, self.stateful = network, method, dict(stateful)
        self.evaluator, self.settings, self.resume = evaluator, dict(settings), resume
        self.data: dict[str, Any] = {} if data is None else dict(data.identity())
        self.also = {"teacher_weights": None if teacher is None else teacher.fingerprint()}
        self._lock = lock or RunLock([self.model_path.parent, output_dir])
        self._diverged = torch.tensor(False)

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        engine.add_event_handler(Events.COMPLETED, self._end)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._look)

    def _look(self, evaluator: Engine) -> None:
        """Stop the training if the validation output is not finite: no metric could select the best epoch then."""
        made = evaluator.state.output
        answers = [one[CommonKeys.PRED] for one in (made if isinstance(made, list) else [made])]
        within = (evaluator.state.iteration - 1) % evaluator.state.epoch_length + 1
        wrong = torch.stack([(~one.isfinite()).any() for one in answers]).any()
        self._diverged = wrong if within == 1 else self._diverged | wrong
        # Before the metrics are computed, some of which fail on NaN. On a GPU it is read once per epoch only.
        if (wrong.device.type == "cpu" or within == evaluator.state.epoch_length) and self._diverged:
            raise NotFiniteError(
                f"the training has diverged: after epoch {evaluator.state.epoch} the student answers to images of the "
                "validation set with what is no number; a smaller --learning_rate is the usual remedy. Nothing of this "
                "epoch was saved"
            )

    def _end(self, engine: Engine) -> None:
        self._lock.release()

    def _start(self, engine: Engine) -> None:
        self._lock.acquire()
        if not self.resume:
            if rank() == 0:
                self.last.unlink(missing_ok=True)
            return
        if not self.last.is_file():
            logger.info("resume: no run to go on with in output_dir, starting from the beginning")
            return
        state = torch.load(self.last, map_location="cpu", weights_only=True)
        # The data first: some settings follow from them, such as the intensity range of the images.
        if self.data and "data" in state and (moved := compare_identities(state["data"], self.data)):
            raise ValueError(
                f"cannot resume: the data have changed: {moved}. Bring them back to what they were, or start with "
                "--resume false, or with another --output_dir"
            )
        before, now = {**state["settings"], **state.get("also", {})}, {**self.settings, **self.also}
        changed = [
            f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
            for key in sorted({*before, *now} if "also" in state else {*state["settings"], *self.settings})
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise ValueError(
                f"cannot resume: the run in output_dir has other settings ({'; '.join(changed)}). "
                "Start with the same settings, or with --resume false, or with another --output_dir"
            )
        for name, module in (("network", self.network), ("method", self.method)):
            unwrapped(module).load_state_dict(state[name])
        for name, thing in self.stateful.items():
            thing.load_state_dict(state[name])
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        logger.info("resume: going on after epoch %d of %d", state["epoch"], engine.state.max_epochs)

    def _save(self, engine: Engine) -> None:
        if rank() != 0:
            return
        best = self.evaluator.state
        # The best model first: if the run is killed in between, it repeats this epoch and writes the same file again.
        if self.selection == "last" or best.best_metric_epoch == engine.state.epoch:
            method: Any = unwrapped(self.method)
            save_atomically(method.deployable(unwrapped(self.network)), self.model_path)
            atomic_write(json.dumps(self.settings, indent=2) + "\n", self.model_path.with_name("settings.json"))
            save_atomically(unwrapped(self.method).state_dict(), self.best_method)
        state = {
            "settings": self.settings,
            "also": self.also,
            "data": self.data,
            "epoch": engine.state.epoch,
            "best_metric": float(best.best_metric),
            "best_metric_epoch": int(best.best_metric_epoch),
            "network": unwrapped(self.network).state_dict(),
            "method": unwrapped(self.method).state_dict(),
            **{name: thing.state_dict() for name, thing in self.stateful.items()},
        }
        save_atomically(state, self.last)


def save_atomically(content: Any, path: Path) -> None:
    """Save a state with `torch.save`; the file is written completely or not at all."""
    # A Python file object gives clearer errors; and no other process writes here, see `RunLock`.
    with atomic_path(path, others=False) as beside, open(beside, "wb") as file:
        torch.save(content, file)
