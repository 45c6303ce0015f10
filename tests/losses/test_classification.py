"""The supervised loss of both kinds of labels."""

from __future__ import annotations

import math

import pytest
import torch

from monai_rd.losses import ClassificationLoss, class_probabilities
from monai_rd.no_label import NO_LABEL


def test_one_class_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])
    p = class_probabilities(logits)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(4))
    expected = -sum(math.log(p[row, label].item()) for row, label in enumerate(target.tolist())) / 4
    assert ClassificationLoss()(logits, target).item() == pytest.approx(expected, abs=1e-6)


def test_multi_label_is_the_mean_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3), torch.tensor([[0.0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    p = class_probabilities(logits, multi_label=True)
    expected = -sum(
        math.log(q if t else 1 - q) for q, t in zip(p.flatten().tolist(), target.flatten().tolist(), strict=True)
    )
    for given in (target, target.long()):
        assert ClassificationLoss(multi_label=True)(logits, given).item() == pytest.approx(expected / 12, abs=1e-6)


def test_half_precision_is_computed_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ClassificationLoss(True)(torch.randn(2, 3, dtype=torch.bfloat16), torch.ones(2, 3))
    assert value.dtype == torch.float32


@pytest.mark.parametrize(("multi_label", "shape"), [(True, (4,)), (False, (4, 3)), (True, (4, 2))])
def test_targets_of_the_other_kind_are_refused(multi_label: bool, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="-label targets do not fit"):
        ClassificationLoss(multi_label)(torch.randn(4, 3), torch.ones(shape))


@pytest.mark.parametrize("multi_label", [False, True])
def test_what_has_no_label_takes_no_part(multi_label: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, requires_grad=True)
    target = torch.tensor([[0.0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]) if multi_label else torch.tensor([0, 2, 1, 2])
    missing = target.clone()
    missing[1:3] = NO_LABEL
    loss, known = ClassificationLoss(multi_label), torch.tensor([0, 3])
    found = loss(logits, missing)
    torch.testing.assert_close(found, loss(logits[known], target[known]))
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient[1:3].abs().max() == 0
    assert gradient[known].abs().min() > 0


def test_single_classes_may_be_unknown_in_a_multi_label_row() -> None:
    logits = torch.tensor([[2.0, -1.0]])
    found = ClassificationLoss(True)(logits, torch.tensor([[1.0, float(NO_LABEL)]]))
    assert found.item() == pytest.approx(math.log1p(math.exp(-2)))


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_batch_without_any_label_has_loss_and_gradient_0(multi_label: bool) -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    loss = ClassificationLoss(multi_label)(logits, torch.full((4, 3) if multi_label else (4,), NO_LABEL))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0
