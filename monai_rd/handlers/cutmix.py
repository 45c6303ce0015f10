"""CutMix for training batches: student and teacher path are trained on images that contain a box of another image.

Yun et al., arXiv 1905.04899. A student that has seen its unlabelled images often enough agrees with the teacher on them
but not on new images; with mixed images it practically never sees the same one twice.
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

_GRID = 4  # the box edges lie on quarters of the image, so that they are cell edges of the maps that phi sees
_SMALLEST = 1e-6  # smallest probability that a mixed logit represents


class _Box(NamedTuple):
    """A box in the images of a batch: share of their area, and start and end of rows and columns in quarters."""

    share: float
    rows: tuple[int, int]
    columns: tuple[int, int]


class CutMixHandler:
    """CutMix: replaces a box in each image by the same box of another image of the batch, before the step.

    Labelled images are mixed with labelled ones, unlabelled with unlabelled. The box is the same for the whole batch;
    its share of the image area is drawn uniformly from 0 to 1, and its sides are rounded to quarters of the image. The
    batch's keys change as follows:

    - `image`, `teacher_image`: the box is copied from the partner image, in every slice.
    - `label`: shares of the classes, float `[B, classes]`; multi-label labels are averaged by area. Unlabelled items
      stay unlabelled.
    - `teacher_features`: in maps the box is copied from the partner's map, which approximates the map of the mixed
      image except near the box edges; vectors are averaged by area, logits are averaged as probabilities.

    The random draws depend only on the seed and the step number, so a resumed training continues with the same boxes.

    Args:
        method: the distillation method; it must accept mixed items (`Method.takes_mixed`).
        num_classes: number of classes of the labels.
        multi_label: an image may have any number of the classes.
        seed: seed of the run.

    Raises:
        ValueError: the method does not accept mixed items.

    Example:
        A white image labelled 0 and a black one labelled 1 are mixed with each other.

        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai_rd.handlers import CutMixHandler
        >>> from monai_rd.methods import build_method
        >>> from monai_rd.networks import Student
        >>> trainer = Engine(lambda engine, batch: batch)
        >>> method = build_method("ce", Student("resnet18", num_classes=2), None, [0, 1])
        >>> CutMixHandler(method, num_classes=2, seed=3).attach(trainer)
        >>> image = torch.stack([torch.ones(3, 64, 64), torch.zeros(3, 64, 64)])
        >>> mixed = trainer.run([{"image": image, "label": torch.tensor([0, 1])}]).output
        >>> mixed["label"]
        tensor([[0.4375, 0.5625],
                [0.5625, 0.4375]])
        >>> mixed["image"].mean(dim=(1, 2, 3))
        tensor([0.4375, 0.5625])
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
        # A class without a label in one of the two images has no label in their mixture.
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
    """Draw for each item of a batch a partner `[B]`: a labelled or unlabelled item like itself, possibly itself."""
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
    """Return images or maps `[B, ..., H, W]` with the box copied from their partners."""
    (top, bottom), (left, right) = (
        [round(quarter * side / _GRID) for quarter in quarters]
        for quarters, side in zip((box.rows, box.columns), maps.shape[-2:], strict=True)
    )
    mixed = maps.clone()
    mixed[..., top:bottom, left:right] = maps[partner.to(maps.device)][..., top:bottom, left:right]
    return mixed
