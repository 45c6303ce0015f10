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


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="form must be 'mean' or 'paper', not 'sum'"):
        AttentionTransfer(*ends(), form="sum")  # type: ignore[arg-type]
    assert AttentionTransfer(*ends(pairs=((Level("a", 1, 4, 1, True),) * 2,)), form="paper").weights(0.5) == {
        "at": 0.05
    }
