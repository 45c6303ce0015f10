from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from monai_rd.losses import CKALoss, cka
from monai_rd.losses.cka import Estimator

ESTIMATORS: tuple[Estimator, ...] = ("biased", "unbiased")


def hsic_literal(x: Tensor, y: Tensor, estimator: str) -> float:
    """HSIC from loops over the Gram matrices, as the papers print it, on features that were not centred."""
    n = len(x)
    k = [[float(x[i] @ x[j]) for j in range(n)] for i in range(n)]
    l = [[float(y[i] @ y[j]) for j in range(n)] for i in range(n)]  # noqa: E741
    if estimator == "biased":
        h = [[(i == j) - 1 / n for j in range(n)] for i in range(n)]

        def matmul(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
            return [[sum(a[i][m] * b[m][j] for m in range(n)) for j in range(n)] for i in range(n)]

        hkh, hlh = matmul(matmul(h, k), h), matmul(matmul(h, l), h)
        return sum(hkh[i][j] * hlh[i][j] for i in range(n) for j in range(n)) / (n - 1) ** 2
    for i in range(n):
        k[i][i] = l[i][i] = 0.0
    trace = sum(k[i][j] * l[j][i] for i in range(n) for j in range(n))
    sums = sum(map(sum, k)) * sum(map(sum, l)) / ((n - 1) * (n - 2))
    cross = sum(k[i][j] * l[j][m] for i in range(n) for j in range(n) for m in range(n))
    return (trace + sums - 2 / (n - 2) * cross) / (n * (n - 3))


def cka_literal(x: Tensor, y: Tensor, estimator: str) -> float:
    own = hsic_literal(x, x, estimator) * hsic_literal(y, y, estimator)
    return hsic_literal(x, y, estimator) / math.sqrt(own)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n", "d1", "d2"), [(6, 20, 30), (12, 3, 4), (9, 2, 40)])  # Gram form, feature form, mixed
def test_equals_the_formula(estimator: Estimator, n: int, d1: int, d2: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(n, d1, dtype=torch.float64) + 3
    y = torch.randn(n, d2, dtype=torch.float64) + x[:, :1]
    assert cka(x, y, estimator).item() == pytest.approx(cka_literal(x, y, estimator), abs=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("d1", "d2"), [(12, 9), (2, 3)])
def test_gradient_of_both_sides(estimator: Estimator, d1: int, d2: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, d1, dtype=torch.float64, requires_grad=True)
    y = torch.randn(6, d2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: cka(a, b, estimator), (x, y))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_invariant_to_rotation_scale_and_shift(estimator: Estimator) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(16, 8, dtype=torch.float64), torch.randn(16, 5, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    expected = cka(x, y, estimator)
    torch.testing.assert_close(cka(1e3 * x @ rotation + 7, 1e-3 * y - 2, estimator), expected)
    torch.testing.assert_close(cka(y, x, estimator), expected)
    torch.testing.assert_close(cka(x, 5 * x @ rotation, estimator), torch.ones((), dtype=torch.float64))


def test_not_invariant_to_any_linear_map() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8, dtype=torch.float64)
    assert cka(x, x * torch.logspace(0, 3, 8, dtype=torch.float64)) < 0.9


def test_bias_on_independent_features() -> None:
    """0.94 at n=32, d=512 for the paper's estimator, about 0 for the unbiased one."""
    torch.manual_seed(0)
    pairs = [(torch.randn(32, 512), torch.randn(32, 512)) for _ in range(50)]
    biased, unbiased = (torch.stack([cka(x, y, e) for x, y in pairs]).mean().item() for e in ESTIMATORS)
    assert biased == pytest.approx(0.94, abs=0.01)
    assert unbiased == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_float32_keeps_what_a_large_mean_would_cancel(estimator: Estimator) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(32, 512) + 50, torch.randn(32, 256) + 80
    y[:, 0] += 20 * (x[:, 0] - 50)
    exact = cka(x.double(), y.double(), estimator)
    assert cka(x, y, estimator).item() == pytest.approx(exact.item(), abs=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_half_precision_and_autocast_are_computed_in_float32(estimator: Estimator) -> None:
    torch.manual_seed(0)
    x, y = 300 * torch.randn(16, 64), 300 * torch.randn(16, 64)
    expected = cka(x.half().float(), y.half().float(), estimator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = cka(x.half(), y.half(), estimator)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_constant_features_give_zero_and_no_nan(estimator: Estimator) -> None:
    x, y = torch.ones(8, 4, requires_grad=True), torch.randn(8, 4, requires_grad=True)
    value = cka(x, y, estimator)
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert y.grad is not None
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(y.grad).all()


@pytest.mark.parametrize(("estimator", "n"), [("biased", 1), ("unbiased", 3)])
def test_too_small_a_batch_is_refused(estimator: Estimator, n: int) -> None:
    with pytest.raises(ValueError, match="batch of at least"):
        cka(torch.randn(n, 4), torch.randn(n, 4), estimator)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one batch"):
        cka(torch.randn(4, 4), torch.randn(5, 4))
    with pytest.raises(ValueError, match="one batch"):
        cka(torch.randn(4, 4, 2), torch.randn(4, 4))
    with pytest.raises(ValueError, match="estimator"):
        CKALoss("debiased")  # type: ignore[arg-type]


def test_the_loss_is_minus_cka() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(8, 4), torch.randn(8, 6)
    assert CKALoss("unbiased")(x, y) == -cka(x, y, "unbiased")
    assert not list(CKALoss().parameters())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_cuda_autocast_agrees_with_cpu(estimator: Estimator) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(32, 512), torch.randn(32, 512)
    with torch.autocast("cuda", dtype=torch.float16):
        result = cka(x.cuda(), y.cuda(), estimator)
    torch.testing.assert_close(result.cpu(), cka(x, y, estimator), atol=1e-4, rtol=1e-4)
