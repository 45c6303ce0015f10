"""Visual query tuning (VQT; Tu et al., CVPR 2023, arXiv 2212.03220): trainable queries on every block of a frozen ViT.

Each block has T query tokens. They attend to the image's tokens, which do not attend to them, and pass through the
block's MLP; their outputs are collected and not passed to the next block. The features are the frozen network's class
token and the outputs of every block (its T tokens concatenated), each divided by its Euclidean length: a vector of
D (1 + 12 T) for 12 blocks. The image's tokens are those of the frozen teacher, so the gradient of a query passes only
through its own block.

Our addition to the paper: SAM's encoder has no class token, so its mean token is used; its grid must be one window.
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
        dropout: dropout probability of their values.
    """

    def __init__(self, tokens: nn.Parameter, dropout: float) -> None:
        super().__init__()
        self.tokens, self.dropout = tokens, nn.Dropout(dropout)

    def forward(self, batch: int) -> Tensor:
        """Return the queries for a batch of this size `[batch, T, D]`."""
        return self.dropout(self.tokens.expand(batch, -1, -1))


class QueriedBlock(nn.Module):
    """A block with unchanged output that also stores the outputs of its queries, and its tokens, until `take`.

    Args:
        block: a block of the transformer.
        queries: the queries of this block.
    """

    def __init__(self, block: Any, queries: Queries) -> None:
        super().__init__()
        self.block, self.queries = block, queries
        self._kept: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `[B, N, D]` or a grid `[B, h, w, D]` to the same shape."""
        answers = ask(self.block, tokens, self.queries(len(tokens)).to(tokens.dtype))
        after = self.block(tokens)
        self._kept = (answers, after)
        return after

    def take(self) -> tuple[Tensor, Tensor]:
        """Return and clear the query outputs `[B, T, D]` and the tokens of the last run."""
        assert self._kept is not None
        kept, self._kept = self._kept, None
        return kept


class QueriedTransformer(nn.Module):
    """From preprocessed images to the vector of the class token and all query outputs.

    Args:
        backbone: the backbone, whose blocks are `QueriedBlock`s.
        transformer: the transformer in it.
    """

    def __init__(self, backbone: nn.Module, transformer: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self._transformer = [transformer]  # in a list, as it is already registered in the backbone
        self.stages = tuple(f"backbone.{path}" for path in getattr(backbone, "stages", ()))
        self.prefix = getattr(backbone, "prefix", 0)

    def forward(self, image: Tensor) -> Tensor:
        """Return features `[B, D (1 + 12 T)]` (for 12 blocks)."""
        self.backbone(image)
        kept = [block.take() for block in self._transformer[0].blocks]
        parts = [summary(self._transformer[0], kept[-1][1]), *(answers.flatten(1) for answers, _ in kept)]
        return torch.cat([F.normalize(part.float(), dim=1) for part in parts], dim=1)


def fit(teacher: FrozenFoundationModel, tokens: int = 1, dropout: float = 0.1) -> Fitted:
    """Add queries to every block: 12 T D trained parameters, 9,216 for a ViT-B, whose features have 9,984 values.

    Args:
        teacher: a teacher with a plain ViT, or with SAM's encoder on a grid of one window.
        tokens: T, the number of queries per block.
        dropout: dropout probability of the queries.

    Raises:
        ValueError: the teacher has no such network.
    """
    backbone, transformer = open_transformer(teacher, "vqt", one_window=True)
    depth = len(transformer.blocks)
    for number, block in enumerate(transformer.blocks):
        queries = Queries(new_tokens((tokens,), transformer), dropout)
        transformer.blocks[number] = QueriedBlock(block, queries)
    channels = transformer.embed_dim * (1 + depth * tokens)
    return Fitted(QueriedTransformer(backbone, transformer), channels, "vector")


# The authors search Adam's learning rate from 0.05 to 1.
VQT = Adapter("vqt", fit, Recipe("adam", 0.05, warm_up=0.1))
