"""Fitting a teacher to the task on a bundle's data with MONAI's trainer; results are reused for equal settings."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.data import DataLoader, Dataset
from monai.data.utils import set_rnd
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import LrScheduleHandler, ValidationHandler
from torch import Tensor, nn
from torch import distributed as dist

from monai_rd.adapters.base import AdaptedTeacher, Phase, Recipe
from monai_rd.adapters.cross_fit import CrossFittedTeacher, fold_of_items, loader_without
from monai_rd.adapters.registry import build_adapter
from monai_rd.adapters.shown import its_own, training_of, validation_of
from monai_rd.adapters.standardised import standardise
from monai_rd.adapters.stored import load_adapted, read_description, save_adapted
from monai_rd.adapters.whole import LINEAR_PROBE
from monai_rd.cache.fingerprints import transforms_fingerprint
from monai_rd.cache.orders import labels_of
from monai_rd.files import link_or_copy
from monai_rd.finite import NotFiniteError, TermSums
from monai_rd.handlers.cotraining import explain_small_batch
from monai_rd.handlers.failing import on_failure
from monai_rd.handlers.precision import CPUAutocast, amp_settings
from monai_rd.losses import ClassificationLoss
from monai_rd.networks.features import Reads
from monai_rd.processes import decided_by_rank_zero, derived_seed, rank, world_size
from monai_rd.teacher_image import teacher_image

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["tuned_teacher"]

logger = logging.getLogger(__name__)


def tuned_teacher(
    teacher: FrozenFoundationModel | None,
    adapter: str | None,
    train_loader: DataLoader,
    val_loader: DataLoader,
    *,
    num_classes: int,
    key_metric: Mapping[str, Metric],
    output_dir: str | Path,
    max_epochs: int,
    device: torch.device | str,
    amp: bool = False,
    criterion: ClassificationLoss | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    shared_dir: str | Path | None = None,
    folds: Sequence[int] | None = None,
    reads_features: bool = False,
    store: Callable[[Dataset, Any, Reads], Dataset] | None = None,
    images: Dataset | None = None,
) -> FrozenFoundationModel | None:
    """Fit a teacher to the task and freeze it again; several teachers used as one are standardised first.

    The adapted teacher is trained with its adapter's recipe, and the best epoch by `key_metric` on the validation set
    (the last of equal ones) is kept, as for a student. The trained tensors are saved in `output_dir` as
    `teacher_ADAPTER.safetensors`, and reused if they were trained with the same teacher, data, transforms and settings,
    there or in `shared_dir`. PyTorch's global random state is restored at the end. In a distributed training the
    gradients are averaged, and rank 0 writes the file.

    With `folds`, one teacher per fold is fitted without the items of that fold, and they are combined in a
    `CrossFittedTeacher`. Each has its own file, `teacher_ADAPTER_1_of_5.safetensors`.

    Args:
        teacher: the frozen teacher; None (for a method without a teacher) is returned unchanged.
        adapter: one of `ADAPTERS`; None returns the teacher without fitting it.
        train_loader: training batches with `image` and `label`, from a MONAI data set.
        val_loader: validation batches with `image` and `label`, from a MONAI data set.
        num_classes: number of classes of the task.
        key_metric: one metric by its name, as from `monai_rd.handlers.key_metric`; higher is better.
        output_dir: folder for the file.
        max_epochs: number of epochs; an adapter with two phases (lpt) splits them.
        device: device of the training.
        amp: use automatic mixed precision.
        criterion: the loss that learns the labels; None for the cross entropy of single-label data.
        learning_rate: replaces the recipe's learning rate; None keeps it.
        seed: seed of head, adapter, order and augmentation.
        options: options of the adapter.
        shared_dir: folder where trainings share their tuned teachers, found by a hash of everything they depend on.
        folds: the fold, from 0, of each item by its `index` in the training list; None fits one teacher to all items.
        reads_features: the method reads other features of the teacher than its logits.
        store: with stored features of the training set a linear probe is fitted to those, and the teacher is run on the
            views that are not there yet only; see `cache.feature_dataset`, whose data set, teacher and features to read
            it takes. None: the teacher is run on new views in every epoch, as it is for all other adapters.
        images: the training items that several teachers are standardised by, unlabelled ones among them; None for those
            of `train_loader`.

    Returns:
        The teacher on `device`; a fitted teacher has its `head` set.

    Raises:
        ValueError: see `build_adapter`; an empty training loader; a data set without `data`; or folds for items without
            `index`, or for a method that reads features which the adapter changes.
        TypeError: a transform whose settings cannot be read.
        OSError: the file cannot be written.
    """
    if teacher is not None:
        standardise(teacher, train_loader.dataset if images is None else images, output_dir, device, shared_dir)
    if teacher is None:
        return None
    device, stem = torch.device(device), Path(output_dir) / f"teacher_{adapter}"
    loss = criterion or ClassificationLoss()
    teacher.to(device)
    if adapter is None:
        return teacher

    def fitted(loader: DataLoader, path: Path) -> FrozenFoundationModel:
        if len(loader) == 0:
            raise ValueError(f"no batch of {loader.batch_size} to tune the teacher on: use a smaller --batch_size")
        torch.manual_seed(seed)
        network = build_adapter(adapter, teacher, num_classes, **(options or {})).to(device)
        settings = [adapter, dict(options or {}), num_classes, max_epochs, amp, learning_rate, seed]
        settings += [type(loss).__name__, loss.multi_label, dict(loss.named_buffers())]
        settings += [type(loader.sampler).__name__]
        run = _fingerprint(teacher, [*settings, repr(network.adapter.recipe)], loader, val_loader)
        shared = None if shared_dir is None else Path(shared_dir) / f"{path.stem}_{run[:16]}{path.suffix}"
        if decided_by_rank_zero(lambda: _made_by(path, run) or _taken_over(shared, path, run)):
            logger.info("'%s' was tuned before: %s is used again", network.name, path.name)
            return load_adapted(path, teacher)
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        logger.info("tuning '%s': %s of its parameters are trained", network.name, f"{trained:,}")
        phases = network.adapter.phases(network, torch.as_tensor(labels_of(_items(loader))), loss)
        for number, phase in enumerate(phases):
            epochs = max((max_epochs + len(phases) - 1 - number) // len(phases), 1)
            _train(network, phase, loader, val_loader, dict(key_metric), epochs, device, amp, learning_rate, seed)
        if rank() == 0:
            save_adapted(path, network, teacher, run)
            if shared is not None:
                link_or_copy(path, shared)
        if world_size() > 1:
            dist.barrier()
        return load_adapted(path, teacher)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if adapter == LINEAR_PROBE.name:
            train_loader = training_of(teacher, train_loader, store)
        if folds is None:
            return fitted(train_loader, stem.with_suffix(".safetensors"))
        if reads_features and adapter != LINEAR_PROBE.name:
            raise ValueError(
                f"the method reads the teacher's features, and of teachers that '{adapter}' fitted apart each has its "
                "own: leave --cross_fit out, or take --adapter linear_probe, which leaves features as they are"
            )
        own, count, made = fold_of_items(_items(train_loader), folds), max(folds) + 1, []
        # All loaders first: some transforms keep their last random values, which would change the next fingerprint.
        loaders = [loader_without(train_loader, own == fold) for fold in range(count)]
        for number, loader in enumerate(loaders, start=1):
            seen = len(loader.dataset)
            logger.info("teacher %d of %d is fitted to %d of %d images", number, count, seen, len(own))
            made.append(fitted(loader, stem.with_name(f"{stem.name}_{number}_of_{count}.safetensors")))
        return CrossFittedTeacher(made, torch.as_tensor(folds)).to(device)


def _made_by(path: Path, run: str) -> bool:
    """Whether a file was written by this training; False for a damaged file."""
    try:
        return path.is_file() and read_description(path)["run"] == run
    except ValueError as error:
        logger.warning("%s; it is made anew", error)
        return False


def _taken_over(shared: Path | None, path: Path, run: str) -> bool:
    """Whether another run has shared a file of this training; it is then linked or copied to `path`."""
    if shared is None or not _made_by(shared, run):
        return False
    link_or_copy(shared, path)
    return True


def _train(
    network: AdaptedTeacher,
    phase: Phase,
    train_loader: DataLoader,
    val_loader: DataLoader,
    key_metric: dict[str, Metric],
    epochs: int,
    device: torch.device,
    amp: bool,
    learning_rate: float | None,
    seed: int,
) -> None:
    """Train one phase and restore the network of its best epoch."""
    phase.start()
    everything = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in everything:
        parameter.requires_grad_(any(parameter is own for own in phase.parameters))
    module: nn.Module = network
    if world_size() > 1:  # full fine-tuning also has parameters of modules that are not run
        module = nn.parallel.DistributedDataParallel(network, find_unused_parameters=network.adapter.name == "full")
    recipe, best = network.adapter.recipe, _Best(network)
    batch = (train_loader.batch_size or 1) * world_size()
    optimizer = _optimizer(phase, recipe, batch, learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: _share(epoch, epochs, recipe.warm_up))
    precision: dict[str, Any] = {"amp": amp and device.type == "cuda", "amp_kwargs": amp_settings(device)}
    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=validation_of(network, val_loader, device, precision),
        network=module,
        prepare_batch=its_own,
        key_val_metric=key_metric,
        metric_cmp_fn=lambda current, former: current >= former,
        decollate=False,
        **precision,
    )
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=epochs,
        train_data_loader=train_loader,
        network=module,
        optimizer=optimizer,
        loss_function=phase.loss,
        decollate=False,
        prepare_batch=its_own,
        **precision,
        train_handlers=[
            LrScheduleHandler(schedule, print_lr=False),
            ValidationHandler(1, evaluator),
            *([CPUAutocast()] if amp and device.type == "cpu" else []),
        ],
    )

    @trainer.on(Events.EPOCH_STARTED)
    def start(engine: Engine) -> None:
        state = derived_seed(seed, engine.state.epoch, rank())
        torch.manual_seed(state)
        set_rnd(train_loader.dataset, state)
        if hasattr(train_loader.sampler, "set_epoch"):
            train_loader.sampler.set_epoch(engine.state.epoch)
        phase.start_epoch((engine.state.epoch - 1) / max(epochs - 1, 1))

    sums = TermSums()

    @trainer.on(IterationEvents.LOSS_COMPLETED)
    def look(engine: Engine) -> None:
        if sums.add({"loss": engine.state.output["loss"]}):
            _refuse(network.name, float(engine.state.output["loss"].detach()))

    @evaluator.on(Events.STARTED)  # before the epoch can become the best
    def look_back(_: Engine) -> None:
        sum_of, step, _ = sums.read()
        if step:
            _refuse(network.name, sum_of["loss"])

    @trainer.on(Events.EPOCH_COMPLETED)  # after the validation, which is attached earlier
    def end(engine: Engine) -> None:
        if evaluator.state.best_metric_epoch == engine.state.epoch:
            best.keep()
        loss, metric = float(engine.state.output["loss"].detach()), next(iter(key_metric))
        values = (network.name, engine.state.epoch, epochs, loss, metric, evaluator.state.metrics[metric])
        logger.info("tuning '%s': epoch %d of %d, loss %.4f, %s %.4f", *values)

    on_failure(trainer, explain_small_batch)
    trainer.run()
    best.restore()
    for parameter in everything:
        parameter.requires_grad_(True)


def _refuse(name: str, loss: float) -> NoReturn:
    raise NotFiniteError(f"tuning '{name}' came to a loss of {loss}: use a smaller learning_rate")


class _Best:
    """A copy of the trained tensors of the best epoch."""

    def __init__(self, network: AdaptedTeacher) -> None:
        self._network, self._kept = network, dict[str, Tensor]()

    def _tensors(self) -> dict[str, Tensor]:
        network = self._network
        outside = {f"head.{name}": tensor for name, tensor in network.head.state_dict().items()}
        outside |= {} if network.norm is None else {f"norm.{k}": v for k, v in network.norm.state_dict().items()}
        return {**network.adapter_state(), **outside}

    def keep(self) -> None:
        self._kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._tensors().items()}

    @torch.no_grad()
    def restore(self) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(self._kept[name])


def _optimizer(phase: Phase, recipe: Recipe, batch: int, learning_rate: float | None) -> torch.optim.Optimizer:
    if learning_rate is None:
        learning_rate = recipe.learning_rate * (1 if recipe.batch is None else batch / recipe.batch)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(phase.parameters, learning_rate, momentum=0.9, weight_decay=recipe.weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(phase.parameters, learning_rate, weight_decay=recipe.weight_decay)


def _share(epoch: int, epochs: int, warm_up: float) -> float:
    """Factor of the highest learning rate in an epoch (from 0): linear warm-up, then cosine decay."""
    rising = round(warm_up * epochs) if warm_up < 1 else min(int(warm_up), epochs - 1)
    if epoch < rising:
        return (epoch + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (epoch - rising) / max(epochs - rising, 1)))


def _items(loader: DataLoader) -> Any:
    """Return the list of items of a loader's data set.

    Raises:
        ValueError: it is not a MONAI data set.
    """
    items = getattr(loader.dataset, "data", None)
    if items is None:
        raise ValueError(f"a {type(loader.dataset).__name__} has no list `data`: give loaders of a MONAI data set")
    return items


def _fingerprint(
    teacher: FrozenFoundationModel, settings: Any, train_loader: DataLoader, val_loader: DataLoader
) -> str:
    """SHA-256 of everything that a tuned teacher depends on.

    For the data these are the image paths and labels of both lists (not the pseudonyms, which differ between output
    folders), the training transforms, and the content of the first validation batch.
    """
    digest = hashlib.sha256(teacher.fingerprint().encode())
    _add(digest, [settings, train_loader.batch_size, transforms_fingerprint(train_loader.dataset)])
    for loader in (train_loader, val_loader):
        _add(digest, [[item["image"], item.get("volume", ""), item["label"]] for item in _items(loader)])
    batch = next(iter(val_loader))
    _add(digest, [teacher_image(batch), batch["label"]])
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.as_subclass(Tensor).detach().cpu().float().numpy()
    if isinstance(value, np.ndarray):
        digest.update(repr((value.shape, value.dtype)).encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            _add(digest, [key, value[key]])
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for part in value:
            _add(digest, part)
    else:
        digest.update(json.dumps(value, default=str).encode())
