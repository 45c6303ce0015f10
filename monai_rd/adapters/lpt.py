"""Long-tailed prompt tuning (Dong et al., ICLR 2023, arXiv 2210.01033): prompts for all images and for kinds of them.

Every block has shared prompts, as VPT deep. The last six also have a pool of groups of prompts: an image is passed
through with the shared prompts alone, the summary of that pass (class token, or mean where there is none) is compared
by cosine with a key of every group, and in a second pass the average of the two best groups' prompts stands beside the
shared ones. Phase 1 trains shared prompts and head, phase 2 pool, keys and head. Of SAM's encoder the grid must be one
window.

Second-hand or ours: the loss (see `agcl`); phase 1, whose code was not released, uses it too; the authors draw a second
batch with equal shares of the classes, here the images of the one batch are weighted by what such a draw gives them on
average; multi-label images are all weighted 1.
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
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["LPT", "CosineLinear", "GroupedTransformer"]

SCALE = 20.0


class CosineLinear(nn.Linear):
    """A linear layer without bias on directions: `SCALE` times the cosine of features and class weights."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels]` to `[B, num_classes]`."""
        return SCALE * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


@dataclass
class _Run:
    """What the blocks share in one pass.

    Attributes:
        groups: the chosen groups `[B, K]`; None for the pass that only the shared prompts take part in.
        tokens: what the last block gave.
    """

    groups: Tensor | None = None
    tokens: Tensor | None = None


class GroupedBlock(nn.Module):
    """A block whose tokens see its shared prompts and those of the chosen groups; it gives its tokens alone.

    Args:
        block: of the transformer.
        shared: `[N, D]`.
        pool: `[groups, N, D]`, or None.
        run: what the blocks share.
    """

    def __init__(self, block: Any, shared: nn.Parameter, pool: nn.Parameter | None, run: _Run) -> None:
        super().__init__()
        self.block, self.shared, self.pool, self._run = block, shared, pool, run

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, N, D]` or a grid `[B, h, w, D]` to the same."""
        prompts = self.shared.expand(len(tokens), -1, -1)
        if self.pool is not None and self._run.groups is not None:
            prompts = torch.cat([prompts, self.pool[self._run.groups].mean(dim=1)], dim=1)
        tokens, _ = with_prompts(self.block, tokens, prompts)
        self._run.tokens = tokens
        return tokens


class GroupedTransformer(nn.Module):
    """Prepared images to the teacher's map, in two passes.

    Args:
        backbone: with `GroupedBlock`s.
        transformer: in it.
        keys: `[groups, D]`.
        chosen: groups for an image.
        run: what the blocks share.

    Attributes:
        uses_groups: False for phase 1: one pass with the shared prompts.
        key_similarity: mean cosine of the last batch with the keys that it chose.
    """

    def __init__(self, backbone: nn.Module, transformer: Any, keys: nn.Parameter, chosen: int, run: _Run) -> None:
        super().__init__()
        self.backbone, self.keys, self.chosen = backbone, keys, chosen
        self._transformer, self._run = [transformer], run  # in a list: it is registered in the backbone already
        self.uses_groups = True
        self.key_similarity: Tensor | None = None
        self.stages = tuple(f"backbone.{path}" for path in getattr(backbone, "stages", ()))
        self.prefix = getattr(backbone, "prefix", 0)

    def forward(self, image: Tensor) -> Tensor:
        """The backbone's features."""
        try:
            if self.uses_groups:
                with torch.no_grad():
                    self.backbone(image)
                    assert self._run.tokens is not None
                    query = summary(self._transformer[0], self._run.tokens)
                cosines = F.normalize(query.float(), dim=1) @ F.normalize(self.keys.float(), dim=1).T
                best = cosines.topk(self.chosen, dim=1)
                self.key_similarity, self._run.groups = best.values.mean(), best.indices
            return self.backbone(image)
        finally:
            self._run.groups = self._run.tokens = None


def fit(
    teacher: FrozenFoundationModel, tokens: int = 10, groups: int = 20, chosen: int = 2, grouped_blocks: int = 6
) -> Fitted:
    """Add shared prompts, pool and keys: 92,160 + 921,600 + 15,360 parameters of a ViT-B.

    Args:
        teacher: with a plain ViT, or SAM's encoder on a grid of one window.
        tokens: N, of a block and of a group in a block.
        groups: in the pool.
        chosen: groups for an image.
        grouped_blocks: the last so many blocks have groups.

    Raises:
        ValueError: another teacher, or more chosen than there are groups.
    """
    if not 1 <= chosen <= groups:
        raise ValueError(f"chosen must be from 1 to {groups}, the number of groups, not {chosen}")
    backbone, transformer = open_transformer(teacher, "lpt", one_window=True)
    run, first = _Run(), len(transformer.blocks) - grouped_blocks
    for number, block in enumerate(transformer.blocks):
        pool = new_tokens((groups, tokens), transformer) if number >= first else None
        transformer.blocks[number] = GroupedBlock(block, new_tokens((tokens,), transformer), pool, run)
    adapted = GroupedTransformer(backbone, transformer, new_tokens((groups,), transformer), chosen, run)
    return Fitted(adapted, teacher.channels, teacher.kind)


class _GroupLoss(nn.Module):
    """The loss of phase 2.

    Args:
        network: whose similarity of keys and queries it raises, with weight 0.5.
        loss: of each image.
        weights: of the images of a class when classes are drawn equally often; None to draw no class more often.

    Attributes:
        instance_weight: weight of the plain mean over the batch, beside that with `weights`.
    """

    def __init__(self, network: GroupedTransformer, loss: AsymmetricCloudedLoss, weights: Tensor | None) -> None:
        super().__init__()
        self._network, self.loss, self.weights = [network], loss, weights
        self.instance_weight = 0.5

    def start_epoch(self, progress: float) -> None:
        self.instance_weight = 0.5 * (1 - progress)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = self.loss(logits, target)
        similarity = self._network[0].key_similarity
        assert similarity is not None
        balanced = losses if self.weights is None else losses * self.weights.to(losses.device)[target]
        return balanced.mean() + self.instance_weight * losses.mean() - 0.5 * similarity


class _MeanLoss(nn.Module):
    """The mean of a loss over the batch."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.loss(logits, target).mean()


def phases(network: AdaptedTeacher, labels: Tensor, multi_label: bool) -> list[Phase]:
    """Phase 1 trains shared prompts and head, phase 2 pool, keys and head."""
    grouped = network.backbone
    assert isinstance(grouped, GroupedTransformer)
    head = list(network.head.parameters())
    named = [(name, p) for name, p in grouped.named_parameters() if p.requires_grad]
    shared = [p for name, p in named if name.endswith(".shared")]
    others = [p for name, p in named if not name.endswith(".shared")]
    classes = network.num_classes
    counts = labels.sum(dim=0) if multi_label else torch.bincount(labels, minlength=classes)
    loss = AsymmetricCloudedLoss(counts, SCALE, multi_label=multi_label)
    weights = None if multi_label else len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1).float())
    second = _GroupLoss(grouped, loss, weights)
    return [
        Phase([*shared, *head], _MeanLoss(loss), lambda: setattr(grouped, "uses_groups", False)),
        Phase([*others, *head], second, lambda: setattr(grouped, "uses_groups", True), second.start_epoch),
    ]


LPT = Adapter("lpt", fit, Recipe("sgd", 0.02, batch=256, weight_decay=0.01), head=CosineLinear, phases=phases)
