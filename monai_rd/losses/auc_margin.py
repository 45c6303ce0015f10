r"""AUC margin loss: positive images must score higher than negative ones by a margin of 1.

Yuan et al., ICCV 2021, arXiv 2012.03173, with MONAI's `AUCMLoss`. For the scores $s$ of one class (its probability),
the loss is the minimum over $a$ and $b$ and the maximum over $\alpha$ of

$$\overline{(s_+ - a)^2} + \overline{(s_- - b)^2} + 2\alpha\,(1 + \overline{s_-} - \overline{s_+}) - \alpha^2$$

with means over the positive and over the negative images (version "v2" of MONAI, which does not depend on how frequent
the class is). The authors train $a$, $b$ and $\alpha$ along with the network, by an optimizer of their own. Here they
have their best values for the batch, $a = \overline{s_+}$, $b = \overline{s_-}$ and
$\alpha = 1 + b - a$ (never negative, as scores are from 0 to 1), which gives exactly

$$\overline{(1 - s_+ + s_-)^2}$$

over all pairs of a positive and a negative image of the batch. So any optimizer will do and nothing has to be saved,
but a class learns from a batch only if it has images on both sides.

Of two classes the second is the positive one. With several labels an image the loss is the mean over the classes. For
more than two exclusive classes the mean over classes, each against the rest, is ours.
"""

from __future__ import annotations

from torch import Tensor
from torch.func import functional_call

from monai_rd.losses.classification import ClassificationLoss, class_probabilities
from monai_rd.no_label import NO_LABEL

__all__ = ["AUCMarginLoss"]


class AUCMarginLoss(ClassificationLoss):
    """Mean of the AUC margin loss over the classes that have positive and negative images in the batch.

    If no class has both, the loss is 0. Entries without a label (-100) do not count. Mixtures of classes are refused.

    Args:
        multi_label: an image may have any number of the classes.

    Raises:
        ValueError: (when called) targets other than whole classes.

    Example:
        Mean of (1 - s+ + s-)^2 over the two pairs, with the scores 0.5 (positive), 0.5 and 0.119.

        >>> import torch
        >>> from monai_rd.losses import AUCMarginLoss
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
        >>> round(AUCMarginLoss()(logits, torch.tensor([1, 0, 0])).item(), 3)
        0.692
    """

    def __init__(self, multi_label: bool = False) -> None:
        from monai.losses import AUCMLoss  # here, so that a student in use need not wait for MONAI

        super().__init__(multi_label)
        self.plain, self.margin = False, AUCMLoss(version="v2").requires_grad_(False)

    def of_known(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of the entries with a label, for logits and targets as `forward` has checked them."""
        whole = (target == 0) | (target == 1) | (target == NO_LABEL)
        if target.dim() == 2 and not (self.multi_label and whole.all()):
            raise ValueError("the AUC margin loss compares images of one class each, not mixtures of classes")
        scores, classes = class_probabilities(logits, self.multi_label), logits.shape[1]
        losses = []
        for index in range(classes) if self.multi_label or classes > 2 else (1,):  # both of two have the same AUC
            column = target[:, index] if self.multi_label else target
            known = column != NO_LABEL
            score, positive = scores[known, index], column[known] == (1 if self.multi_label else index)
            if 0 < positive.sum() < len(positive):
                losses.append(self._of_class(score, positive))
        return sum(losses, start=logits.sum() * 0) / max(len(losses), 1)

    def _of_class(self, score: Tensor, positive: Tensor) -> Tensor:
        """Return the loss of one class, from scores `[n]` and a mask of the positive images `[n]`."""
        a, b = (score[side].detach().mean() for side in (positive, ~positive))
        best = {"a": a, "b": b, "alpha": 1 + b - a}
        loss: Tensor = functional_call(self.margin, best, (score[:, None], positive[:, None].to(score)))
        return loss
