"""The two phases of LPT: what they train, and on which loss; its blocks are restated in test_formulas.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_rd.adapters import build_adapter
from monai_rd.adapters.agcl import AsymmetricCloudedLoss
from monai_rd.adapters.base import AdaptedTeacher, Phase
from monai_rd.adapters.lpt import GroupedBlock, GroupedTransformer, Prompts, phases
from monai_rd.losses import ClassificationLoss, build_criterion
from tests.adapters.tiny import inputs, teacher


def _network() -> AdaptedTeacher:
    return build_adapter("lpt", teacher("plain"), 3, tokens=2, groups=4, grouped_blocks=2)


def test_the_phases_of_lpt_train_what_they_should() -> None:
    network = _network()
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    first, second = phases(network, labels, ClassificationLoss())
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(p)].split(".", 1)[1].split(".", 4)[-1] for p in first.parameters} == {"shared.tokens", "weight"}
    trained = {names[id(p)].split(".", 1)[1].split(".", 4)[-1] for p in second.parameters}
    assert trained == {"pool.tokens", "keys", "weight"}
    grouped = network.backbone
    assert isinstance(grouped, GroupedTransformer)
    first.start()
    assert not grouped.uses_groups
    second.start()
    assert grouped.uses_groups


def _without_noise(phase: Phase) -> Any:
    loss: Any = phase.loss
    loss.balanced.eval(), loss.plain.eval()
    return loss


def test_both_ways_of_drawing_have_their_loss_and_the_keys() -> None:
    """Drawn equally often, the images of a class of 3, 2 and 1 have 2/3, 1 and 2 times their share."""
    network = _network()
    labels, drawn = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([2 / 3, 2 / 3, 2 / 3, 1, 1, 2])
    first, second = phases(network, labels, ClassificationLoss())
    with torch.no_grad():
        logits = network.eval()(inputs(6))
        cosines = network.backbone.key_similarity  # type: ignore[union-attr]
        four, eight = (
            AsymmetricCloudedLoss(torch.tensor([3, 2, 1]), gamma_negative=gamma).eval()(logits, labels)
            for gamma in (4.0, 8.0)
        )
        keys = 0.5 * (drawn * cosines).mean() + 0.5 * cosines.mean()
        for progress, weight in ((0.0, 0.5), (0.5, 0.25), (1.0, 0.0)):
            wanted = (drawn * four).mean() + weight * eight.mean()
            for phase, minus in ((first, 0.0), (second, keys)):
                phase.start_epoch(progress)
                torch.testing.assert_close(_without_noise(phase)(logits, labels), wanted - minus)


def test_the_keys_of_a_bag_are_the_mean_of_its_slices() -> None:
    network = _network()
    labels = torch.tensor([0, 1, 2])
    _, second = phases(network, labels, ClassificationLoss())
    second.start_epoch(1.0)
    with torch.no_grad():
        logits = network.eval()(inputs(6).unflatten(0, (3, 2)))
        cosines = network.backbone.key_similarity  # type: ignore[union-attr]
        assert cosines.shape == (6,)
        loss = _without_noise(second)
        torch.testing.assert_close(loss(logits, labels), loss.balanced(logits, labels).mean() - cosines.mean())


def test_prompts_of_lpt_have_dropout_while_they_are_trained() -> None:
    network = _network()
    first, second = phases(network, torch.tensor([0, 1, 2]), ClassificationLoss())
    grouped = network.backbone
    assert isinstance(grouped, GroupedTransformer)
    for phase, trained in ((first, "shared"), (second, "pool")):
        phase.start()
        for parameter in network.parameters():
            parameter.requires_grad_(any(parameter is own for own in phase.parameters))
        network.train()
        for block in (module for module in grouped.modules() if isinstance(module, GroupedBlock)):
            for name, prompts in (("shared", block.shared), ("pool", block.pool)):
                assert prompts is None or prompts.training is (name == trained)
        ones = torch.ones(10_000)
        prompts = Prompts(torch.nn.Parameter(ones))
        dropped = prompts(ones)
        assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.9])
        assert (dropped == 0).float().mean().item() == pytest.approx(0.1, abs=0.02)
        assert torch.equal(prompts.eval()(ones), ones)
        image = inputs(2)
        assert not torch.equal(network(image), network(image))
        assert torch.equal(network.eval()(image), network(image))


@pytest.mark.parametrize(("criterion", "weights"), [("logit_adjustment", None), ("cross_entropy", "sampling")])
def test_another_loss_for_rare_classes_is_refused(criterion: str, weights: str | None) -> None:
    chosen = build_criterion(criterion, weights, "abc", [3, 2, 1], 6)
    with pytest.raises(ValueError, match="'lpt' has a loss of its own for classes of unequal frequency"):
        phases(_network(), torch.tensor([0, 0, 0, 1, 1, 2]), chosen)
