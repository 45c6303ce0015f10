from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.losses import cka
from monai_rd.methods import build_method
from monai_rd.methods.base import Step
from monai_rd.methods.drd import DeepReprogrammingDistillation, _as_output
from monai_rd.networks import Level, Student, StudentFeatures
from monai_rd.networks.levels import LevelReader, as_map
from tests.methods.steps import assert_learns, assert_restores, ends, step, tiny_teacher


def test_the_terms_are_those_of_the_rest_of_the_student() -> None:
    """A ResNet-18's stages written out, in training mode, on bags of two slices."""
    torch.manual_seed(0)
    student, teacher = Student("resnet18", 3), tiny_teacher()
    method = build_method("drd", student, teacher, [0, 1, 2], {"width": 16})
    assert isinstance(method, DeepReprogrammingDistillation)
    assert [level.stride for level in method.student_levels] == [4, 8, 16, 32]
    assert [level.stride for level in method.reads.levels] == [4, 8, 8, 8]
    image, target = torch.rand(4, 2, 3, 64, 64), torch.tensor([0, 1, 2, 1])
    copied = deepcopy(student)
    terms = step(method, student, teacher, image, target)

    net = copied.backbone
    x = (image.flatten(0, 1) - copied.mean) / copied.std
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))  # type: ignore[operator]
    own: list[Tensor] = [x := layer(x) for layer in (net.layer1, net.layer2, net.layer3, net.layer4)]  # type: ignore[operator]

    def pooled(maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3)).reshape(4, 2, -1).mean(dim=1)

    z_s = copied.classifier(pooled(own[3])).detach()
    maps = teacher.read(image, method.reads).maps
    wanted = {"hybrid_ce": 0.0, "kl": 0.0, "cka": 0.0}
    for i in range(4):
        made = method.projectors[i](maps[i], own[i].shape[2:]).detach()
        assert made.shape == own[i].shape
        wanted["cka"] -= float(cka(pooled(own[i]).detach(), pooled(made)))
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4)[i + 1 :]:
            made = layer(made)  # type: ignore[operator]
        z_i = copied.classifier(pooled(made)).detach()
        p = z_i.softmax(1)
        wanted["kl"] += float((p * (p.log() - z_s.log_softmax(1))).sum(1).mean())
        wanted["hybrid_ce"] += float(F.cross_entropy(z_i, target))
    for name, value in wanted.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_the_students_own_pass_its_buffers_and_modes_are_left_alone() -> None:
    torch.manual_seed(0)
    student, teacher = Student("shufflenet_v2_x1_0", 2), tiny_teacher()
    student.backbone.stage2.eval()  # type: ignore[union-attr]  # a part that is not trained stays so
    method = build_method("drd", student, teacher, [0, 1])
    image, target = torch.rand(8, 3, 64, 64), torch.arange(8) % 2
    reference = deepcopy(student)
    F.cross_entropy(reference(image), target).backward()
    with LevelReader(student.backbone, method.student_levels) as reader:
        pooled = student.features(image)
        seen = StudentFeatures(image, pooled, student.classifier(pooled), reader.take())
    own = F.cross_entropy(seen.logits, target)
    buffers = {name: value.clone() for name, value in student.named_buffers()}
    modes = [module.training for module in student.modules()]
    terms = method(Step(seen, teacher.read(image, method.reads), student, target))
    assert all(torch.equal(value, buffers[name]) for name, value in student.named_buffers())
    assert modes == [module.training for module in student.modules()]
    assert all(m.track_running_stats for m in student.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(module._forward_hooks for module in student.modules())
    assert torch.is_grad_enabled()
    (own + 0 * sum(terms.values())).backward()  # type: ignore[operator]
    for (name, found), wanted in zip(student.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, msg=name)


def test_a_hybrid_teaches_what_lies_behind_its_stage_and_nothing_before() -> None:
    torch.manual_seed(0)
    student, teacher = Student("shufflenet_v2_x1_0", 2), tiny_teacher()
    method = build_method("drd", student, teacher, [0, 1])
    pair = method.student_levels[1], method.reads.levels[1]
    method = DeepReprogrammingDistillation(*ends(pairs=[pair]))
    step(method, student, teacher, torch.rand(8, 3, 64, 64), torch.arange(8) % 2)["hybrid_ce"].backward()
    learning = {name.split(".")[1] for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {"stage4", "conv5", "weight", "bias"}
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())


@pytest.mark.parametrize(("student", "amp"), [("small", True), ("small_3d", False), ("mobilenet_v2", False)])
def test_every_parameter_learns(student: str, amp: bool) -> None:
    assert_learns("drd", student, {"width": 32}, amp=amp)


def test_its_state_is_all_it_needs() -> None:
    assert_restores("drd", {"width": 32})


@pytest.mark.parametrize(("layout", "prefix"), [("map", 0), ("channels last", 0), ("tokens", 2)])
def test_a_map_goes_back_in_the_form_it_was_read(layout: Any, prefix: int) -> None:
    level = Level("stage", 3, 8, 1.0, signed=True, layout=layout, prefix=prefix)
    maps = torch.rand(2, 3, 4, 4)
    output = {"map": torch.rand(2, 3, 4, 4), "channels last": torch.rand(2, 4, 4, 3), "tokens": torch.rand(2, 18, 3)}
    put = _as_output(maps, level, output[layout])
    assert put.shape == output[layout].shape
    assert torch.equal(as_map(put, level, (32, 32)), maps)
    assert torch.equal(put[:, :prefix], output[layout][:, :prefix])


def test_alpha_and_beta_fall_and_cka_stays() -> None:
    method = DeepReprogrammingDistillation(*ends(pairs=[(Level("a", 1, 4, 1, True),) * 2]), beta=(2.0, 1.0))
    assert method.weights(0) == {"hybrid_ce": 1, "kl": 2, "cka": 1}
    assert method.weights(0.25) == {"hybrid_ce": 0.75, "kl": 1.75, "cka": 1}
    assert method.weights(1) == {"hybrid_ce": 0, "kl": 1, "cka": 1}


def test_several_classes_an_image() -> None:
    torch.manual_seed(0)
    student, teacher = Student("shufflenet_v2_x1_0", 3), tiny_teacher()
    target = (torch.rand(4, 3) > 0.5).float()
    method = build_method("drd", student, teacher, target.tolist())
    assert all(term.isfinite() for term in step(method, student, teacher, torch.rand(4, 3, 32, 32), target).values())
