"""Random seeds that depend only on the run's seed and the epoch, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.data.utils import set_rnd
from monai.utils import set_determinism

from monai_rd.processes import derived_seed, rank

__all__ = ["EpochSeedHandler"]


class EpochSeedHandler:
    """Seeds torch, numpy, random and the data set's random transforms at the start of each epoch.

    Args:
        seed: seed of the run.
        loader: the training data loader. If its sampler has `set_epoch`, as `TrainingBatches` has, its batches depend
            on the epoch number; otherwise, like its workers' seeds, on torch's random state. Without workers, the
            random transforms keep their own state, which is seeded here.

    Raises:
        ValueError: the loader has no batch.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai.data import DataLoader, Dataset
        >>> from monai_rd.handlers import EpochSeedHandler
        >>> loader = DataLoader(Dataset([1, 2, 3, 4]), batch_size=2)
        >>> trainer = Engine(lambda engine, batch: torch.rand(1).item())
        >>> EpochSeedHandler(0, loader).attach(trainer)
        >>> trainer.run(loader, max_epochs=1).output == trainer.run(loader, max_epochs=1).output
        True
    """

    def __init__(self, seed: int, loader: DataLoader) -> None:
        if len(loader) == 0:
            items, size = (
                getattr(loader.batch_sampler, "labelled", len(loader.dataset)),
                loader.batch_sampler.batch_size,
            )
            raise ValueError(f"{items} training items give no batch of {size}: use a smaller --batch_size")
        self.seed, self.loader = seed, loader

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed)

    def _seed(self, engine: Engine) -> None:
        # Each rank has its own augmentation.
        seed = derived_seed(self.seed, engine.state.epoch, rank())
        set_determinism(seed)
        set_rnd(self.loader.dataset, seed)
        for counts in (self.loader.batch_sampler, self.loader.sampler):
            if hasattr(counts, "set_epoch"):
                counts.set_epoch(engine.state.epoch)
