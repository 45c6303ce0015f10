"""The logits of linear probes, computed from the features of their teacher in a feature store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ProbeLogits", "unseen", "without_place"]


class ProbeLogits:
    """Adds the logits of linear probes to stored features, which contain the pooled ones.

    Args:
        name: of the fitted teacher, for errors.
        heads: the heads; several if the teacher was fitted in folds.
        folds: for each item of the training list the head that was fitted without it, see `unseen`; an item gets the
            mean of the logits of its heads. None for one head.
        keep_pooled: leave the pooled features among the others.
    """

    def __init__(self, name: str, heads: Sequence[nn.Linear], folds: Tensor | None, keep_pooled: bool) -> None:
        self.name, self.folds, self.keep_pooled = name, folds, keep_pooled
        self.heads = [deepcopy(head).cpu().float() for head in heads]

    @torch.no_grad()
    def __call__(self, features: Mapping[str, Tensor], item: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the features of one view with `logits`.

        Raises:
            ValueError: the teacher was fitted in folds, and the item has no `index`.
        """
        heads, pooled = self.heads, features["pooled"].float()
        if self.folds is not None:
            if "index" not in item:
                raise without_place(self.name)
            answers = unseen(self.folds, len(heads), torch.tensor([int(item["index"])]))[0]
            heads = [head for head, one in zip(heads, answers, strict=True) if one]
        logits = torch.stack([head(pooled) for head in heads]).mean(dim=0)
        kept = {name: part for name, part in features.items() if self.keep_pooled or name != "pooled"}
        return {**kept, "logits": logits}


def unseen(folds: Tensor, count: int, indices: Tensor) -> Tensor:
    """Return which of `count` teachers in folds have not seen each item, as a mask `[B, count]`.

    Args:
        folds: for each item of the training list the teacher that was fitted without it, `[N]`.
        count: number of teachers.
        indices: indices of the items in the training list `[B]`; no teacher has seen items outside 0 to N - 1.
    """
    among = (indices >= 0) & (indices < len(folds))
    fold = folds[indices.clamp(0, len(folds) - 1)]
    return (fold[:, None] == torch.arange(count)) | ~among[:, None]


def without_place(name: str) -> ValueError:
    """Return the error for items that a teacher in folds cannot answer for."""
    return ValueError(
        f"'{name}' answers by the items' places in the training list: give batches their `index`, as "
        "`DataList.numbered` does"
    )
