"""The supervised loss of both kinds of labels."""

from __future__ import annotations

import math

import pytest
import torch

from monai_rd.losses import ClassificationLoss, class_probabilities


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
