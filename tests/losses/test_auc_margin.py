"""AUC margin loss against the mean over pairs that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_rd.losses import AUCMarginLoss
from monai_rd.no_label import NO_LABEL


def pairs(scores: Tensor, positive: Tensor) -> Tensor:
    """Mean of (1 - s+ + s-)^2 over all pairs."""
    return (1 - scores[positive][:, None] + scores[~positive][None]).square().mean()


@pytest.mark.parametrize("classes", [2, 4])
def test_value_and_gradient_are_those_of_all_pairs(classes: int) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(12, classes, requires_grad=True), torch.arange(12) % classes
    target[::5] = NO_LABEL
    known = target != NO_LABEL
    p = logits[known].softmax(dim=1)
    scored = range(classes) if classes > 2 else [1]
    expected = torch.stack([pairs(p[:, k], target[known] == k) for k in scored]).mean()
    found = AUCMarginLoss()(logits, target)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, logits)[0] for one in (found, expected)))


def test_several_labels_an_image_of_the_classes_that_have_both_sides() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 3)
    target = torch.tensor([[1.0, 0, 0], [0, 0, NO_LABEL], [1, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, NO_LABEL]])
    p, last = logits.sigmoid(), target[:, 2] != NO_LABEL
    expected = (pairs(p[:, 0], target[:, 0] == 1) + pairs(p[last, 2], target[last, 2] == 1)) / 2
    torch.testing.assert_close(AUCMarginLoss(True)(logits, target), expected)


@pytest.mark.parametrize("target", [[1, 1, 1], [0, NO_LABEL, 0], [NO_LABEL] * 3])
def test_without_a_pair_loss_and_gradient_are_0(target: list[int]) -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = AUCMarginLoss()(logits, torch.tensor(target))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_nothing_of_it_is_trained_and_half_precision_is_computed_in_float32() -> None:
    loss = AUCMarginLoss()
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(torch.randn(4, 2, dtype=torch.bfloat16), torch.tensor([0, 1, 0, 1])).dtype == torch.float32


def test_mixtures_are_refused() -> None:
    with pytest.raises(ValueError, match="not mixtures of classes"):
        AUCMarginLoss()(torch.randn(2, 2), torch.tensor([[0.3, 0.7], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="not mixtures of classes"):
        AUCMarginLoss(True)(torch.randn(2, 1), torch.tensor([[0.3], [1.0]]))
