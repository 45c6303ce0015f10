"""One pass over the test set: predictions of student and teacher, and the similarity of their layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.data import DataLoader
from torch import Tensor, nn

from monai_rd.errors import count_codes
from monai_rd.inference import infer
from monai_rd.losses import class_probabilities
from monai_rd.networks.features import Reads
from monai_rd.networks.levels import Level, LevelReader
from monai_rd.report.layers import LayerCKA, MinibatchCKA, item_features
from monai_rd.teacher_image import teacher_image

if TYPE_CHECKING:
    from monai_rd.methods import Method
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["TestScores", "answers", "score_test_set"]

AT_ONCE = 128  # images in one forward pass, as the maps of all levels are in memory
CKA_ITEMS = 256  # enough for two decimals; a heat map does not justify running a large teacher on the whole test set
SLICE_ITEMS = 512


@dataclass
class TestScores:
    """The predictions on a test set.

    Attributes:
        probabilities: by row of the table, "student" first, `[N, classes]` float32.
        labels: `[N]`; multi-label: `[N, classes]`.
        indices: positions of the N items in the test list, from 0; items that could not be read are missing.
        unread: error codes of the items that could not be read.
        slices: slice probabilities `[S, classes]` of each of the first 512 items; empty if items have no slices.
        cka: CKA between the layers of student and teacher, from the first 256 items; None without a teacher whose
            layers can be read, or with fewer than 4 items.
    """

    __test__ = False  # not a test class, despite its name

    probabilities: dict[str, np.ndarray]
    labels: np.ndarray
    indices: np.ndarray
    unread: list[str] = field(default_factory=list)
    slices: list[np.ndarray] = field(default_factory=list)
    cka: LayerCKA | None = None


def score_test_set(
    network: Student,
    loader: DataLoader,
    device: torch.device,
    multi_label: bool = False,
    method: Method | None = None,
    teacher: FrozenFoundationModel | None = None,
    layers: bool = True,
) -> TestScores:
    """Run student and teacher once over the test set, at most 128 images at a time.

    There is a row for "student", one for "reprogrammed teacher" (g of phi of F_t) if the method has one, and one for
    "tuned teacher" if the teacher was tuned on the task.

    Args:
        network: the student with its trained weights.
        loader: loader of the test set; items with a `problem` are counted but not scored.
        device: where to run.
        multi_label: whether an image may have any number of classes.
        method: the method with its trained weights.
        teacher: the frozen foundation model.
        layers: whether to measure the CKA of layers and keep slice probabilities.

    Returns:
        The predictions.

    Raises:
        ValueError: no item could be read.
    """
    network.to(device).eval()
    path = method.teacher_path(network) if method is not None and teacher is not None else None
    pass_ = _Pass(network, teacher, None if path is None else path.to(device).eval(), multi_label, layers)
    labels, unread, indices, start = [], [], [], 0
    with torch.inference_mode(), pass_.reader:
        for batch in loader:
            image = batch["image"].as_subclass(torch.Tensor)
            problems = batch.get("problem", [""] * len(image))
            unread += [code for code in problems if code]
            read = torch.tensor([not code for code in problems])
            indices.append(start + read.nonzero()[:, 0])
            start += len(image)
            labels.append(torch.as_tensor(batch["label"]).as_subclass(torch.Tensor).cpu()[read])
            slices = image.shape[1] if image.dim() == 5 else 1
            parts = (one[read].split(max(1, AT_ONCE // slices)) for one in (image, teacher_image(batch)))
            for part, theirs in zip(*parts, strict=True):
                if len(part):
                    pass_.take(part.to(device), theirs.to(device))
    if not pass_.probabilities:
        raise ValueError(f"no test study could be read: {count_codes(unread)}")
    return TestScores(
        {row: torch.cat(found).numpy() for row, found in pass_.probabilities.items()},
        torch.cat(labels).numpy(),
        torch.cat(indices).numpy(),
        unread,
        pass_.slices,
        pass_.cka.compute() if pass_.cka is not None and pass_.seen >= 4 else None,
    )


def answers(network: Student, loader: DataLoader, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Return a student's logits `[N, classes]` on a validation set, and the labels."""
    network.to(device).eval()
    logits, labels = [], []
    with torch.inference_mode():
        for batch in loader:
            logits.append(network(batch["image"].as_subclass(torch.Tensor).to(device)).float().cpu())
            labels.append(torch.as_tensor(batch["label"]).as_subclass(torch.Tensor).cpu())
    return torch.cat(logits).numpy(), torch.cat(labels).numpy()


class _Pass:
    """The networks of one pass, and their predictions so far."""

    def __init__(
        self,
        network: Student,
        teacher: FrozenFoundationModel | None,
        path: nn.Module | None,
        multi_label: bool,
        layers: bool,
    ) -> None:
        self.network, self.teacher, self.path = network, teacher, path
        self.multi_label, self.layers = multi_label, layers
        own: tuple[Level, ...] = network.levels if layers and teacher is not None else ()
        theirs: tuple[Level, ...] = teacher.levels if own and teacher is not None else ()
        self.levels = (own, theirs) if theirs else ((), ())
        self.reader = LevelReader(network.backbone, self.levels[0])
        self.cka = MinibatchCKA() if theirs else None
        self.seen = 0
        self.probabilities: dict[str, list[Tensor]] = {}
        self.slices: list[np.ndarray] = []

    def take(self, image: Tensor, theirs: Tensor) -> None:
        """Run the networks on a part of a batch; `theirs` are the same images as the teacher needs them."""
        if self.seen >= CKA_ITEMS:
            self.reader.close()
        compared = self.cka is not None and self.seen < CKA_ITEMS
        found = infer(self.network, image, self.multi_label)
        self._add("student", found.study)
        if self.layers and found.slices is not None and image.dim() == 5 and self.seen < SLICE_ITEMS:
            self.slices += list(found.slices.cpu().numpy())
        if self.teacher is not None and (compared or self.path is not None or self.teacher.head is not None):
            reads = Reads(
                tap=self.path is not None,
                logits=self.teacher.head is not None,
                levels=self.levels[1] if compared else (),
            )
            said = self.teacher.read(theirs, reads, torch.full((len(theirs),), -1))  # -1: not in the training list
            if self.path is not None:
                self._add("reprogrammed teacher", class_probabilities(self.path(said.tap).float(), self.multi_label))
            if reads.logits:
                self._add("tuned teacher", class_probabilities(said.logits.float(), self.multi_label))
            if compared and self.cka is not None:
                sides = (self.levels[0], self.reader.take()), (self.levels[1], said.maps)
                self.cka.update(*(_by_name(levels, maps, len(image)) for levels, maps in sides))
        self.seen += len(image)

    def _add(self, row: str, probabilities: Tensor) -> None:
        self.probabilities.setdefault(row, []).append(probabilities.cpu())


def _by_name(levels: tuple[Level, ...], maps: tuple[Tensor, ...], items: int) -> dict[str, Tensor]:
    return {level.module: item_features(one, items) for level, one in zip(levels, maps, strict=True)}
