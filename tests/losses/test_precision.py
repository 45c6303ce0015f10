"""What every loss is computed in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_rd.losses.precision import in_float32


@in_float32
def _product(student: Tensor, teacher: Tensor, power: int = 1) -> Tensor:
    """As a loss may be: a product, which autocast would take to its own type."""
    return (student @ teacher).pow(power)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_autocast_is_off_and_half_precision_read_as_float32(dtype: torch.dtype) -> None:
    ours, theirs = torch.full((1, 4), 300.0, dtype=dtype), torch.full((4, 1), 300.0, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _product(ours, theirs)
        assert (ours @ theirs).dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert found.item() == 4 * float(ours[0, 0]) ** 2  # more than float16 can hold


def test_float64_stays_what_it_is() -> None:
    ours, theirs = torch.rand(1, 4, dtype=torch.float64), torch.rand(4, 1, dtype=torch.float64)
    assert torch.equal(_product(ours, theirs), ours @ theirs)


def test_options_are_handed_on_and_gradient_flows_to_both() -> None:
    ours, theirs = torch.ones(1, 2, dtype=torch.float16, requires_grad=True), torch.ones(2, 1, requires_grad=True)
    found = _product(ours, theirs, power=3)
    assert found.item() == 8
    found.backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert (ours.grad == 12).all()
    assert (theirs.grad == 12).all()
