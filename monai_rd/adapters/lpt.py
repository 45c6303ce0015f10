r"""Long-tailed prompt tuning (Dong et al., ICLR 2023, arXiv 2210.01033): shared prompts and groups of prompts.

Every block has shared prompts, as in VPT deep. The last six blocks also have a pool of prompt groups. In a first pass
an image is encoded with the shared prompts alone; the summary $q$ of that pass (class token, or the mean token if there
is none) is compared with a key of every group by cosine similarity. In a second pass the average of the two best
groups' prompts is used in addition to the shared ones. Phase 1 trains shared prompts and head, phase 2 pool, keys and
head. The grid of SAM's encoder must be one window.

Both phases sample images in two ways: class-balanced (bal) and instance-balanced, as in the data set (ins). With $L$
the loss in `monai_rd.adapters.agcl`, $K$ the keys chosen for an image, and progress $e / E$ through the phase,

$$\overline{L_{\gamma_- = 4}}^\mathrm{bal} + 0.5\,(1 - e / E)\,\overline{L_{\gamma_- = 8}}^\mathrm{ins}
- \overline{k}^\mathrm{bal} - \overline{k}^\mathrm{ins},\qquad k = 0.5 \sum_{i \in K} \cos(q, k_i)$$

where phase 1 has no $k$. Trained prompts have a dropout of 0.1, the learning rate a warm-up of one epoch.

Sources: that phase 1 has this loss and both ways of sampling was stated by the authors (issue 1 of their repository).
The rest is second-hand, as the paper's text could not be read, and nothing is taken from the authors' code. Not
verified: that the value 8 belongs to instance-balanced sampling and $\gamma_+$ is 0 for both, that the weight of ins
does not apply to $k$, that the dropout is on the prompts, and how prompts and keys are initialised (here as VPT's
prompts). Ours: the authors sample a second, class-balanced batch; here the images of the one batch are weighted by
their expected frequency in such a batch; multi-label images all have the weight 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.adapters.agcl import AsymmetricCloudedLoss
from monai_rd.adapters.base import AdaptedTeacher, Adapter, Fitted, Phase, Recipe
from monai_rd.adapters.vit import new_tokens, open_transformer, summary, with_prompts

if TYPE_CHECKING:
    from monai_rd.losses import ClassificationLoss
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["LPT", "CosineLinear", "GroupedTransformer"]

SCALE = 20.0
_DROPOUT = 0.1
_KEYS = 0.5  # weight of the sum of an image's cosine similarities


class CosineLinear(nn.Linear):
    """Cosine classifier: `SCALE` times the cosine similarity of features and class weights, without bias."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `[B, channels]` to scaled cosines `[B, num_classes]`."""
        return SCALE * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


@dataclass
class _Run:
    """State that the blocks share in one pass.

    Attributes:
        groups: indices of the chosen groups `[B, K]`; None for a pass with the shared prompts only.
        tokens: output of the block that ran last.
    """

    groups: Tensor | None = None
    tokens: Tensor | None = None


class Prompts(nn.Module):
    """Trainable prompts, with dropout in training.

    Args:
        tokens: the prompt tokens `[..., D]`.
    """

    def __init__(self, tokens: nn.Parameter) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, chosen: Tensor) -> Tensor:
        """Apply dropout to the prompts that were selected from `tokens`."""
        return F.dropout(chosen, _DROPOUT, self.training)


class GroupedBlock(nn.Module):
    """A block whose tokens attend to its shared prompts and those of the chosen groups; it returns the tokens only.

    Args:
        block: a block of the transformer.
        shared: shared prompts `[N, D]`.
        pool: prompts of all groups `[groups, N, D]`, or None.
        run: the state that the blocks share.
    """

    def __init__(self, block: Any, shared: Prompts, pool: Prompts | None, run: _Run) -> None:
        super().__init__()
        self.block, self.shared, self.pool, self._run = block, shared, pool, run

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `[B, N, D]` or a grid `[B, h, w, D]` to the same shape."""
        prompts = self.shared(self.shared.tokens.expand(len(tokens), -1, -1))
        if self.pool is not None and self._run.groups is not None:
            grouped = self.pool(self.pool.tokens[self._run.groups].mean(dim=1))
            prompts = torch.cat([prompts, grouped], dim=1)
        tokens, _ = with_prompts(self.block, tokens, prompts)
        self._run.tokens = tokens
        return tokens


class GroupedTransformer(nn.Module):
    """A backbone with grouped prompts: from preprocessed images to the teacher's map, in two passes.

    Args:
        backbone: the backbone, whose blocks are `GroupedBlock`s.
        transformer: the transformer in it.
        keys: keys of the groups `[groups, D]`.
        chosen: number of groups chosen per image.
        run: the state that the blocks share.

    Attributes:
        uses_groups: False in phase 1: one pass with the shared prompts.
        key_similarity: for each image of the last batch the sum of its cosine similarities with its chosen keys.
    """

    def __init__(self, backbone: nn.Module, transformer: Any, keys: nn.Parameter, chosen: int, run: _Run) -> None:
        super().__init__()
        self.backbone, self.keys, self.chosen = backbone, keys, chosen
        self._transformer, self._run = [transformer], run  # in a list, as it is already registered in the backbone
        self.uses_groups = True
        self.key_similarity: Tensor | None = None
        self.stages = tuple(f"backbone.{path}" for path in getattr(backbone, "stages", ()))
        self.prefix = getattr(backbone, "prefix", 0)

    def forward(self, image: Tensor) -> Tensor:
        """Return the backbone's features of preprocessed images."""
        try:
            if self.uses_groups:
                with torch.no_grad():
                    self.backbone(image)
                    assert self._run.tokens is not None
                    query = summary(self._transformer[0], self._run.tokens)
                cosines = F.normalize(query.float(), dim=1) @ F.normalize(self.keys.float(), dim=1).T
                best = cosines.topk(self.chosen, dim=1)
                self.key_similarity, self._run.groups = best.values.sum(dim=1), best.indices
            return self.backbone(image)
        finally:
            self._run.groups = self._run.tokens = None


