from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from monai_rd.losses import ClassificationLoss, cka
from monai_rd.methods import build_method, trainable_parameters
from monai_rd.methods.base import Step, gather_batch
from monai_rd.methods.ce import CrossEntropyAlone
from monai_rd.methods.rd import ReprogrammingDistillation
from monai_rd.networks import FrozenFoundationModel, Preprocessing, Student
from tests.methods.steps import SEVERAL, Head, ends, learnt, step, taught, tiny_teacher
from tests.processes import in_two_processes


def test_terms_are_those_of_equation_3() -> None:
    torch.manual_seed(0)
    method = ReprogrammingDistillation(*ends(5, 7), temperature=2.0, estimator="unbiased", width=8).eval()
    g, target = nn.Linear(7, 3), torch.tensor([0, 1, 2, 1, 0, 2])
    f_s, teacher = torch.randn(6, 7), torch.randn(6, 5, 4, 4)
    terms = method(Step(learnt(f_s, g), taught(teacher), Head(g), target))
    f_t = method.phi(teacher)
    z_t, z_s = g(f_t), g(f_s)
    p_t = (z_t / 2).softmax(1)
    kl = 4 * (p_t * (p_t.log() - (z_s / 2).softmax(1).log())).sum(1).mean()
    torch.testing.assert_close(terms["teacher_ce"], F.cross_entropy(z_t, target))
    torch.testing.assert_close(terms["kl"], kl)
    torch.testing.assert_close(terms["cka"], -cka(f_s, f_t, "unbiased"))


def test_each_of_several_teachers_learns_the_labels_and_their_mean_teaches() -> None:
    torch.manual_seed(0)
    method = ReprogrammingDistillation(*ends(8, 7, parts=(5, 3)), width=8).eval()
    g, target = nn.Linear(7, 3), torch.tensor([0, 1, 2, 1, 0, 2])
    f_s, teacher = torch.randn(6, 7), torch.randn(6, 8, 4, 4)
    terms = method(Step(learnt(f_s, g), taught(teacher), Head(g), target))
    first, second = method.phi.own[0](teacher[:, :5]), method.phi.own[1](teacher[:, 5:])
    f_t = (first + second) / 2
    z_t, z_s = g(f_t), g(f_s)
    each = (F.cross_entropy(g(first), target) + F.cross_entropy(g(second), target)) / 2
    torch.testing.assert_close(terms["teacher_ce"], each)
    torch.testing.assert_close(terms["kl"], F.kl_div(z_s.log_softmax(1), z_t.softmax(1), reduction="batchmean"))
    torch.testing.assert_close(terms["cka"], -cka(f_s, f_t))
    torch.testing.assert_close(method.teacher_path(Head(g))(teacher), z_t)


def test_multi_label_terms_are_by_class() -> None:
    torch.manual_seed(0)
    method = ReprogrammingDistillation(*ends(5, 7, labels=SEVERAL), width=8).eval()
    g, target = nn.Linear(7, 3), (torch.rand(6, 3) > 0.5).float()
    f_s, teacher = torch.randn(6, 7), torch.randn(6, 5, 4, 4)
    terms = method(Step(learnt(f_s, g), taught(teacher), Head(g), target, criterion=ClassificationLoss(True)))
    z_t = g(method.phi(teacher))
    p_t, p_s = z_t.sigmoid(), g(f_s).sigmoid()
    kl = p_t * (p_t / p_s).log() + (1 - p_t) * ((1 - p_t) / (1 - p_s)).log()
    torch.testing.assert_close(terms["kl"], kl.mean())
    torch.testing.assert_close(terms["teacher_ce"], F.binary_cross_entropy_with_logits(z_t, target))


def test_alpha_and_beta_fall_linearly() -> None:
    method = ReprogrammingDistillation(*ends(5, 7), alpha=(1.0, 0.0), beta=(2.0, 1.0))
    assert method.weights(0) == {"teacher_ce": 1, "kl": 2, "cka": 2}
    assert method.weights(0.25) == {"teacher_ce": 0.75, "kl": 1.75, "cka": 1.75}
    assert method.weights(1) == {"teacher_ce": 0, "kl": 1, "cka": 1}


