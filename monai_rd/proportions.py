"""Shares of studies with their 95 % intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["proportion", "wilson"]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of the proportion `hits / n`, n > 0 (Wilson, 1927)."""
    from scipy.stats import binomtest  # takes long to import, and bundles check operating points before all else

    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def proportion(hits: np.ndarray) -> dict[str, Any]:
    """Return the share of hits with Wilson's interval, from a bool array `[n]`, n > 0."""
    return {"value": float(hits.mean()), "interval": list(wilson(int(hits.sum()), len(hits)))}
