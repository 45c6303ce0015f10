"""What a method's teacher path knows of the images it is taught on, and of those it is not, by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from ignite.engine import Engine, Events
from monai.networks.utils import eval_mode
from monai.utils.enums import CommonKeys
from torch import Tensor, nn
from torch import distributed as dist

from monai_rd.losses import class_probabilities
from monai_rd.losses.cka import SMALLEST_BATCH, hsics
from monai_rd.methods.base import Method, PathOutput, unwrapped
from monai_rd.networks.features import Reads
from monai_rd.no_label import NO_LABEL, unlabelled_items
from monai_rd.processes import world_size
from monai_rd.teacher_image import teacher_image

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["MOST_BYTES", "MOST_ITEMS", "TeacherPathWatch"]

# Of the validation set: the standard error of an accuracy is then 0.02 at most, and a large teacher is run no longer.
MOST_ITEMS = 512
MOST_BYTES = 256 << 20  # of features kept in the memory of each process


class TeacherPathWatch:
    """Measures in every epoch what the teacher path knows, of a method that has one (`Method.teacher_path`).

    Into `engine.state.teacher_path`, and for whoever logs metrics into `engine.state.metrics` as
    `teacher_path_NAME`, go at the end of an epoch, as far as there is something to measure:

    - `train_accuracy`, `train_confidence`, `unlabelled_confidence`, `cka`: of the training batches of this epoch, as
      the method saw them in its steps. CKA is the unbiased one between f_t and f_s, of minibatches (Nguyen et al.,
      arXiv 2010.15327), of all items of the batches, of which there must be 4 in each.
    - `validation_accuracy`: after an epoch that was validated, of the validation set, or of 512 items of it drawn once.

    Accuracy is the mean over classes of how often an item of the class is told right, so that a rare class counts like
    a frequent one; multi-label the mean over classes of sensitivity and specificity at a probability of 0.5. Classes
    without such items are left out. Confidence is the mean of the largest probability, multi-label of max(p, 1 - p).

    Nothing is computed twice: a method keeps what its step made of the batch, and the sums stay on the device until the
    end of the epoch. On the validation set the teacher itself runs only once, beside the first validation. What it
    gives is kept in half precision, 256 MB at most; of items that take more than that, fewer are drawn.

    List it after `ValidationHandler` and before whoever writes the numbers.

    Args:
        network: the student, bare or wrapped in DistributedDataParallel.
        method: the method, bare or wrapped likewise.
        teacher: the frozen foundation model; without one there are no numbers of the validation set.
        evaluator: the evaluator that `ValidationHandler` runs.
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
        for name in self._named:  # the next epoch may have no such number
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
            numbers["validation_accuracy"] = self._of_validation(torch.device(engine.state.device))
        told = {name: value for name, value in numbers.items() if value is not None}
        engine.state.teacher_path = told
        engine.state.metrics.update({f"teacher_path_{name}": value for name, value in told.items()})
        self._named = tuple(f"teacher_path_{name}" for name in told)

    def _of_validation(self, device: torch.device) -> float | None:
        assert self._path is not None
        assert self._known is not None
        tally = self._tally(device)
        with eval_mode(self._path):
            for tap, label in self._known.items(device):
                tally.add(self._path(tap), label)
        return tally.read()["accuracy"]


class _Known:
    """The teacher's features of validation items and their labels, by batch, on the CPU; see `TeacherPathWatch`."""

    def __init__(self, teacher: FrozenFoundationModel, reads: Reads) -> None:
        self.teacher, self.reads = teacher, reads
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []  # features, what they were divided by, labels
        self._drawn: set[int] | None = None
        self._seen, self._complete = 0, False

    def items(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and labels of some items after another."""
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
        """Places of those that are kept of this process's share of the validation set."""
        one, _ = self._features(first)
        most = min(MOST_ITEMS // world_size(), MOST_BYTES // (one.numel() * one.element_size()))
        # At random: every second one may be all of one class.
        return set(torch.randperm(items, generator=torch.Generator().manual_seed(0))[:most].tolist())

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tap = self.teacher.read(image, self.reads).tap.float()
        scale = (tap.abs().max() / torch.finfo(torch.half).max).clamp(min=1)  # of a few teachers it would not hold them
        return (tap / scale).half().cpu(), scale.cpu()


class _Tally:
    """What a path says of items, summed where they are."""

    def __init__(self, classes: int, multi_label: bool, device: torch.device) -> None:
        self.multi_label = multi_label
        self._names = torch.arange(classes, device=device)
        sides = 2 if multi_label else 1  # of each class: those that have it, and multi-label those that have not
        self._right, self._total = torch.zeros(2, sides, classes, device=device)
        self._confidence, self._items = torch.zeros(2, 2, device=device)  # labelled, unlabelled
        self._hsics = torch.zeros(3, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """Take the path's answers `[B, classes]` to items with these labels."""
        if target.dim() == 2 and not self.multi_label:  # mixtures count for the larger part
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
        """Take a batch's features for CKA."""
        if len(made.features) >= SMALLEST_BATCH["unbiased"]:
            self._hsics += torch.stack(hsics(made.features, made.student, "unbiased"))

    def _sides(self, labels: Tensor) -> Tensor:
        """To which side of which class items belong, bool `[B, sides, classes]`; without a label to none."""
        if self.multi_label:
            return torch.stack([labels == 1, labels == 0], dim=1)
        return (labels[:, None] == self._names)[:, None]

    def read(self) -> dict[str, float | None]:
        """The numbers of all processes together, None where there is nothing to tell; the device is waited for."""
        parts = (self._right, self._total, self._confidence, self._items, self._hsics)
        sums = torch.cat([part.flatten() for part in parts])
        if world_size() > 1:
            dist.all_reduce(sums)
        sizes = [part.numel() for part in parts]
        right, total, confidence, items, aligned = sums.cpu().double().split(sizes)
        shape = self._right.shape
        right, total = right.view(shape), total.view(shape)
        both = (total > 0).all(dim=0)  # classes of which there is every side
        cross, own_t, own_s = aligned.tolist()
        return {
            "accuracy": float((right / total)[:, both].mean()) if both.any() else None,
            "confidence": float(confidence[0] / items[0]) if items[0] else None,
            "unlabelled_confidence": float(confidence[1] / items[1]) if items[1] else None,
            "cka": cross / (own_t * own_s) ** 0.5 if own_t > 0 and own_s > 0 else None,
        }
