from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_rd.losses import attention_loss
from monai_rd.losses.attention import AttentionForm
from monai_rd.methods.at import AttentionTransfer
from monai_rd.methods.base import Step
from monai_rd.methods.maps import shrink_to_common
from monai_rd.networks.levels import Level
from tests.methods.steps import Head, ends, learnt, taught


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


def test_levels_are_summed_and_the_larger_map_is_pooled() -> None:
    torch.manual_seed(0)
    levels = tuple((Level(f"s{n}", 2, 4, n / 2, True), Level(f"t{n}", 3, 8, n / 2, True)) for n in (1, 2))
    method, g = AttentionTransfer(*ends(pairs=levels)), nn.Linear(2, 2)
    assert ([one.module for one in method.student_levels], [one.module for one in method.reads.levels]) == (
        ["s1", "s2"],
        ["t1", "t2"],
    )
    ours = (torch.randn(2, 2, 6, 6), torch.randn(2, 2, 2, 2))
    theirs = (torch.randn(2, 3, 3, 3), torch.randn(2, 3, 4, 4))
    found = method(Step(learnt(torch.zeros(2, 2), g, ours), taught(theirs[0], theirs), Head(g), torch.zeros(2)))["at"]
    first = attention_loss(ours[0].unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5)), theirs[0])
    second = attention_loss(ours[1], theirs[1].unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5)))
    # Strides of 8, of which 28 x 28 positions are those of images of 224 pixels.
    torch.testing.assert_close(found, (first * 9 + second * 4) / 28**2)


def _term(side: int, form: AttentionForm = "mean") -> float:
    """Of maps of strides 4, 8, 16 and 32 of images of a side, against a teacher who always looks elsewhere."""
    strides = (4, 8, 16, 32)
    levels = tuple((Level(f"s{n}", 2, n, 0.5, True), Level(f"t{n}", 3, n, 0.5, True)) for n in strides)
    ours, theirs = ([torch.zeros(2, c, side // n, side // n) for n in strides] for c in (2, 3))
    for mine, wanted in zip(ours, theirs, strict=True):
        mine[:, :, 0, 0], wanted[:, :, -1, -1] = 1, 1
    method, g = AttentionTransfer(*ends(pairs=levels), form=form), nn.Linear(2, 2)
    step = Step(learnt(torch.zeros(2, 2), g, tuple(ours)), taught(theirs[0], tuple(theirs)), Head(g), torch.zeros(2))
    return method.weights(0.0)["at"] * float(method(step)["at"])


def test_it_is_the_authors_at_224_pixels_and_as_strong_at_any_other_size() -> None:
    assert _term(224) == pytest.approx(1000 * sum(2 / (224 // n) ** 2 for n in (4, 8, 16, 32)))
    assert _term(64) == pytest.approx(_term(224))
    assert _term(448) == pytest.approx(_term(224))
    assert _term(64, "paper") == pytest.approx(0.05 * 4 * 2**0.5)


def test_a_pair_of_two_strides_has_the_coarser_ones_positions() -> None:
    """A ViT's 14 x 14 positions are 14 x 14 at any size of the student's images."""
    pair = ((Level("s", 2, 4, 0.5, True), Level("t", 3, 16, 0.5, True)),)
    ours, theirs, g = torch.randn(2, 2, 16, 16), torch.randn(2, 3, 14, 14), nn.Linear(2, 2)
    step = Step(learnt(torch.zeros(2, 2), g, (ours,)), taught(theirs, (theirs,)), Head(g), torch.zeros(2))
    torch.testing.assert_close(
        AttentionTransfer(*ends(pairs=pair))(step)["at"], attention_loss(*shrink_to_common(ours, theirs), form="mean")
    )


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
        AttentionTransfer(*ends(), form="sum")  # type: ignore[arg-type]
    assert AttentionTransfer(*ends(pairs=((Level("a", 1, 4, 1, True),) * 2,)), form="paper").weights(0.5) == {
        "at": 0.05
    }
