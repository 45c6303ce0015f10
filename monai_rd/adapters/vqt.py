"""Visual query tuning (Tu et al., CVPR 2023, arXiv 2212.03220): trainable queries read every block of a frozen ViT.

Block l gets T query tokens. They look at the image's tokens, which do not look at them, pass the block's MLP, and are
collected, never fed on. The features are the collected outputs of every block (its T tokens one after another, divided
by their length) and the frozen network's own class token likewise: a vector of D (1 + 12 T). The image's tokens are
those of the frozen teacher, so nothing is propagated back through the blocks.

What is laid over the paper here: SAM's encoder has no class token, and its mean token takes its place; its grid must be
one window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.adapters.base import Adapter, Fitted, Recipe
from monai_rd.adapters.vit import ask, new_tokens, open_transformer, summary

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["VQT", "QueriedBlock", "QueriedTransformer", "Queries"]


class Queries(nn.Module):
    """Trainable query tokens of one block.

    Args:
        tokens: `[T, D]`.
        dropout: share of their values.
    """

    def __init__(self, tokens: nn.Parameter, dropout: float) -> None:
        super().__init__()
        self.tokens, self.dropout = tokens, nn.Dropout(dropout)

    def forward(self, batch: int) -> Tensor:
        """`[batch, T, D]`."""
        return self.dropout(self.tokens.expand(batch, -1, -1))


class QueriedBlock(nn.Module):
    """A block that does what it did, and keeps what queries read in it and what it gave until they are taken.

    Args:
        block: of the transformer.
        queries: its own.
    """

    def __init__(self, block: Any, queries: Queries) -> None:
        super().__init__()
        self.block, self.queries = block, queries
        self._kept: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, N, D]` or a grid `[B, h, w, D]` to the same."""
        answers = ask(self.block, tokens, self.queries(len(tokens)).to(tokens.dtype))
        after = self.block(tokens)
        self._kept = (answers, after)
        return after

    def take(self) -> tuple[Tensor, Tensor]:
        """The answers `[B, T, D]` and the tokens of the last run, which are forgotten here."""
        assert self._kept is not None
        kept, self._kept = self._kept, None
        return kept


class QueriedTransformer(nn.Module):
    """Prepared images to the vector of all answers and the class token.

    Args:
        backbone: with `QueriedBlock`s.
        transformer: in it.
    """

    def __init__(self, backbone: nn.Module, transformer: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self._transformer = [transformer]  # in a list: it is registered in the backbone already
        self.stages = tuple(f"backbone.{path}" for path in getattr(backbone, "stages", ()))
        self.prefix = getattr(backbone, "prefix", 0)

    def forward(self, image: Tensor) -> Tensor:
        """`[B, D (1 + 12 T)]`."""
        self.backbone(image)
        kept = [block.take() for block in self._transformer[0].blocks]
        parts = [summary(self._transformer[0], kept[-1][1]), *(answers.flatten(1) for answers, _ in kept)]
        return torch.cat([F.normalize(part.float(), dim=1) for part in parts], dim=1)


def fit(teacher: FrozenFoundationModel, tokens: int = 1, dropout: float = 0.1) -> Fitted:
    """Add queries to every block: 12 T D parameters, 9,216 of a ViT-B, whose features become a vector of 9,984.

    Args:
        teacher: with a plain ViT, or SAM's encoder on a grid of one window.
        tokens: T.
        dropout: of the queries.

    Raises:
        ValueError: another teacher.
    """
    backbone, transformer = open_transformer(teacher, "vqt", one_window=True)
    depth = len(transformer.blocks)
    for number, block in enumerate(transformer.blocks):
        queries = Queries(new_tokens((tokens,), transformer), dropout)
        transformer.blocks[number] = QueriedBlock(block, queries)
    channels = transformer.embed_dim * (1 + depth * tokens)
    return Fitted(QueriedTransformer(backbone, transformer), channels, "vector")


# The authors search the learning rate of Adam from 0.05 to 1.
VQT = Adapter("vqt", fit, Recipe("adam", 0.05, warm_up=0.1))
