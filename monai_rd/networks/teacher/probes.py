"""The logits of linear probes, computed from the features of their teacher in a feature store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ProbeLogits", "without_place"]


class ProbeLogits:
    """Adds the logits of linear probes to stored features, which contain the pooled ones.

    Args:
        name: of the fitted teacher, for errors.
        heads: the heads; several if the teacher was fitted in folds.
        folds: for each item of the training list the head that was fitted without it; other items get the mean of all
            logits. None for one head.
        keep_pooled: leave the pooled features among the others.
    """

    def __init__(self, name: str, heads: Sequence[nn.Linear], folds: Sequence[int] | None, keep_pooled: bool) -> None:
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
            if 0 <= (place := int(item["index"])) < len(self.folds):
                heads = [heads[self.folds[place]]]
        logits = torch.stack([head(pooled) for head in heads]).mean(dim=0)
        kept = {name: part for name, part in features.items() if self.keep_pooled or name != "pooled"}
        return {**kept, "logits": logits}


def without_place(name: str) -> ValueError:
    """Return the error for items that a teacher in folds cannot answer for."""
    return ValueError(
        f"'{name}' answers by the items' places in the training list: give batches their `index`, as "
        "`DataList.numbered` does"
    )
