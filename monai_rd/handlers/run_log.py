"""Output of a training while it runs: console, TensorBoard and speed."""

from __future__ import annotations

import os
from pathlib import Path

from ignite.engine import Engine
from monai.handlers import TensorBoardStatsHandler

from monai_rd.handlers.progress import ProgressHandler
from monai_rd.handlers.speed import SpeedHandler
from monai_rd.processes import rank

__all__ = ["RunLog"]


class RunLog:
    """Shows the epochs on the console and in TensorBoard, and measures the speed of the steps.

    It combines `ProgressHandler`, MONAI's `TensorBoardStatsHandler` for trainer (`train`) and evaluator (`validation`),
    both per epoch, and `SpeedHandler`. In a distributed training only rank 0 writes.

    List it after `RunCheckpoint`, so that an epoch is saved before its line is shown.

    Args:
        output_dir: folder for `tensorboard/` and `speed.json`.
        evaluator: the evaluator that `ValidationHandler` runs.

    Example:
        >>> import os, torch
        >>> from monai.engines import SupervisedEvaluator, SupervisedTrainer
        >>> from monai_rd.handlers import CoTrainingHandler, RunLog
        >>> from monai_rd.methods import build_method
        >>> from monai_rd.networks import Student
        >>> student = Student("resnet18", num_classes=2)
        >>> batch = {"image": torch.rand(4, 3, 64, 64), "label": torch.tensor([0, 1, 0, 1])}
        >>> optimizer, loss = torch.optim.Adam(student.parameters(), 1e-3), torch.nn.CrossEntropyLoss()
        >>> trainer = SupervisedTrainer("cpu", 1, [batch], student, optimizer, loss, decollate=False)
        >>> CoTrainingHandler(student, build_method("ce", student, None, batch["label"])).attach(trainer)
        >>> RunLog("eval", SupervisedEvaluator("cpu", [batch], student)).attach(trainer)
        >>> trainer.run()
        epoch   1/1  loss ...
        >>> sorted(os.listdir("eval"))
        ['speed.json', 'tensorboard']
    """

    def __init__(self, output_dir: str | os.PathLike[str], evaluator: Engine) -> None:
        self.output_dir, self.evaluator = Path(output_dir), evaluator

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer with a `CoTrainingHandler`, and to its evaluator."""
        SpeedHandler(self.output_dir / "speed.json").attach(engine)
        if rank() == 0:
            ProgressHandler(self.evaluator).attach(engine)
            for told, name in ((engine, "train"), (self.evaluator, "validation")):
                folder = str(self.output_dir / "tensorboard")
                TensorBoardStatsHandler(log_dir=folder, iteration_log=False, tag_name=name).attach(told)
