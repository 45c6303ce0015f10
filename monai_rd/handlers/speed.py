"""Speed of a training, time waiting for data, and memory."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_rd.files import atomic_write, size_in_words
from monai_rd.processes import rank
from monai_rd.teacher_features import stored_features

__all__ = ["SpeedHandler", "peak_memory"]

logger = logging.getLogger(__name__)


class SpeedHandler:
    """Measures the speed of a training; writes `speed.json` and a log line at its end.

    The file has `items_per_second` (images or studies of this process per second of training steps, without
    validation), `data_wait` (share of that time spent waiting for a batch), `peak_memory` and on CUDA
    `peak_device_memory` in bytes (of this process since its start), and `stored_features` (share of items whose teacher
    features were precomputed). A resumed run counts only its own part. There is no synchronisation with the device
    before the end.

    Args:
        path: the file to write.

    Example:
        >>> import json, torch
        >>> from pathlib import Path
        >>> from ignite.engine import Engine
        >>> from monai_rd.handlers import SpeedHandler
        >>> trainer = Engine(lambda engine, batch: None)
        >>> trainer.state.device = "cpu"  # a MONAI trainer sets it
        >>> SpeedHandler("speed.json").attach(trainer)
        >>> _ = trainer.run([{"image": torch.rand(4, 3, 8, 8)}], max_epochs=1)
        >>> list(json.loads(Path("speed.json").read_text()))
        ['items_per_second', 'data_wait', 'stored_features', 'peak_memory']
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._items, self._stored = 0, 0
        self._seconds, self._waited = 0.0, 0.0
        self._asked = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._get)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.COMPLETED, self._tell)

    def _ask(self, engine: Engine) -> None:
        self._asked = time.monotonic()

    def _get(self, engine: Engine) -> None:
        self._waited += time.monotonic() - self._asked

    def _count(self, engine: Engine) -> None:
        self._seconds += time.monotonic() - self._asked
        items = len(engine.state.batch[CommonKeys.IMAGE])
        self._items += items
        self._stored += items * (stored_features(engine.state.batch) is not None)

    def _tell(self, engine: Engine) -> None:
        if rank() != 0 or not self._items:
            return
        device = torch.device(engine.state.device)
        if device.type == "cuda":
            begun = time.monotonic()
            torch.cuda.synchronize(device)  # kernels that are still running belong to the steps
            self._seconds += time.monotonic() - begun
        found = {
            "items_per_second": round(self._items / self._seconds, 3),
            "data_wait": round(self._waited / self._seconds, 4),
            "stored_features": round(self._stored / self._items, 4),
            "peak_memory": peak_memory(),
        }
        line = (
            f"{found['items_per_second']:.1f} items/s, {100 * found['data_wait']:.0f} % of the time waiting for data, "
            f"peak memory {size_in_words(found['peak_memory'])}"
        )
        if device.type == "cuda":
            found["peak_device_memory"] = torch.cuda.max_memory_allocated(device)
            line += f", on the GPU {size_in_words(found['peak_device_memory'])}"
        if self._stored:
            line += f", {100 * found['stored_features']:.0f} % of the items with stored teacher features"
        atomic_write(json.dumps(found, indent=1) + "\n", self.path)
        logger.info("training: %s", line)


def peak_memory() -> int:
    """Return the peak resident memory of this process so far, in bytes; 0 if the system does not provide it."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where getrusage would include the parent process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
