"""Randomness that is a function of seed and epoch alone, so that a resumed run continues as an unbroken one."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.data.utils import set_rnd
from monai.utils import set_determinism

from monai_rd.processes import derived_seed, rank

__all__ = ["EpochSeedHandler"]


class EpochSeedHandler:
    """Seeds torch, numpy, random and the data set's random transforms anew at each epoch's start.

    Args:
        seed: seed of the run.
        loader: the training data loader. Its batches follow from the number of the epoch where its sampler counts
            epochs, as `TrainingBatches` does, else from torch's random state, as its workers' seeds do; the transforms
            of a loader without workers keep their own and are seeded here.

    Raises:
        ValueError: the loader has no batch.
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
        # Ranks augment differently.
        seed = derived_seed(self.seed, engine.state.epoch, rank())
        set_determinism(seed)
        set_rnd(self.loader.dataset, seed)
        for counts in (self.loader.batch_sampler, self.loader.sampler):
            if hasattr(counts, "set_epoch"):
                counts.set_epoch(engine.state.epoch)
