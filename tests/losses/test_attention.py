from __future__ import annotations

import pytest
import torch

from monai_rd.losses import attention_loss


def _attention(maps: torch.Tensor) -> list[float]:
    """Of one sample `[C, h, w]`, position by position."""
    channels, rows, columns = maps.shape
    energy = [
        sum(maps[c, y, x].item() ** 2 for c in range(channels)) / channels for y in range(rows) for x in range(columns)
    ]
    length = sum(value**2 for value in energy) ** 0.5
    return [value / length for value in energy]


@pytest.mark.parametrize("form", ["mean", "paper"])
def test_is_its_formula(form: str) -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(3, 4, 2, 5), torch.randn(3, 6, 2, 5)
    total = 0.0
    for one, other in zip(ours, theirs, strict=True):
        squares = [(a - b) ** 2 for a, b in zip(_attention(one), _attention(other), strict=True)]
        total += sum(squares) / len(squares) if form == "mean" else sum(squares) ** 0.5
    assert attention_loss(ours, theirs, form=form).item() == pytest.approx(total / 3, rel=1e-5)  # type: ignore[arg-type]


def test_caps_are_reached_by_maps_that_look_elsewhere() -> None:
    ours, theirs = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4)
    ours[:, :, 0, 0], theirs[:, :, 3, 3] = 1e4, -1e-4
    assert attention_loss(ours, theirs).item() == pytest.approx(2 / 16)
    assert attention_loss(ours, theirs, form="paper").item() == pytest.approx(2**0.5)
    assert attention_loss(3 * theirs, theirs).item() == pytest.approx(0, abs=1e-12)


def test_a_black_image_and_equal_maps_give_a_finite_gradient() -> None:
    for form in ("mean", "paper"):
        ours = torch.zeros(2, 3, 4, 4, requires_grad=True)
        attention_loss(ours, torch.rand(2, 3, 4, 4), form=form).backward()  # type: ignore[arg-type]
        assert ours.grad is not None
        assert ours.grad.isfinite().all()
        same = torch.rand(2, 3, 4, 4, requires_grad=True)
        attention_loss(same, same.detach().clone(), form=form).backward()  # type: ignore[arg-type]
        assert same.grad is not None
        assert same.grad.isfinite().all()


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention maps differ in shape: of \[2, 3, 4, 4\] and \[2, 3, 5, 4\]"):
        attention_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 5, 4))
    with pytest.raises(ValueError, match="form must be 'mean' or 'paper', not 'sum'"):
        attention_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), form="sum")  # type: ignore[arg-type]
