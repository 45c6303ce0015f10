"""Groups of items that are linked directly or through other items: the connected components of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["linked"]


def linked(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Number the groups of items that are linked, directly or through other items.

    Args:
        count: number of items.
        pairs: indices of two items that belong together; an item in no pair forms a group of its own.

    Returns:
        The group number of each item, from 0 in order of appearance.
    """
    i, j = np.array(pairs, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(i), dtype=bool), (i, j)), shape=(count, count))
    found = connected_components(graph, directed=False)[1].tolist() if count else []
    numbers: dict[int, int] = {}  # scipy guarantees no order, and splits depend on it
    return [numbers.setdefault(one, len(numbers)) for one in found]
