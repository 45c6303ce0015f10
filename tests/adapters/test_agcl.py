from __future__ import annotations

import math

import pytest
import torch

from monai_rd.adapters.agcl import AsymmetricCloudedLoss, rarity


def _rarity(counts: list[int]) -> list[float]:
    logs = [math.log(count) for count in counts]
    return [(max(logs) - one) / (max(logs) - min(logs)) for one in logs]


def test_rarity_of_equal_classes_is_0() -> None:
    assert rarity(torch.tensor([7, 7, 7])).tolist() == [0.0] * 3
    assert rarity(torch.tensor([100, 10, 1])).tolist() == pytest.approx([0, 0.5, 1])
    assert rarity(torch.tensor([100, 0])).tolist() == [0, 1]  # a class without images is as one with one


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_formula(multi_label: bool) -> None:
    torch.manual_seed(0)
    counts, s, m, nu, plus, minus = [50, 20, 5], 20.0, 0.1, 0.5, 1.0, 4.0
    loss = AsymmetricCloudedLoss(torch.tensor(counts), s, m, nu, plus, minus, multi_label)
    cosines = torch.rand(4, 3) * 0.4
    target = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]).float()
    if not multi_label:
        target = torch.tensor([0, 2, 1, 2])
    torch.manual_seed(1)
    got = loss(s * cosines, target)
    torch.manual_seed(1)
    noise = (torch.randn(4, 3) / 3).clamp(-1, 1).abs()
    for b in range(4):
        own = [bool(target[b, i]) if multi_label else int(target[b]) == i for i in range(3)]
        v = [s * (float(cosines[b, i]) - nu * float(noise[b, i]) * _rarity(counts)[i] - m * own[i]) for i in range(3)]
        if multi_label:
            p = [1 / (1 + math.exp(-x)) for x in v]
        else:
            p = [math.exp(x) / sum(math.exp(y) for y in v) for x in v]
        expected = sum(
            -((1 - p[i]) ** plus) * math.log(p[i])
            if own[i]
            else -(p[i] ** minus) * math.log(1 - p[i] if multi_label else p[i])
            for i in range(3)
        )
        assert float(got[b]) == pytest.approx(expected, rel=1e-4)


def test_it_is_finite_at_both_ends_and_takes_half_precision() -> None:
    loss = AsymmetricCloudedLoss(torch.tensor([9, 3]))
    for dtype in (torch.float32, torch.float16):
        logits = torch.tensor([[20.0, -20.0], [-20.0, 20.0]], dtype=dtype, requires_grad=True)
        value = loss(logits, torch.tensor([0, 0]))
        value.sum().backward()
        assert value.dtype == torch.float32
        assert value.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        assert value[1] > 10 * value[0]


def test_no_noise_in_eval() -> None:
    loss = AsymmetricCloudedLoss(torch.tensor([9, 3]))
    logits, target = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    assert not torch.equal(loss(logits, target), loss(logits, target))
    loss.eval()
    assert torch.equal(loss(logits, target), loss(logits, target))
