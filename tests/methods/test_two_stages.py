from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.losses import cka
from monai_rd.methods import distributed
from monai_rd.methods.base import Step
from monai_rd.methods.two_stages import TwoStages
from tests.methods.steps import Head, assert_learns, assert_restores, ends, learnt, taught
from tests.processes import in_two_processes

Run = Callable[..., Any]
OPTIONS: dict[str, Any] = {"method": "two_stages", "width": 8, "blocks": 1, "max_epochs": 4}  # epochs 3 and 4: stage 2


def _state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_the_loss_of_each_stage() -> None:
    torch.manual_seed(0)
    g, f_s, teacher, target = nn.Linear(7, 3), torch.randn(6, 7), torch.randn(6, 5, 4, 4), torch.arange(6) % 3
    method = TwoStages(*ends(5, 7, classifier=g), width=8, beta=(2.0, 1.0)).eval()
    torch.testing.assert_close(method.classifier(f_s), g(f_s))
    nn.init.normal_(method.classifier.weight)
    assert not method.always_trains_student  # labels alone would teach the first half nothing
    assert method.weights(0.0) == method.weights(0.49) == {"student_ce": 0, "teacher_ce": 1, "kl": 0, "cka": 0}
    assert method.weights(0.5) == {"student_ce": 1, "teacher_ce": 0, "kl": 2, "cka": 2}
    assert method.weights(0.75) == {"student_ce": 1, "teacher_ce": 0, "kl": 1.5, "cka": 1.5}
    assert method.weights(1.0) == {"student_ce": 1, "teacher_ce": 0, "kl": 1, "cka": 1}
    terms = method(Step(learnt(f_s, g), taught(teacher), Head(g), target))
    f_t = method.phi(teacher)
    z_t = method.classifier(f_t)
    kl = (z_t.softmax(1) * (z_t.log_softmax(1) - g(f_s).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(terms, {"teacher_ce": F.cross_entropy(z_t, target), "kl": kl, "cka": -cka(f_s, f_t)})
    assert [name for name, term in terms.items() if term.requires_grad] == ["teacher_ce"]
    torch.testing.assert_close(method.teacher_path(Head(g))(teacher), z_t)
    method.start_epoch(0.5, Head(g))
    terms = method(Step(learnt(f_s.requires_grad_(), g), taught(teacher), Head(g), target))
    assert [name for name, term in terms.items() if term.requires_grad] == ["kl", "cka"]


def test_of_several_teachers_each_learns_the_labels() -> None:
    torch.manual_seed(0)
    g, f_s, teacher, target = nn.Linear(7, 3), torch.randn(6, 7), torch.randn(6, 8, 4, 4), torch.arange(6) % 3
    method = TwoStages(*ends(8, 7, classifier=g, parts=(5, 3)), width=8).eval()
    terms = method(Step(learnt(f_s, g), taught(teacher), Head(g), target))
    each = [method.phi.own[0](teacher[:, :5]), method.phi.own[1](teacher[:, 5:])]
    alone = [F.cross_entropy(method.classifier(f), target) for f in each]
    torch.testing.assert_close(terms["teacher_ce"], torch.stack(alone).mean())
    torch.testing.assert_close(terms["cka"], -cka(f_s, torch.stack(each).mean(dim=0)))


def test_what_a_stage_does_not_teach_stands_still_whatever_the_optimizer_remembers(tiny_run: Run) -> None:
    run = tiny_run(**OPTIONS)
    begun, seen = _state(run.network), []

    @run.trainer.on(Events.EPOCH_COMPLETED)
    def look(engine: Any) -> None:
        seen.append((_state(run.network), _state(run.method)))

    run.trainer.run()
    trained = {name for name, _ in run.network.named_parameters()}
    students, methods = zip(*seen, strict=True)
    for student in students[:2]:
        assert _same({name: begun[name] for name in trained}, student)
    assert not _same(methods[0], methods[1])
    assert _same(methods[1], {**methods[2], "handed_over": torch.tensor(False)})
    assert _same(methods[2], methods[3])
    assert not _same({name: students[2][name] for name in trained}, students[3])
    # The student's steps are counted from its own first one: an optimizer that had seen gradients of 0 would leap.
    steps = {int(run.optimizer.state[parameter]["step"]) for parameter in run.network.parameters()}
    assert steps == {2 * len(run.loader)}


def test_the_student_begins_with_the_classifier_that_the_teacher_path_learnt(tiny_run: Run) -> None:
    run, seen = tiny_run(**OPTIONS), []
    run.trainer.add_event_handler(
        Events.ITERATION_STARTED,
        lambda engine: seen.append(_same(_state(run.network.classifier), _state(run.method.classifier))),
    )
    run.trainer.run()
    steps = len(run.loader)
    assert seen[0]  # both are the student's as it was made
    assert seen[1 : 2 * steps + 2] == [False] * (2 * steps - 1) + [True, False]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_killed_and_resumed_is_the_unbroken_run(after: int, tiny_run: Run) -> None:
    """In the first stage, between both, and in the second."""

    def kill() -> None:
        raise KeyboardInterrupt

    whole = tiny_run("whole", **OPTIONS)
    whole.trainer.run()
    killed = tiny_run("killed", **OPTIONS)
    killed.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=after * len(killed.loader) + 1), kill)
    with pytest.raises(KeyboardInterrupt):
        killed.trainer.run()
    resumed = tiny_run("killed", resume=True, **OPTIONS)
    torch.manual_seed(12345)
    resumed.trainer.run()
    assert resumed.trainer.state.epoch == 4
    for one, other in ((whole.method, resumed.method), (whole.network, resumed.network)):
        assert _same(_state(one), _state(other))