def fit(
    teacher: FrozenFoundationModel, tokens: int = 10, groups: int = 20, chosen: int = 2, grouped_blocks: int = 6
) -> Fitted:
    """Add shared prompts, pool and keys: 92,160 + 921,600 + 15,360 trained parameters for a ViT-B.

    Args:
        teacher: a teacher with a plain ViT, or with SAM's encoder on a grid of one window.
        tokens: N, the number of shared prompts per block, and of prompts per group and block.
        groups: number of groups in the pool.
        chosen: number of groups chosen per image.
        grouped_blocks: number of blocks, counted from the last, that have groups.

    Raises:
        ValueError: the teacher has no such network, or `chosen` is not from 1 to `groups`.
    """
    if not 1 <= chosen <= groups:
        raise ValueError(f"chosen must be from 1 to {groups}, the number of groups, not {chosen}")
    backbone, transformer = open_transformer(teacher, "lpt", one_window=True)
    run, first = _Run(), len(transformer.blocks) - grouped_blocks
    for number, block in enumerate(transformer.blocks):
        pool = Prompts(new_tokens((groups, tokens), transformer)) if number >= first else None
        transformer.blocks[number] = GroupedBlock(block, Prompts(new_tokens((tokens,), transformer)), pool, run)
    adapted = GroupedTransformer(backbone, transformer, new_tokens((groups,), transformer), chosen, run)
    return Fitted(adapted, teacher.channels, teacher.kind)


class _DualLoss(nn.Module):
    """The loss of one phase.

    Args:
        balanced: loss per image for class-balanced sampling.
        plain: loss per image for instance-balanced sampling.
        weights: weight of an image of each class under class-balanced sampling `[classes]`; None for 1.
        network: the network whose key similarity is increased; None in phase 1.

    Attributes:
        plain_weight: weight of `plain` in this epoch.
    """

    def __init__(
        self,
        balanced: AsymmetricCloudedLoss,
        plain: AsymmetricCloudedLoss,
        weights: Tensor | None,
        network: GroupedTransformer | None = None,
    ) -> None:
        super().__init__()
        self._network, self.weights = [network], weights  # in a list, so that it is not a submodule of the loss
        self.balanced, self.plain = balanced, plain
        self.plain_weight = 0.5

    def start_epoch(self, progress: float) -> None:
        self.plain_weight = 0.5 * (1 - progress)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        balanced = self.balanced(logits, target)
        drawn = torch.ones_like(balanced) if self.weights is None else self.weights.to(balanced.device)[target]
        loss = (drawn * balanced).mean() + self.plain_weight * self.plain(logits, target).mean()
        network = self._network[0]
        if network is None:
            return loss
        assert network.key_similarity is not None
        similarity = network.key_similarity.reshape(len(target), -1).mean(dim=1)  # over the slices of a bag
        return loss - _KEYS * ((drawn + 1) * similarity).mean()


def phases(network: AdaptedTeacher, labels: Tensor, criterion: ClassificationLoss) -> list[Phase]:
    """Return the two phases: phase 1 trains shared prompts and head, phase 2 pool, keys and head.

    Raises:
        ValueError: something else is done for classes of unequal frequency, which LPT's own loss is for.
    """
    if not criterion.plain:
        raise ValueError(
            "the adapter 'lpt' has a loss of its own for classes of unequal frequency: leave --criterion and "
            "--class_weights out, or take another --adapter"
        )
    multi_label = criterion.multi_label
    grouped = network.backbone
    assert isinstance(grouped, GroupedTransformer)
    head = list(network.head.parameters())
    named = [(name, p) for name, p in grouped.named_parameters() if p.requires_grad]
    shared = [p for name, p in named if name.endswith(".shared.tokens")]
    others = [p for name, p in named if not name.endswith(".shared.tokens")]
    classes = network.num_classes
    counts = labels.sum(dim=0) if multi_label else torch.bincount(labels, minlength=classes)
    weights = None if multi_label else len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1).float())
    balanced, plain = (
        AsymmetricCloudedLoss(counts, SCALE, gamma_negative=gamma, multi_label=multi_label) for gamma in (4.0, 8.0)
    )
    first, second = (_DualLoss(balanced, plain, weights, one) for one in (None, grouped))
    return [
        Phase([*shared, *head], first, lambda: setattr(grouped, "uses_groups", False), first.start_epoch),
        Phase([*others, *head], second, lambda: setattr(grouped, "uses_groups", True), second.start_epoch),
    ]


LPT = Adapter(
    "lpt", fit, Recipe("sgd", 0.02, batch=256, weight_decay=0.01, warm_up=1), head=CosineLinear, phases=phases
)
