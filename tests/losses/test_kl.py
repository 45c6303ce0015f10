from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from monai_rd.losses import KLDistillationLoss


def kl_literal(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for z_s, z_t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s = [math.exp(z / temperature) for z in z_s]
        p_t = [math.exp(z / temperature) for z in z_t]
        p_s, p_t = [p / sum(p_s) for p in p_s], [p / sum(p_t) for p in p_t]
        total += sum(t * math.log(t / s) for s, t in zip(p_s, p_t, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_the_formula(temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    value = KLDistillationLoss(temperature)(student, teacher)
    assert value.item() == pytest.approx(kl_literal(student, teacher, temperature), abs=1e-12)


def test_gradient_of_both_sides() -> None:
    torch.manual_seed(0)
    student, teacher = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(KLDistillationLoss(2.0), (student, teacher))


def test_zero_for_equal_distributions_and_direction_matters() -> None:
    z = torch.tensor([[2.0, -1.0, 0.5]])
    other = torch.tensor([[0.0, 0.0, 3.0]])
    loss = KLDistillationLoss()
    assert loss(z, z + 10).item() == pytest.approx(0, abs=1e-6)
    assert loss(z, other).item() != pytest.approx(loss(other, z).item(), rel=1e-3)


def test_extreme_half_precision_logits_stay_finite() -> None:
    student = torch.tensor([[6e4, -6e4]], dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = KLDistillationLoss()(student, -student)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        KLDistillationLoss(0)
    with pytest.raises(ValueError, match="shape"):
        KLDistillationLoss()(torch.randn(2, 3), torch.randn(2, 4))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_multi_label_is_the_mean_of_each_classs_own_divergence(temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    total = 0.0
    for z_s, z_t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        s, t = (1 / (1 + math.exp(-z / temperature)) for z in (z_s, z_t))
        total += t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s))
    value = KLDistillationLoss(temperature, multi_label=True)(student, teacher)
    assert value.item() == pytest.approx(temperature**2 * total / 15, abs=1e-12)
    extreme = torch.tensor([[6e4, -6e4]])
    assert torch.isfinite(KLDistillationLoss(multi_label=True)(extreme, -extreme))
