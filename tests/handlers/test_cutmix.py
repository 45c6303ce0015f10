"""What CutMix makes of a batch: images, labels, and what the teacher made of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from monai_rd.handlers import CutMixHandler
from monai_rd.handlers.watch import _Tally
from monai_rd.losses import ClassificationLoss
from monai_rd.methods import METHODS
from monai_rd.no_label import NO_LABEL, unlabelled_items

LABELLED, UNLABELLED = 4, 6


class _Method(torch.nn.Module):
    takes_mixed = True


def mixed(batches: list[dict[str, Any]], start: int = 0, **settings: Any) -> list[dict[str, Any]]:
    """The batches as a step sees them; `start` steps were done before."""
    seen: list[dict[str, Any]] = []
    engine = Engine(lambda engine, batch: None)
    CutMixHandler(_Method(), **{"num_classes": 3, "seed": 5, **settings}).attach(engine)
    engine.state.iteration = start
    for batch in batches:  # a run would begin to count anew
        engine.state.batch = batch
        engine.state.iteration += 1
        engine.fire_event(Events.ITERATION_STARTED)
        seen.append(engine.state.batch)
    return seen


def batch_of(shape: tuple[int, ...] = (3, 16, 16)) -> dict[str, Any]:
    """Every item is a constant: its place in the batch."""
    number = torch.arange(LABELLED + UNLABELLED).float()

    def filled(*own: int) -> Tensor:
        return number.reshape(-1, *[1] * len(own)).expand(-1, *own).clone()

    label = torch.tensor([0, 1, 2, 1] + [NO_LABEL] * UNLABELLED)
    features = {"maps.0": filled(5, 4, 4), "maps.1": filled(7, 8, 8), "tap": filled(2, 6)}
    return {"image": filled(*shape), "teacher_image": filled(3, 32, 32), "label": label, "teacher_features": features}


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 3, 16, 16), (1, 4, 16, 16)])
def test_a_box_of_another_item_of_the_same_kind(shape: tuple[int, ...]) -> None:
    areas = set()
    for step in range(12):
        batch = batch_of(shape)
        (found,) = mixed([batch], start=step)
        image = found["image"]
        assert image.shape == batch["image"].shape
        shares = []
        for place, one in enumerate(image):
            others = [int(value) for value in one.unique() if value != place]
            assert len(others) <= 1
            partner = others[0] if others else place
            assert (partner < LABELLED) == (place < LABELLED)
            share = float((one == partner).float().mean()) if others else 0.0
            shares.append(share)
            # The same box in the teacher's image and in its maps, whatever their size; vectors by its area.
            own = found["teacher_features"]
            for other in (found["teacher_image"][place], own["maps.0"][place], own["maps.1"][place]):
                assert float((other != place).float().mean()) == pytest.approx(share)
            small = torch.nn.functional.interpolate(one.reshape(-1, 1, 16, 16)[:1], size=(4, 4), mode="nearest")
            assert torch.equal(small[0, 0], own["maps.0"][place][0])
            torch.testing.assert_close(own["tap"][place], torch.full((2, 6), place + share * (partner - place)))
            if place < LABELLED:
                wanted = torch.zeros(3)
                wanted[batch["label"][place]] += 1 - share
                wanted[batch["label"][partner]] += share
                torch.testing.assert_close(found["label"][place], wanted)
        assert len({share for share in shares if share}) == 1
        areas.add(max(shares))
        assert unlabelled_items(found["label"]).tolist() == [False] * LABELLED + [True] * UNLABELLED
    assert areas == {1 / 16, 4 / 16, 9 / 16}


def test_boxes_follow_from_seed_and_step() -> None:
    whole = mixed([batch_of() for _ in range(6)])
    rest = mixed([batch_of() for _ in range(3)], start=3)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(whole[3:], rest, strict=True))
    other = mixed([batch_of() for _ in range(6)], seed=6)
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(whole, other, strict=True))
    assert len({one["image"].numpy().tobytes() for one in whole}) == 6


def test_logits_are_mixed_as_probabilities() -> None:
    batch = batch_of()
    logits = torch.randn(LABELLED + UNLABELLED, 3)
    batch["teacher_features"] = {"logits": logits}
    (found,) = mixed([batch])
    share = float((found["image"][:LABELLED] != batch["image"][:LABELLED]).float().mean(dim=(1, 2, 3)).max())
    p = found["teacher_features"]["logits"].softmax(dim=1)
    for place in range(LABELLED):
        partner = int(found["image"][place].max()) if found["image"][place].max() != place else None
        partner = int(found["image"][place].min()) if partner is None else partner
        wanted = torch.lerp(logits[place].softmax(0), logits[partner].softmax(0), share if partner != place else 0)
        torch.testing.assert_close(p[place], wanted)


def test_several_labels_an_image() -> None:
    batch = batch_of()
    label = torch.randint(0, 2, (LABELLED + UNLABELLED, 3)).float()
    label[LABELLED:] = NO_LABEL
    label[1, 2] = NO_LABEL  # nothing is known of this class
    batch["label"] = label
    for step in range(6):
        (found,) = mixed([batch], start=step, multi_label=True)
        made = found["label"]
        assert torch.equal(unlabelled_items(made), unlabelled_items(label))
        known = made[made != NO_LABEL]
        assert ((known >= 0) & (known <= 1)).all()
        assert made[1, 2] == NO_LABEL
    assert torch.isfinite(ClassificationLoss(multi_label=True)(torch.randn(10, 3), made))


def test_a_view_that_no_teacher_saw_and_a_batch_without_features() -> None:
    for features in ({}, None):
        batch = batch_of()
        batch.pop("teacher_features")
        if features is not None:
            batch["teacher_features"] = features
        (found,) = mixed([batch])
        assert found.get("teacher_features") == features
        assert not torch.equal(found["image"], batch["image"])


def test_the_loss_of_shares_is_the_mean_of_the_losses() -> None:
    loss, logits = ClassificationLoss(), torch.randn(5, 3, requires_grad=True)
    first, second = torch.tensor([0, 1, 2, NO_LABEL, NO_LABEL]), torch.tensor([1, 1, 0, NO_LABEL, NO_LABEL])
    shares = torch.full((5, 3), float(NO_LABEL))
    shares[:3] = torch.lerp(torch.eye(3)[first[:3]], torch.eye(3)[second[:3]], 0.25)
    found = loss(logits, shares)
    torch.testing.assert_close(found, 0.75 * loss(logits, first) + 0.25 * loss(logits, second))
    found.backward()
    assert logits.grad is not None
    assert logits.grad[3:].abs().max() == 0
    assert loss(logits, torch.full((5, 3), float(NO_LABEL))) == 0
    with pytest.raises(ValueError, match="do not fit"):
        loss(logits, torch.zeros(5, 2))
    with pytest.raises(ValueError, match="do not fit"):
        loss(logits, torch.tensor([[1.0, 1, 0]] * 5))  # several classes each


def test_a_mixture_counts_for_its_larger_part() -> None:
    tally = _Tally(3, False, torch.device("cpu"))
    shares = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.4375, 0.5625], [NO_LABEL] * 3])
    tally.add(torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]]), shares)
    found = tally.read()
    assert found["accuracy"] == 0.5
    assert found["unlabelled_confidence"] is not None


def test_a_method_that_compares_single_images_is_refused() -> None:
    assert [name for name, method in METHODS.items() if not method.takes_mixed] == ["crd"]
    method = _Method()
    method.takes_mixed = False
    with pytest.raises(ValueError, match="cutmix"):
        CutMixHandler(method, 2)