@pytest.mark.parametrize(
    ("kind", "shape", "dims"), [("map", (8, 3, 5, 4, 4), 2), ("vector", (8, 3, 5), 2), ("map", (8, 5, 3, 4, 4), 3)]
)
def test_every_parameter_gets_a_gradient(kind: str, shape: tuple[int, ...], dims: int) -> None:
    torch.manual_seed(0)
    method = ReprogrammingDistillation(*ends(5, 7, kind=kind, dims=dims), width=8)
    g, f_s = nn.Linear(7, 2), torch.randn(8, 7, requires_grad=True)
    teacher = torch.randn(shape)
    sum(method(Step(learnt(f_s, g), taught(teacher, dims=dims), Head(g), torch.arange(8) % 2)).values()).backward()
    for name, parameter in [*method.named_parameters(), *g.named_parameters(), ("f_s", f_s)]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_detach_teacher_keeps_kl_and_cka_out_of_phi() -> None:
    torch.manual_seed(0)
    g, f_s, teacher, target = nn.Linear(7, 2), torch.randn(8, 7), torch.randn(8, 5, 4, 4), torch.arange(8) % 2
    for detach in (False, True):
        method = ReprogrammingDistillation(*ends(5, 7), detach_teacher=detach, width=8)
        terms = method(Step(learnt(f_s, g), taught(teacher), Head(g), target))
        (terms["kl"] + terms["cka"]).backward()
        assert any(parameter.grad is not None for parameter in method.parameters()) is not detach


@pytest.mark.parametrize("calibrated", [False, True])
def test_kl_sees_calibrated_logits_of_the_path_if_asked(calibrated: bool) -> None:
    torch.manual_seed(0)
    method = ReprogrammingDistillation(*ends(5, 7), calibrated=calibrated, width=8).eval()
    g, f_s, teacher, target = nn.Linear(7, 2), torch.randn(8, 7), torch.randn(8, 5, 4, 4), torch.arange(8) % 2
    seen = Step(learnt(f_s, g), taught(teacher), Head(g), target)
    first = method(seen)
    method.calibrate(3.0)
    second = method(seen)
    z_t, z_s = g(method.phi(teacher)), g(f_s)
    for t, terms in ((1, first), (3 if calibrated else 1, second)):
        p_t = (z_t / t).softmax(1)
        torch.testing.assert_close(terms["kl"], (p_t * (p_t.log() - z_s.log_softmax(1))).sum(1).mean())
        torch.testing.assert_close(terms["teacher_ce"], F.cross_entropy(z_t, target))
        torch.testing.assert_close(terms["cka"], first["cka"])
    kept = method.state_dict()["kl.teacher_temperature"]  # a resumed training goes on with it
    assert float(kept) == (3 if calibrated else 1)


def test_registry() -> None:
    student = Student("shufflenet_v2_x1_0", 3)
    plain = Preprocessing(None, (0.0,) * 3, (1.0,) * 3)
    teacher = FrozenFoundationModel(nn.Conv2d(3, 4, 1), channels=4, kind="map", preprocessing=plain, name="t")
    method = build_method("rd", student, teacher, [0, 1, 2], {"temperature": 4.0})
    assert isinstance(method, ReprogrammingDistillation)
    assert method.phi(torch.randn(2, 4, 3, 3)).shape == (2, 1024)
    assert isinstance(build_method("ce", student, None, [0, 1]), CrossEntropyAlone)
    with pytest.raises(ValueError, match=r"unknown method 'kd2'; known: rd, two_stages, ce"):
        build_method("kd2", student, teacher, [0, 1])
    with pytest.raises(ValueError, match="needs a teacher"):
        build_method("rd", student, None, [0, 1])
    with pytest.raises(ValueError, match="'ce' has no option temperature; it takes none"):
        build_method("ce", student, None, [0, 1], {"temperature": 4.0})
    with pytest.raises(ValueError, match="'rd' has no option tau; it takes alpha, beta, temperature"):
        build_method("rd", student, teacher, [0, 1], {"tau": 4.0})