class _Student(nn.Module):
    """Features as they are given, scaled by what it learns, and g."""

    spatial_dims = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.classifier = nn.Parameter(torch.ones(7)), nn.Linear(7, 2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        pooled = features * self.scale
        return pooled, self.classifier(pooled)


def _train(rank: int, folder: Path) -> None:
    """Two steps of each stage, as the handler makes them; every process has the same batch."""
    torch.manual_seed(0)
    student: Any = _Student()
    method = TwoStages(*ends(5, 7, classifier=student.classifier), width=8)
    features, teacher, target = torch.randn(4, 7), torch.randn(4, 5, 4, 4), torch.arange(4) % 2
    network, wrapped = distributed(student, torch.device("cpu")), distributed(method, torch.device("cpu"))
    optimizer = torch.optim.AdamW([*student.parameters(), *method.parameters()], lr=0.01)
    states = []
    for progress in (0.0, 0.5):
        method.start_epoch(progress, student)
        weights = method.weights(progress)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=False)
            pooled, logits = network(features)
            seen = learnt(pooled, student.classifier)._replace(logits=logits)
            terms = wrapped(Step(seen, taught(teacher), student, target))
            loss = weights["student_ce"] * F.cross_entropy(logits, target)
            (loss + sum(weights[name] * term for name, term in terms.items())).backward()
            for parameter in method.frozen_parameters(student):
                parameter.grad = None
            optimizer.step()
        states.append([_state(student), _state(method)])
    torch.save(states, folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    in_two_processes(_train, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for (one, one_method), (other, other_method) in zip(first, second, strict=True):
        assert _same(one, other)
        assert _same(one_method, other_method)
    (before, frozen), (after, still) = first
    assert torch.equal(before["scale"], torch.ones(7))
    assert not torch.equal(after["scale"], torch.ones(7))
    assert _same(frozen, {**still, "handed_over": torch.tensor(False)})


@pytest.mark.parametrize(("student", "amp"), [("small", True), ("small_3d", False), ("resnet18", False)])
def test_every_parameter_learns(student: str, amp: bool) -> None:
    assert_learns("two_stages", student, amp=amp)


def test_its_state_is_all_it_needs() -> None:
    assert_restores("two_stages")
