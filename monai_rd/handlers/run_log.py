"""What a training tells while it runs: console, TensorBoard, and how fast it was."""

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

    `ProgressHandler`, MONAI's `TensorBoardStatsHandler` for trainer (`train`) and evaluator (`validation`), both by
    epoch, and `SpeedHandler`. Of several processes the first one tells.

    List it after `RunCheckpoint`: an epoch whose line can be read was saved.

    Args:
        output_dir: folder of `tensorboard/` and `speed.json`.
        evaluator: the evaluator that `ValidationHandler` runs.
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