def test_with_unlabelled_images_rd_keeps_its_path_to_itself_unless_told_otherwise() -> None:
    student, teacher = Student("shufflenet_v2_x1_0", 2), tiny_teacher()

    def settings(options: dict[str, Any], unlabelled: int | None) -> tuple[bool, float, bool]:
        rd = build_method("rd", student, teacher, [0, 1], options, unlabelled=unlabelled)
        assert isinstance(rd, ReprogrammingDistillation)
        return rd.detach_teacher, rd.weights(1.0)["kl"], rd.kl.calibrated

    assert settings({}, None) == settings({}, 0) == (False, 0.0, False)  # as published
    assert settings({}, 4) == (True, 1.0, True)
    assert settings({"beta": [1, 0]}, 4) == (True, 0.0, True)
    assert settings({"detach_teacher": False, "beta": [1, 0], "calibrated": False}, 4) == (False, 0.0, False)


def test_ablations_leave_their_term_out() -> None:
    torch.manual_seed(0)
    g, f_s, teacher, target = nn.Linear(7, 2), torch.randn(8, 7), torch.randn(8, 5, 4, 4), torch.arange(8) % 2
    for option, term in (("co_training", "teacher_ce"), ("kd", "kl"), ("cka", "cka")):
        method = ReprogrammingDistillation(*ends(5, 7), width=8, **{option: False})  # type: ignore[arg-type]
        terms = method(Step(learnt(f_s, g), taught(teacher), Head(g), target))
        assert terms.keys() == method.weights(0).keys() == {"teacher_ce", "kl", "cka"} - {term}
    with pytest.raises(ValueError, match="teaches nothing"):
        ReprogrammingDistillation(*ends(5, 7), co_training=False, kd=False, cka=False)


def test_a_step_of_a_real_student() -> None:
    torch.manual_seed(0)
    student, teacher = Student("resnet18", 2), tiny_teacher()
    method = build_method("rd", student, teacher, [0, 1])
    terms = step(method, student, teacher, torch.rand(4, 2, 3, 32, 32), torch.tensor([0, 1, 0, 1]))
    assert terms.keys() == {"teacher_ce", "kl", "cka"}


def test_the_optimizer_gets_student_and_phi_and_nothing_of_the_teacher() -> None:
    student = nn.Linear(3, 4)
    method = ReprogrammingDistillation(*ends(5, 4), width=8)
    found = {id(p) for p in trainable_parameters(student, method)}
    assert found == {id(p) for p in [*student.parameters(), *method.parameters()]}


def _rank(rank: int, folder: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(12, 6), torch.randn(12, 5)
    weight = nn.Parameter(torch.eye(6))
    model = nn.parallel.DistributedDataParallel(_Map(weight))
    mine = slice(6 * rank, 6 * rank + 6)
    value = cka(gather_batch(model(x[mine])), gather_batch(y[mine]), "unbiased")
    value.backward()
    torch.save({"value": value.detach(), "grad": weight.grad}, folder / f"{rank}.pt")


class _Map(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


@pytest.mark.slow
def test_cka_over_two_processes_is_that_of_the_global_batch(tmp_path: Path) -> None:
    """Value and DDP's averaged gradient equal those of one process with the whole batch."""
    in_two_processes(_rank, tmp_path)
    torch.manual_seed(0)
    x, y = torch.randn(12, 6), torch.randn(12, 5)
    weight = torch.eye(6, requires_grad=True)
    value = cka(x @ weight, y, "unbiased")
    value.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["value"], value.detach())
        torch.testing.assert_close(found["grad"], weight.grad)
