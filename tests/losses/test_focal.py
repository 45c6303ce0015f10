"""Focal loss of several labels an image."""

from __future__ import annotations

import pytest
import torch

from monai_rd.losses import FocalClassificationLoss
from monai_rd.no_label import NO_LABEL

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 3.0, -2.0]])
TARGET = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, NO_LABEL]])


@pytest.mark.parametrize("weights", [None, torch.tensor([[0.5, 0.6, 0.7], [5.0, 3.0, 2.0]])])
def test_the_formula_over_the_entries_with_a_label(weights: torch.Tensor | None) -> None:
    total = 0.0
    for row in range(2):
        for k in range(3):
            if (y := int(TARGET[row, k])) == NO_LABEL:
                continue
            p = LOGITS[row, k].double().sigmoid() if y else 1 - LOGITS[row, k].double().sigmoid()
            total += float(-((1 - p) ** 2) * p.log()) * (1 if weights is None else float(weights[y, k]))
    assert FocalClassificationLoss(weights)(LOGITS, TARGET).item() == pytest.approx(total / 5, abs=1e-6)


def test_entries_without_a_label_have_no_gradient_and_mixtures_may_learn() -> None:
    logits = (LOGITS * 30).requires_grad_()
    loss = FocalClassificationLoss()
    loss(logits, TARGET).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1, 2] == 0
    assert loss(logits, torch.full_like(LOGITS, NO_LABEL)).item() == 0
    assert loss(LOGITS, torch.full_like(LOGITS, 0.3)).isfinite()
