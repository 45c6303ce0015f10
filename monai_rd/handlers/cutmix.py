"""CutMix of training batches: student and teacher path learn from images that have a part of another one in them.

Yun et al., arXiv 1905.04899. A student that has seen its unlabelled images often enough answers them as the teacher
does and new ones not; of mixed ones there are so many that none is seen twice.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.methods.base import Method, unwrapped
from monai_rd.no_label import NO_LABEL, unlabelled_items
from monai_rd.processes import derived_seed, rank
from monai_rd.teacher_features import TEACHER_FEATURES, stored_features
from monai_rd.teacher_image import TEACHER_IMAGE

__all__ = ["CutMixHandler"]

_GRID = 4  # the box lies on quarters of the image, so that it is a box of the maps that phi sees, too
_SMALLEST = 1e-6  # probability that a logit stands for at least


class _Box(NamedTuple):
    """A box of a batch's images: its share of their area, first and last quarter of its rows and of its columns."""

    share: float
    rows: tuple[int, int]
    columns: tuple[int, int]


class CutMixHandler:
    """Puts a box of another image of the batch into each image, before the step.

    Labelled images are mixed with labelled ones, unlabelled with unlabelled. The box is the same for the whole batch;
    its share of the image's area is drawn evenly from 0 to 1 and rounded to whole quarters of the sides. What becomes
    of a batch's keys:

    - `image`, `teacher_image`: the box is taken from the partner, in every slice.
    - `label`: the shares of the classes, float `[B, classes]`; multi-label the mean by area. Unlabelled items stay so.
    - `teacher_features`: of maps the box is taken from the partner's, so that they are those of the mixed image but for
      what the teacher saw across its edge; vectors are averaged by area, logits as the probabilities that they stand
      for.

    What is drawn follows from the seed and the number of the step, so a resumed training goes on with the same boxes.

    Args:
        method: must not need to know single items again.
        num_classes: classes of the labels.
        multi_label: an image may have any number of them.
        seed: of the run.

    Raises:
        ValueError: a method that needs to know single items again.
    """

    def __init__(self, method: nn.Module, num_classes: int, multi_label: bool = False, seed: int = 0) -> None:
        if not cast(Method, unwrapped(method)).takes_mixed:
            raise ValueError("the method compares single images, of which cutmix makes mixtures: leave --cutmix false")
        self.num_classes, self.multi_label, self.seed = num_classes, multi_label, seed

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._mix)

    def _mix(self, engine: Engine) -> None:
        batch = dict(engine.state.batch)
        drawn = torch.Generator().manual_seed(derived_seed(self.seed, engine.state.iteration, rank()))
        label = torch.as_tensor(batch[CommonKeys.LABEL]).as_subclass(Tensor)
        partner = _partners(unlabelled_items(label).cpu(), drawn)
        box = _box(drawn)
        for key in (CommonKeys.IMAGE, TEACHER_IMAGE):
            if key in batch:
                batch[key] = _pasted(batch[key].as_subclass(Tensor), partner, box)
        batch[CommonKeys.LABEL] = self._mixed_label(label, partner, box.share)
        if (parts := stored_features(batch)) is not None:
            batch[TEACHER_FEATURES] = {
                name: self._mixed_part(name, part.as_subclass(Tensor), partner, box) for name, part in parts.items()
            }
        engine.state.batch = batch

    def _mixed_label(self, label: Tensor, partner: Tensor, share: float) -> Tensor:
        shares, partner = label.float(), partner.to(label.device)
        if not self.multi_label:
            known = ~unlabelled_items(label)
            shares = F.one_hot(label.where(known, 0).long(), self.num_classes).float().where(known[:, None], NO_LABEL)
        # A class of which nothing is known in one of the two has no label in their mixture.
        unknown = (shares == NO_LABEL) | (shares[partner] == NO_LABEL)
        return torch.lerp(shares, shares[partner], share).where(~unknown, NO_LABEL)

    def _mixed_part(self, name: str, part: Tensor, partner: Tensor, box: _Box) -> Tensor:
        if part.dim() >= 4:
            return _pasted(part, partner, box)
        part, other = part.float(), part[partner.to(part.device)].float()
        if name != "logits":
            return torch.lerp(part, other, box.share)
        if self.multi_label:
            return torch.logit(torch.lerp(part.sigmoid(), other.sigmoid(), box.share), eps=_SMALLEST)
        return torch.lerp(part.softmax(dim=1), other.softmax(dim=1), box.share).clamp(min=_SMALLEST).log()


def _partners(unlabelled: Tensor, drawn: torch.Generator) -> Tensor:
    """For each item of a batch another one of its kind, or itself."""
    partner = torch.arange(len(unlabelled))
    for kind in (~unlabelled, unlabelled):
        own = kind.nonzero()[:, 0]
        partner[own] = own[torch.randperm(len(own), generator=drawn)]
    return partner


def _box(drawn: torch.Generator) -> _Box:
    wanted, top, left = torch.rand(3, generator=drawn).tolist()
    side = min(max(round(math.sqrt(wanted) * _GRID), 1), _GRID - 1)
    first_row, first_column = (int(one * (_GRID - side + 1)) for one in (top, left))
    return _Box(side**2 / _GRID**2, (first_row, first_row + side), (first_column, first_column + side))


def _pasted(maps: Tensor, partner: Tensor, box: _Box) -> Tensor:
    """Images or maps `[B, ..., H, W]` with the box of their partners'."""
    (top, bottom), (left, right) = (
        [round(quarter * side / _GRID) for quarter in quarters]
        for quarters, side in zip((box.rows, box.columns), maps.shape[-2:], strict=True)
    )
    mixed = maps.clone()
    mixed[..., top:bottom, left:right] = maps[partner.to(maps.device)][..., top:bottom, left:right]
    return mixed
