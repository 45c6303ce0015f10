from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_rd.losses import similarity_loss


def _similarities(features: Tensor) -> list[list[float]]:
    rows = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in features.tolist()] for x in features.tolist()]
    return [[value / sum(v**2 for v in row) ** 0.5 for value in row] for row in rows]


def test_is_its_formula() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(5, 3), torch.randn(5, 7)
    one, other = _similarities(ours), _similarities(theirs)
    total = sum((a - b) ** 2 for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))
    assert similarity_loss(ours, theirs).item() == pytest.approx(total / 25, rel=1e-5)
    assert similarity_loss(ours, -4 * ours).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="features of different batches"):
        similarity_loss(ours, theirs[:4])


def test_cap_of_features_that_are_not_negative() -> None:
    """All alike for the one, all different for the other, the batch large."""
    value = similarity_loss(torch.ones(400, 2), torch.eye(400)).item()
    assert 0.9 * 2 / 400 < value <= 2 / 400


def test_half_precision_does_not_overflow() -> None:
    ours, theirs = 100 * torch.rand(4, 2000), 100 * torch.rand(4, 3000)
    with torch.autocast("cpu", torch.bfloat16):
        value = similarity_loss(ours.half(), theirs.half())
    torch.testing.assert_close(value, similarity_loss(ours, theirs), rtol=1e-2, atol=0)
