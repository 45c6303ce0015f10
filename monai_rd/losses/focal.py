r"""Focal loss for multi-label data: entries that are already classified well count for little.

Lin et al., ICCV 2017, arXiv 1708.02002, Eq. 4, with $p_{t}$ the probability of the right answer of an entry (an image
and a class) and $\gamma = 2$:

$$L = -\frac{1}{BC} \sum_{i,c} (1 - p_{t,ic})^\gamma \log p_{t,ic}$$

It is computed by MONAI's `FocalLoss`. With class weights each entry is weighted as in `ClassificationLoss`, in place of
the paper's constant $\alpha_t$.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_rd.losses.classification import ClassificationLoss

__all__ = ["FocalClassificationLoss"]


class FocalClassificationLoss(ClassificationLoss):
    """Focal loss of each class, for multi-label data.

    Args:
        weights: weight of an absent and a present class `[2, classes]`; None weights all alike.

    Example:
        An entry that is right and sure counts for less than with cross entropy.

        >>> import torch
        >>> from monai_rd.losses import ClassificationLoss, FocalClassificationLoss
        >>> logits, target = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 1.0]])
        >>> [round(loss(logits, target).item(), 3) for loss in (ClassificationLoss(True), FocalClassificationLoss())]
        [0.681, 0.351]
    """

    def __init__(self, weights: Tensor | None = None) -> None:
        from monai.losses import FocalLoss  # here, so that a student in use need not wait for MONAI

        super().__init__(True, weights)
        self.plain, self.focal = False, FocalLoss(reduction="none")

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every entry `[B, classes]`; those of -100 are finite."""
        target = target.clamp(min=0).to(logits.dtype)
        losses: Tensor = self.focal(logits, target)
        if self.weights is None:
            return losses
        absent, present = self.weights.to(logits)
        return losses * torch.lerp(absent, present, target)
