from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from monai_rd.losses import angle_loss, distance_loss


def _huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def _distances(x: Tensor) -> list[list[float]]:
    n = len(x)
    raw = [[(x[i] - x[j]).square().sum().sqrt().item() for j in range(n)] for i in range(n)]
    positive = [value for row in raw for value in row if value > 0]
    return [[value / (sum(positive) / len(positive)) for value in row] for row in raw]


def _angle(x: Tensor, i: int, j: int, k: int) -> float:
    one, other = x[j] - x[i], x[k] - x[i]
    length = one.norm() * other.norm()
    return ((one @ other) / length).item() if length > 0 else 0.0


def _literal(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    n = range(len(ours))
    d_s, d_t = _distances(ours), _distances(theirs)
    distance = sum(_huber(d_s[i][j] - d_t[i][j]) for i in n for j in n) / len(n) ** 2
    angles = sum(_huber(_angle(ours, i, j, k) - _angle(theirs, i, j, k)) for i in n for j in n for k in n)
    return distance, angles / len(n) ** 3


def test_are_their_formulas() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(6, 4), 10 * torch.randn(6, 9) + 30
    ours[5] = ours[0]  # an image that is there twice
    distance, angle = _literal(ours.double(), theirs.double())
    assert distance_loss(ours, theirs).item() == pytest.approx(distance, rel=1e-5)
    assert angle_loss(ours, theirs).item() == pytest.approx(angle, rel=1e-5)
    with pytest.raises(ValueError, match=r"features must be \[n, d1\] and \[n, d2\] of one batch"):
        angle_loss(ours, theirs[:5])


def test_features_far_from_zero_and_near_each_other_keep_their_angles() -> None:
    torch.manual_seed(0)
    ours, theirs = 100 + 0.01 * torch.randn(6, 64), torch.randn(6, 5)
    distance, angle = _literal(ours.double(), theirs.double())
    assert distance_loss(ours, theirs).item() == pytest.approx(distance, rel=1e-4)
    assert angle_loss(ours, theirs).item() == pytest.approx(angle, rel=1e-4)


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_identical_samples_and_a_batch_of_one_give_zero(loss: type[nn.Module]) -> None:
    for ours in (torch.ones(4, 3, requires_grad=True), torch.randn(1, 3, requires_grad=True)):
        assert loss(ours, torch.ones(len(ours), 5)).item() == 0
    ours = torch.ones(4, 3, requires_grad=True)
    loss(ours, torch.randn(4, 5)).backward()
    assert ours.grad is not None
    assert ours.grad.isfinite().all()


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_gradient(loss: type[nn.Module]) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(5, 3).double().requires_grad_(), torch.randn(5, 4).double()
    assert torch.autograd.gradcheck(loss, inputs)
