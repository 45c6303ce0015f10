r"""The loss of LPT for classes of unequal size: Gaussian clouded logits (GCL) in an asymmetric focal loss.

A class of $n_i$ images has the relative rarity
$\delta_i = (\log n_{max} - \log n_i) / (\log n_{max} - \log n_{min})$, which is 0 if all classes have the same size.
With the cosines $c_i$ of features and class weights, the scale $s$, the margin $m$ and $\epsilon_i \sim N(0, 1/9)$
clipped to [-1, 1],

$$v_i = s\,(c_i - \nu\,|\epsilon_i|\,\delta_i - m\,[i = y]), \quad p = \mathrm{softmax}(v)$$
$$L = -(1 - p_y)^{\gamma_+} \log p_y - \sum_{i \ne y} p_i^{\gamma_-} \log p_i$$

The noise is larger for rare classes, which keeps the other classes away from them. The sum has $\log p_i$, as in the
asymmetric loss's form for a single label (where its weight comes from label smoothing), and not $\log(1 - p_i)$, as in
its form for several labels.

Second-hand: the abstract of LPT (arXiv 2210.01033) and descriptions of its loss were read, but not its equations, and
nothing is taken from its code. GCL is Li et al., CVPR 2022; the asymmetric loss is arXiv 2009.14119. $\nu = 0.5$,
$m = 0.1$, $s = 20$ and $\gamma_-$ of 4 and 8 are reported to be LPT's settings, $\gamma_+ = 0$ is the asymmetric loss's
own value, the standard deviation 1/3 of the noise GCL's. Not verified: that LPT's sum is this one, with the weight 1.
The multi-label form is ours: sigmoids in place of the softmax, and $\log(1 - p_i)$, because otherwise nothing would
decrease the $p_i$ of absent findings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AsymmetricCloudedLoss", "rarity"]


def rarity(counts: Tensor) -> Tensor:
    """Relative rarity of each class `[classes]` in [0, 1].

    Args:
        counts: number of images of each class `[classes]`; 0 counts as 1.
    """
    logs = counts.clamp(min=1).double().log()
    spread = logs.max() - logs.min()
    return ((logs.max() - logs) / spread if spread > 0 else torch.zeros_like(logs)).float()


class AsymmetricCloudedLoss(nn.Module):
    """Asymmetric focal loss on Gaussian clouded logits, per image (not reduced over the batch).

    Args:
        counts: number of images of each class `[classes]`.
        scale: s, which the logits are already multiplied by.
        margin: m.
        noise: nu; no noise is added in eval mode.
        gamma_positive: gamma of the image's own class.
        gamma_negative: gamma of the other classes.
        multi_label: an image may have any number of the classes.
    """

    def __init__(
        self,
        counts: Tensor,
        scale: float = 20.0,
        margin: float = 0.1,
        noise: float = 0.5,
        gamma_positive: float = 0.0,
        gamma_negative: float = 4.0,
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        self.rarity, self.multi_label = rarity(counts), multi_label
        self.scale, self.margin, self.noise = scale, margin, noise
        self.gamma_positive, self.gamma_negative = gamma_positive, gamma_negative

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each image `[B]` in float32.

        Args:
            logits: s c, scaled cosines `[B, classes]`.
            target: class indices `[B]`; multi-label 0 or 1 `[B, classes]`.
        """
        with torch.autocast(device_type=logits.device.type, enabled=False):
            logits = logits.float()
            own = target.float() if self.multi_label else F.one_hot(target, logits.shape[1]).float()
            shift = self.margin * own
            if self.training:
                cloud = torch.randn_like(logits).div(3).clamp(-1, 1).abs()
                shift = shift + self.noise * cloud * self.rarity.to(logits.device)
            clouded = logits - self.scale * shift
            log_p = F.logsigmoid(clouded) if self.multi_label else clouded.log_softmax(dim=1)
            log_other = F.logsigmoid(-clouded) if self.multi_label else log_p
            positive = (1 - log_p.exp()) ** self.gamma_positive * log_p
            negative = log_p.exp() ** self.gamma_negative * log_other
            return -(own * positive + (1 - own) * negative).sum(dim=1)
