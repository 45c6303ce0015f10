"""The choice of the supervised loss, and what is refused before a training."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from monai_rd.losses import AUCMarginLoss, ClassificationLoss, FocalClassificationLoss, build_criterion
from monai_rd.no_label import NO_LABEL

NAMES, COUNTS, ITEMS = ("common", "rare", "rarest"), (14, 5, 1), 20


def chosen(name: str = "cross_entropy", class_weights: str | None = None, **changed: Any) -> ClassificationLoss:
    settings = {"class_names": NAMES, "counts": COUNTS, "items": ITEMS, **changed}
    return build_criterion(name, class_weights, **settings)


def skewed() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(ITEMS, 3), torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))


def test_by_default_it_is_the_cross_entropy() -> None:
    logits, target = skewed()
    for multi_label, labels in ((False, target), (True, F.one_hot(target).float())):
        found, plain = chosen(multi_label=multi_label), ClassificationLoss(multi_label)
        assert torch.equal(found(logits, labels), plain(logits, labels))
        assert found.plain
        assert list(found.buffers()) == []
    assert isinstance(chosen("auc_margin"), AUCMarginLoss)
    assert isinstance(chosen("focal", multi_label=True), FocalClassificationLoss)
    for name, weights in (("auc_margin", None), ("logit_adjustment", None), (*["cross_entropy"], "sampling")):
        assert not chosen(name, weights).plain


def test_balanced_weights_make_the_mean_over_classes() -> None:
    logits, target = skewed()
    by_class = torch.stack([F.cross_entropy(logits[target == k], target[target == k]) for k in range(3)])
    found = chosen("cross_entropy", "balanced")
    torch.testing.assert_close(found(logits, target), by_class.mean())
    torch.testing.assert_close(found(logits, F.one_hot(target).float()), by_class.mean())
    several = F.one_hot(target).float()
    sides = [
        F.binary_cross_entropy_with_logits(logits[several[:, k] == side, k], several[several[:, k] == side, k])
        for k in range(3)
        for side in (0, 1)
    ]
    found = chosen("cross_entropy", "balanced", multi_label=True)
    torch.testing.assert_close(found(logits, several), torch.stack(sides).mean())
    assert chosen("cross_entropy", "sampling").weights is None


def test_a_weight_does_not_depend_on_who_else_is_in_the_batch() -> None:
    found, logits = chosen("cross_entropy", "balanced"), torch.zeros(2, 3)
    assert found(logits[:1], torch.tensor([2])).item() == pytest.approx(20 / 3 * math.log(3))
    assert found(logits, torch.tensor([2, NO_LABEL])).item() == pytest.approx(20 / 3 * math.log(3))


def test_logits_are_adjusted_by_the_shares_of_the_classes() -> None:
    logits, target = skewed()
    shares = torch.tensor(COUNTS) / ITEMS
    expected = F.cross_entropy(logits + shares.log(), target)
    found = chosen("logit_adjustment")
    torch.testing.assert_close(found(logits, target), expected)
    mixed = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0], [NO_LABEL] * 3])
    torch.testing.assert_close(found(logits[:3], mixed), F.cross_entropy(logits[:2] + shares.log(), mixed[:2]))
    several = F.one_hot(target).float()
    expected = F.binary_cross_entropy_with_logits(logits + torch.logit(shares), several)
    torch.testing.assert_close(chosen("logit_adjustment", multi_label=True)(logits, several), expected)


def test_plain_logits_then_know_nothing_of_the_shares() -> None:
    """Images that tell nothing get equal logits of all classes; with cross entropy those of the frequent one win."""
    _, target = skewed()
    for name, weights in (("logit_adjustment", None), ("cross_entropy", "balanced")):
        bias = torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.LBFGS([bias], max_iter=100)

        def closure(name: str = name, weights: str | None = weights, bias: torch.Tensor = bias) -> torch.Tensor:
            bias.grad = None
            loss = chosen(name, weights)(bias.expand(ITEMS, 3), target)
            loss.backward()
            return loss

        optimizer.step(closure)
        torch.testing.assert_close(bias.softmax(dim=0), torch.full((3,), 1 / 3), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "class_weights", "changed", "said"),
    [
        (
            "crossentropy",
            None,
            {},
            "--criterion is cross_entropy, .* not 'crossentropy'.*mean 'cross_entropy'",
        ),
        ("cross_entropy", "balance", {}, "--class_weights is balanced, sampling, not 'balance'"),
        ("focal", None, {}, "focal is for images with several labels"),
        ("logit_adjustment", "balanced", {}, "twice"),
        ("logit_adjustment", "sampling", {}, "twice"),
        ("auc_margin", "balanced", {}, "no weights to balance"),
        ("auc_margin", None, {"cutmix": True}, "of which cutmix makes mixtures"),
        ("cross_entropy", "balanced", {"counts": (15, 5, 0)}, "no training image has the class rarest"),
        ("cross_entropy", "sampling", {"counts": (20, 0, 0)}, "no training image has the class rare, rarest"),
        ("logit_adjustment", None, {"counts": (0, 5, 15)}, "no training image has the class common"),
        ("auc_margin", None, {"counts": (15, 5, 0), "multi_label": True}, "no training image has the class rarest"),
        ("logit_adjustment", None, {"counts": (20, 5, 1), "multi_label": True}, "every training image has .* common"),
    ],
)
def test_what_cannot_be_is_refused(name: str, class_weights: str | None, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        chosen(name, class_weights, **changed)


def test_what_does_not_need_the_counts_takes_any() -> None:
    for name, multi_label in (("cross_entropy", False), ("focal", True)):
        assert chosen(name, counts=(20, 0, 0), multi_label=multi_label) is not None
    assert chosen("cross_entropy", "sampling", counts=(20, 5, 1), multi_label=True).weights is None


def test_a_student_in_use_need_not_wait_for_monai() -> None:
    code = "import sys, monai_rd.losses as l; l.ClassificationLoss(); sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
