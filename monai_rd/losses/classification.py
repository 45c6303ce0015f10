r"""The supervised loss for single-label and multi-label data, and the corresponding probabilities.

Single-label (one class per image): cross entropy with softmax. Multi-label (any number of classes per image, such as
the findings of a radiograph): binary cross entropy with sigmoid, averaged over classes and batch. Entries without a
label (`NO_LABEL`, -100) are excluded from the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.no_label import NO_LABEL, unlabelled_items

__all__ = ["ClassificationLoss", "class_probabilities"]


class ClassificationLoss(nn.Module):
    """Cross entropy, or for multi-label data binary cross entropy.

    Args:
        multi_label: an image may have any number of the classes.

    Raises:
        ValueError: (when called) the targets are not of this kind.

    Example:
        The second image has no label (-100) and does not count.

        >>> import torch
        >>> from monai_rd.losses import ClassificationLoss
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
        >>> round(ClassificationLoss()(logits, torch.tensor([0, -100])).item(), 3)
        0.127
    """

    def __init__(self, multi_label: bool = False) -> None:
        super().__init__()
        self.multi_label = multi_label

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss in float32.

        Args:
            logits: `[B, classes]`.
            target: class indices `[B]`, or shares of the classes `[B, classes]`; multi-label values from 0 to 1,
                `[B, classes]`. -100 means no label; if nothing has a label, the loss is 0.
        """
        shapes = (logits.shape,) if self.multi_label else (logits.shape[:1], logits.shape)
        if target.shape not in shapes or not (self.multi_label or target.dim() == 1 or _are_shares(target)):
            raise ValueError(
                f"{'multi-label' if self.multi_label else 'single-label'} targets do not fit: logits "
                f"{list(logits.shape)}, targets {list(target.shape)}"
            )
        with torch.autocast(device_type=logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            known = target != NO_LABEL
            if self.multi_label:
                losses = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
                losses = losses.where(known, 0)  # the loss of -100 is finite, so its gradient here is 0
            elif target.dim() == 2:
                known = ~unlabelled_items(target)
                losses = F.cross_entropy(logits, target.to(logits.dtype), reduction="none").where(known, 0)
            else:
                losses = F.cross_entropy(logits, target, ignore_index=NO_LABEL, reduction="none")
            return losses.sum() / known.sum().clamp(min=1)


def _are_shares(target: Tensor) -> bool:
    """Whether the rows of labelled items sum to 1; not checked on a GPU, as it would synchronise in every step."""
    if target.device.type != "cpu":
        return True
    sums = target.sum(dim=1)
    return bool(((sums - 1).abs() < 1e-3).logical_or(unlabelled_items(target)).all())


def class_probabilities(logits: Tensor, multi_label: bool = False) -> Tensor:
    """Return the probability of each class `[B, classes]`: softmax of the logits, or sigmoid for multi-label data."""
    return logits.sigmoid() if multi_label else logits.softmax(dim=1)
