from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn

from monai_rd.methods.base import Step
from monai_rd.methods.crd import ContrastiveDistillation
from tests.methods.steps import Head, assert_learns, assert_restores, ends, learnt, taught

# D of the student, C of the teacher, and CRD's parameters in millions for each pair.
STUDENTS = {"resnet18": 512, "mobilenet_v2": 1280, "shufflenet_v2_x1_0": 1024}
MILLIONS = {2048: (0.33, 0.43, 0.39), 1024: (0.20, 0.30, 0.26), 768: (0.16, 0.26, 0.23)}


def term(method: ContrastiveDistillation, pooled: Tensor, tap: Tensor, index: Tensor) -> Tensor:
    g = nn.Linear(pooled.shape[1], 2)
    return method(Step(learnt(pooled, g), taught(tap), Head(g), method.labels[index], index))["crd"]


Pair = tuple[Tensor, Tensor]


def literal(method: ContrastiveDistillation, banks: Pair, z: list[float], v: Pair, index: Tensor) -> float:
    """The formula for all items of other classes as negatives, item by item."""
    labels, total = method.labels, 0.0
    n = len(labels)
    for side in (0, 1):  # the student's items against the teacher's bank, then the other way round
        for b, place in enumerate(index.tolist()):
            score = [math.exp(float(v[side][b] @ banks[1 - side][i]) / 0.07) / z[side] for i in range(n)]
            negatives = [i for i in range(n) if labels[i] != labels[place]]
            noise = len(negatives) / n
            total -= math.log(score[place] / (score[place] + noise + 1e-7))
            total -= sum(math.log(noise / (score[i] + noise + 1e-7)) for i in negatives)
    return total / len(index)


def test_the_term_is_that_of_the_formula_in_the_first_batch_and_in_the_second() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1, 0, 1])
    method = ContrastiveDistillation(*ends(5, 4, labels=labels), width=3)
    assert method.negatives == 3
    z: list[float] = []
    for index in (torch.tensor([4, 1, 2]), torch.tensor([3, 2, 0])):
        pooled, tap = torch.randn(3, 4), torch.randn(3, 5, 2, 2)
        banks = method.student_bank.clone(), method.teacher_bank.clone()
        v_s = method.student_embedding(pooled).detach()
        v_t = method.teacher_embedding(tap.mean(dim=(2, 3))).detach()
        v = v_s / v_s.norm(dim=1, keepdim=True), v_t / v_t.norm(dim=1, keepdim=True)
        if not z:  # n times the mean over the positive and negative scores of the first batch
            for side in (0, 1):
                scores = [
                    math.exp(float(v[side][b] @ banks[1 - side][i]) / 0.07)
                    for b, place in enumerate(index.tolist())
                    for i in range(6)
                    if i == place or labels[i] != labels[place]
                ]
                z.append(6 * sum(scores) / len(scores))
        assert term(method, pooled, tap, index).item() == pytest.approx(literal(method, banks, z, v, index), rel=1e-4)
        torch.testing.assert_close(method.normaliser, torch.tensor(z))
        for bank, old, seen in zip((method.student_bank, method.teacher_bank), banks, v, strict=True):
            moved = 0.5 * old[index] + 0.5 * seen
            torch.testing.assert_close(bank[index], moved / moved.norm(dim=1, keepdim=True))
            others = [i for i in range(6) if i not in index]
            assert torch.equal(bank[others], old[others])


def test_negatives_are_of_other_classes_and_none_comes_twice() -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    method = ContrastiveDistillation(*ends(5, 4, labels=labels), negatives=10)
    index = torch.arange(12)
    drawn = method._draw(index)
    assert drawn.shape == (12, 10)
    assert not torch.equal(drawn, method._draw(index))
    for place, row in zip(index.tolist(), drawn.tolist(), strict=True):
        assert len(set(row)) == 10
        assert all(labels[i] != labels[place] for i in row)
    multi = ContrastiveDistillation(*ends(5, 4, labels=(torch.rand(9, 3) > 0.5).float()))
    for place, row in enumerate(multi._draw(torch.arange(9)).tolist()):
        assert sorted(row) == [i for i in range(9) if i != place]


def test_the_banks_are_as_large_as_the_list_and_stay_as_they_are_in_eval_mode() -> None:
    torch.manual_seed(0)
    method = ContrastiveDistillation(*ends(5, 4, labels=torch.arange(20) % 4))
    assert (method.negatives, method.student_bank.shape, method.teacher_bank.shape) == (15, (20, 128), (20, 128))
    before = method.student_bank.clone()
    term(method.eval(), torch.randn(3, 4), torch.randn(3, 5, 2, 2), torch.arange(3))
    assert torch.equal(method.student_bank, before)
    assert method.state_dict().keys() >= {"student_bank", "teacher_bank", "normaliser"}


@pytest.mark.parametrize("channels", MILLIONS)
def test_parameters_of_each_pair(channels: int) -> None:
    for (name, width), millions in zip(STUDENTS.items(), MILLIONS[channels], strict=True):
        method = ContrastiveDistillation(*ends(channels, width, labels=torch.tensor([0, 1])))
        assert round(sum(p.numel() for p in method.parameters()) / 1e6, 2) == millions, name


@pytest.mark.parametrize(("student", "amp"), [("small", True), ("small_3d", False), ("resnet18", False)])
def test_every_parameter_learns(student: str, amp: bool) -> None:
    assert_learns("crd", student, amp=amp)


def test_its_state_is_all_it_needs() -> None:
    assert_restores("crd")


def test_killed_and_resumed_is_the_unbroken_run(tiny_run: Callable[..., Any]) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    options = {"method": "crd", "negatives": 5, "max_epochs": 3}
    whole = tiny_run("whole", **options)
    whole.trainer.run()
    killed = tiny_run("killed", **options)
    killed.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), kill)
    with pytest.raises(KeyboardInterrupt):  # in the second epoch
        killed.trainer.run()
    resumed = tiny_run("killed", resume=True, **options)
    torch.manual_seed(12345)  # a new process has another random state
    resumed.trainer.run()
    for one, other in ((whole.method, resumed.method), (whole.network, resumed.network)):
        theirs = other.state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())
    assert whole.method.normaliser.all()


def test_what_cannot_work_is_refused() -> None:
    g = nn.Linear(4, 2)
    method = ContrastiveDistillation(*ends(5, 4, labels=torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="batches need its place in the training list as 'index'"):
        method(Step(learnt(torch.zeros(2, 4), g), taught(torch.zeros(2, 5, 2, 2)), Head(g), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="items of at least two classes"):
        ContrastiveDistillation(*ends(5, 4, labels=torch.zeros(3, dtype=torch.long)))
    with pytest.raises(ValueError, match="temperature above 0"):
        ContrastiveDistillation(*ends(5, 4, labels=torch.tensor([0, 1])), temperature=0)
