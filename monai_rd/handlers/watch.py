"""Accuracy, confidence and CKA of a method's teacher path per epoch, on training and validation images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from ignite.engine import Engine, Events
from monai.networks.utils import eval_mode
from monai.utils.enums import CommonKeys
from torch import Tensor, nn
from torch import distributed as dist

from monai_rd.handlers.metrics import mean_auc
from monai_rd.losses import class_probabilities
from monai_rd.losses.cka import SMALLEST_BATCH, hsics
from monai_rd.losses.temperature import fit_temperature
from monai_rd.methods.base import Method, PathOutput, unwrapped
from monai_rd.networks.features import Reads
from monai_rd.no_label import NO_LABEL, unlabelled_items
from monai_rd.processes import world_size
from monai_rd.teacher_image import teacher_image

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["MOST_BYTES", "MOST_ITEMS", "TeacherPathWatch"]

# Validation items: the standard error of an accuracy is then at most 0.02, and the time of a large teacher is limited.
MOST_ITEMS = 512
MOST_BYTES = 256 << 20  # of features in the memory of each process


class TeacherPathWatch:
    """Measures the teacher path of a method in every epoch, if the method has one (`Method.teacher_path`).

    At the end of an epoch it writes the following metrics to `engine.state.teacher_path`, and for loggers to
    `engine.state.metrics` as `teacher_path_NAME`, as far as they can be computed:

    - `train_accuracy`, `train_confidence`, `unlabelled_confidence`, `cka`: on this epoch's training batches, as the
      method saw them in its steps. CKA is the unbiased minibatch estimate (Nguyen et al., arXiv 2010.15327) between
      f_t and f_s, over all items; it needs batches of at least 4.
    - `validation_accuracy`: after an epoch with validation, on the validation set or on 512 items of it, drawn once.
    - `validation_auc`: with it, the ROC AUC on the same items, the mean over classes, as `val_auc` of the student.
    - `temperature`: with it, of the path's logits on the same items, see `fit_temperature`; above 1 for a path that is
      surer than it may be. The method gets it, see `Method.calibrate`.

    Accuracy is the balanced accuracy, the mean over classes of the recall; for multi-label data the mean over classes
    of sensitivity and specificity at a probability of 0.5. Classes without such items are excluded. Confidence is the
    mean of the largest probability, for multi-label data of max(p, 1 - p).

    The training metrics reuse the outputs of the steps, and their sums stay on the device until the end of the epoch.
    On the validation set the teacher runs only once, with the first validation; its features are kept in half
    precision. They take at most 256 MiB per process; if items are too large for that, fewer are drawn.

    List it after `ValidationHandler` and before the handlers that write metrics.

    Args:
        network: the student, with or without a DistributedDataParallel wrapper.
        method: the distillation method, with or without such a wrapper.
        teacher: the frozen foundation model; None: no metrics of the validation set.
        evaluator: the evaluator that `ValidationHandler` runs.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedEvaluator, SupervisedTrainer
        >>> from monai_rd.handlers import CoTrainingHandler, TeacherPathWatch
        >>> from monai_rd.methods import build_method, trainable_parameters
        >>> from monai_rd.networks import Student, load_teacher
        >>> student, teacher = Student("resnet18", num_classes=2), load_teacher("phantom_ct")
        >>> batch = {"image": torch.rand(4, 3, 64, 64), "label": torch.tensor([0, 1, 0, 1])}
        >>> rd = build_method("rd", student, teacher, batch["label"], options={"width": 32})
        >>> optimizer, loss = torch.optim.Adam(trainable_parameters(student, rd), 1e-3), torch.nn.CrossEntropyLoss()
        >>> trainer = SupervisedTrainer("cpu", 1, [batch], student, optimizer, loss, decollate=False)
        >>> CoTrainingHandler(student, rd, teacher).attach(trainer)
        >>> TeacherPathWatch(student, rd, teacher, SupervisedEvaluator("cpu", [batch], student)).attach(trainer)
        >>> trainer.run()
        >>> list(trainer.state.teacher_path)
        ['train_accuracy', 'train_confidence', 'cka']
    """

    def __init__(
        self,
        network: nn.Module,
        method: nn.Module,
        teacher: FrozenFoundationModel | None,
        evaluator: Engine,
    ) -> None:
        self._method, network = cast(Method, unwrapped(method)), cast("Student", unwrapped(network))
        self._path, self._classes = self._method.teacher_path(network), network.classifier.out_features
        self.evaluator = evaluator
        reads = Reads(tap=True, grid=self._method.reads.grid)
        self._known = None if teacher is None else _Known(teacher, reads)
        self._trained = self._tally(torch.device("cpu"))
        self._named: tuple[str, ...] = ()

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer with a `CoTrainingHandler`."""
        if self._path is None:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._take)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell)
        if self._known is not None:
            self._known.attach(self.evaluator)

    def _tally(self, device: torch.device) -> _Tally:
        return _Tally(self._classes, self._method.multi_label, device)

    def _begin(self, engine: Engine) -> None:
        self._trained = self._tally(torch.device(engine.state.device))
        engine.state.teacher_path = {}
        for name in self._named:  # the next epoch may not have this metric
            engine.state.metrics.pop(name, None)

    def _take(self, engine: Engine) -> None:
        if made := self._method.take_path():
            self._trained.add(made.logits, engine.state.output[CommonKeys.LABEL].as_subclass(Tensor))
            self._trained.align(made)

    def _tell(self, engine: Engine) -> None:
        found = self._trained.read()
        numbers = {
            "train_accuracy": found["accuracy"],
            "train_confidence": found["confidence"],
            "unlabelled_confidence": found["unlabelled_confidence"],
            "cka": found["cka"],
        }
        if self._known is not None and self.evaluator.state.epoch == engine.state.epoch:
            numbers |= self._of_validation(torch.device(engine.state.device))
            if (temperature := numbers["temperature"]) is not None:
                self._method.calibrate(temperature)
        told = {name: value for name, value in numbers.items() if value is not None}
        engine.state.teacher_path = told
        engine.state.metrics.update({f"teacher_path_{name}": value for name, value in told.items()})
        self._named = tuple(f"teacher_path_{name}" for name in told)

    def _of_validation(self, device: torch.device) -> dict[str, float | None]:
        assert self._path is not None
        assert self._known is not None
        tally, logits, labels = self._tally(device), [], []
        with eval_mode(self._path):
            for tap, label in self._known.items(device):
                logits.append(self._path(tap).float())
                labels.append(label)
                tally.add(logits[-1], label)
        return {"validation_accuracy": tally.read()["accuracy"], **self._of_answers(logits, labels)}

    def _of_answers(self, logits: list[Tensor], labels: list[Tensor]) -> dict[str, float | None]:
        """Measure on the logits and labels of all processes, each copied from the device once."""
        said = [(torch.cat(logits).cpu(), torch.cat(labels).cpu())] if logits else []
        if world_size() > 1:
            parts: list[Any] = [None] * world_size()
            dist.all_gather_object(parts, said)
            said = [one for part in parts for one in part]
        if not said:
            return {"validation_auc": None, "temperature": None}
        z, y = (torch.cat(tensors) for tensors in zip(*said, strict=True))
        multi_label = self._method.multi_label
        members = y if multi_label else nn.functional.one_hot(y, self._classes)
        temperature = fit_temperature(z, y, multi_label)  # first: it says in words when z is not finite
        return {
            "validation_auc": mean_auc(class_probabilities(z, multi_label), members),
            "temperature": temperature,
        }


