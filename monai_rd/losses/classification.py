r"""The supervised loss for single-label and multi-label data, and the corresponding probabilities.

Single-label (one class per image): cross entropy with softmax. Multi-label (any number of classes per image, such as
the findings of a radiograph): binary cross entropy with sigmoid, averaged over classes and batch. Entries without a
label (`NO_LABEL`, -100) are excluded from the mean.

For classes of unequal frequency $\pi_c$ (shares of the training images), there are two forms. With class weights,

$$L = -\frac1B \sum_i w_{y_i} \log\mathrm{softmax}(z_i)_{y_i},\qquad w_c = \frac{1}{C\,\pi_c}$$

whose mean over the training images is 1, so the sum is divided by the number of images, not by the sum of their
weights: that would count a rare class for less in a small batch. With logit adjustment (Menon et al., ICLR 2021, arXiv
2007.07314, Eq. 10, with $\tau = 1$),

$$L = -\frac1B \sum_i \log\mathrm{softmax}(z_i + \log\pi)_{y_i}$$

in training only: the plain logits $z$ are those of a world where all classes are equally frequent. The multi-label
forms are ours: each class is weighted or adjusted as a problem of two classes, present and absent, with
$\log(\pi_c / (1 - \pi_c))$ in place of $\log\pi_c$.
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
        weights: weight of an image of each class `[classes]`; multi-label: of an absent and a present class `[2,
            classes]`. None weights all alike.
        adjustment: is added to the logits `[classes]`; None adds nothing.

    Attributes:
        plain: nothing is done for classes of unequal frequency, here or (set by `build_criterion`) in the choice of the
            images.

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

    weights: Tensor | None
    adjustment: Tensor | None

    def __init__(
        self, multi_label: bool = False, weights: Tensor | None = None, adjustment: Tensor | None = None
    ) -> None:
        super().__init__()
        self.multi_label, self.plain = multi_label, weights is None and adjustment is None
        self.register_buffer("weights", weights)
        self.register_buffer("adjustment", adjustment)

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
            return self.of_known(logits, target)

    def of_known(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of the entries with a label, for logits and targets as `forward` has checked them."""
        known = target != NO_LABEL if self.multi_label else ~unlabelled_items(target)
        # The loss of -100 is finite, so its gradient is 0 after `where`.
        losses = self.losses(logits if self.adjustment is None else logits + self.adjustment.to(logits), target)
        return losses.where(known, 0).sum() / known.sum().clamp(min=1)

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every item `[B]`, multi-label of every entry `[B, classes]`; those of -100 are finite."""
        weights = None if self.weights is None else self.weights.to(logits)
        if self.multi_label:
            target = target.to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            return losses if weights is None else losses * torch.lerp(weights[0], weights[1], target)
        if target.dim() == 2:
            return F.cross_entropy(logits, target.to(logits.dtype), weights, reduction="none")
        return F.cross_entropy(logits, target, weights, ignore_index=NO_LABEL, reduction="none")


def _are_shares(target: Tensor) -> bool:
    """Whether the rows of labelled items sum to 1; not checked on a GPU, as it would synchronise in every step."""
    if target.device.type != "cpu":
        return True
    sums = target.sum(dim=1)
    return bool(((sums - 1).abs() < 1e-3).logical_or(unlabelled_items(target)).all())


def class_probabilities(logits: Tensor, multi_label: bool = False) -> Tensor:
    """Return the probability of each class `[B, classes]`: softmax of the logits, or sigmoid for multi-label data."""
    return logits.sigmoid() if multi_label else logits.softmax(dim=1)