class _Known:
    """Teacher features and labels of validation items, kept per batch on the CPU; see `TeacherPathWatch`."""

    def __init__(self, teacher: FrozenFoundationModel, reads: Reads) -> None:
        self.teacher, self.reads = teacher, reads
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []  # features, their scale, labels
        self._drawn: set[int] | None = None
        self._seen, self._complete = 0, False

    def items(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features and labels, batch by batch, on the device."""
        for tap, scale, label in self._kept:
            yield tap.to(device).float() * scale.to(device), label.to(device)

    def attach(self, evaluator: Engine) -> None:
        evaluator.add_event_handler(Events.STARTED, self._start)
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._look)
        evaluator.add_event_handler(Events.COMPLETED, self._end)

    def _start(self, evaluator: Engine) -> None:
        if not self._complete:
            self._kept, self._drawn, self._seen = [], None, 0

    def _look(self, evaluator: Engine) -> None:
        if self._complete:
            return
        batch, device = evaluator.state.batch, torch.device(evaluator.state.device)
        image, label = teacher_image(batch), torch.as_tensor(batch[CommonKeys.LABEL]).as_subclass(Tensor)
        if self._drawn is None:
            self._drawn = self._draw(len(evaluator.state.dataloader.sampler), image[:1].to(device))
        places = [place for place in range(len(image)) if self._seen + place in self._drawn]
        self._seen += len(image)
        if places:
            self._kept.append((*self._features(image[places].to(device)), label[places].cpu()))

    def _end(self, evaluator: Engine) -> None:
        self._complete = True

    def _draw(self, items: int, first: Tensor) -> set[int]:
        """Draw the indices, in this process's part of the validation set, of the items that are kept."""
        one, _ = self._features(first)
        most = min(MOST_ITEMS // world_size(), MOST_BYTES // (one.numel() * one.element_size()))
        # At random, as a regular subset (every second item) could contain only one class.
        return set(torch.randperm(items, generator=torch.Generator().manual_seed(0))[:most].tolist())

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tap = self.teacher.read(image, self.reads).tap.float()
        scale = (tap.abs().max() / torch.finfo(torch.half).max).clamp(min=1)  # some teachers exceed float16's range
        return (tap / scale).half().cpu(), scale.cpu()


class _Tally:
    """Sums of a teacher path's predictions, kept on the device of the items."""

    def __init__(self, classes: int, multi_label: bool, device: torch.device) -> None:
        self.multi_label = multi_label
        self._names = torch.arange(classes, device=device)
        sides = 2 if multi_label else 1  # positives; multi-label also negatives
        self._right, self._total = torch.zeros(2, sides, classes, device=device)
        self._confidence, self._items = torch.zeros(2, 2, device=device)  # labelled, unlabelled
        self._hsics = torch.zeros(3, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """Add the path's logits `[B, classes]` for items with the labels `target`, as in `Step`."""
        if target.dim() == 2 and not self.multi_label:  # a mixture counts for its larger part
            target = target.argmax(dim=1).where(~unlabelled_items(target), NO_LABEL)
        p = class_probabilities(logits.float(), self.multi_label)
        said = (p >= 0.5).to(target.dtype) if self.multi_label else p.argmax(dim=1)
        truth = self._sides(target)
        self._right += (truth & self._sides(said)).sum(dim=0)
        self._total += truth.sum(dim=0)
        sure = torch.maximum(p, 1 - p).mean(dim=1) if self.multi_label else p.amax(dim=1)
        unlabelled = unlabelled_items(target)
        kinds = torch.stack([~unlabelled, unlabelled]).float()
        self._confidence += kinds @ sure
        self._items += kinds.sum(dim=1)

    @torch.no_grad()
    def align(self, made: PathOutput) -> None:
        """Add a batch's features to the sums for CKA."""
        if len(made.features) >= SMALLEST_BATCH["unbiased"]:
            self._hsics += torch.stack(hsics(made.features, made.student, "unbiased"))

    def _sides(self, labels: Tensor) -> Tensor:
        """Masks of positives and (multi-label) negatives, bool `[B, sides, classes]`; False without a label."""
        if self.multi_label:
            return torch.stack([labels == 1, labels == 0], dim=1)
        return (labels[:, None] == self._names)[:, None]

    def read(self) -> dict[str, float | None]:
        """Return the metrics over all processes, None if there are no items for one; synchronises with the device."""
        parts = (self._right, self._total, self._confidence, self._items, self._hsics)
        sums = torch.cat([part.flatten() for part in parts])
        if world_size() > 1:
            dist.all_reduce(sums)
        sizes = [part.numel() for part in parts]
        right, total, confidence, items, aligned = sums.cpu().double().split(sizes)
        shape = self._right.shape
        right, total = right.view(shape), total.view(shape)
        both = (total > 0).all(dim=0)  # classes that have items on every side
        cross, own_t, own_s = aligned.tolist()
        return {
            "accuracy": float((right / total)[:, both].mean()) if both.any() else None,
            "confidence": float(confidence[0] / items[0]) if items[0] else None,
            "unlabelled_confidence": float(confidence[1] / items[1]) if items[1] else None,
            "cka": cross / (own_t * own_s) ** 0.5 if own_t > 0 and own_s > 0 else None,
        }
