"""Grad-CAM of bags, volumes and tokens; what slices say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.visualize import GradCAM
from torch import nn

from monai_rd.networks import Student
from monai_rd.report.gallery import choose, slices_and_place
from monai_rd.report.gradcam import Explanation, explain, grad_cam_level
from tests.small import SMALL


def student(name: str = SMALL, classes: int = 3) -> Student:
    torch.manual_seed(0)
    return Student(name, classes).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


class AgainstTheOthers(nn.Module):
    """Each logit less the mean of the others."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.network(image)
        return torch.stack([logits[:, c] - logits[:, torch.arange(3) != c].mean(dim=1) for c in range(3)], dim=1)


@pytest.mark.parametrize("multi_label", [True, False])
def test_of_one_image_it_is_monais(multi_label: bool) -> None:
    network, image = student(), noise(1, 3, 96, 96)
    level = grad_cam_level(network, image)
    found = explain(network, image, level, multi_label)
    wrapped = (nn.Sequential(network) if multi_label else AgainstTheOthers(network)).eval()
    path = f"{'0' if multi_label else 'network'}.backbone.{level.module}"
    monais = GradCAM(wrapped, path, postprocessing=lambda cam: cam)(image, found.chosen)[0, 0]
    assert monais.max() > 0
    torch.testing.assert_close(found.heat[0], (monais / monais.max()).detach(), atol=1e-5, rtol=1e-4)
    assert found.grid == (3, 3)
    expected = network(image).sigmoid() if multi_label else network(image).softmax(1)
    torch.testing.assert_close(found.probabilities, expected[0].detach())


def test_heat_does_not_hang_on_what_all_logits_share() -> None:
    network, image = student(), noise(1, 3, 96, 96)
    level = grad_cam_level(network, image)
    before = explain(network, image, level)
    with torch.no_grad():
        network.classifier.weight -= 1  # every logit falls by the same: the probabilities stay
    after = explain(network, image, level)
    torch.testing.assert_close(after.probabilities, before.probabilities, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.heat, before.heat, atol=1e-4, rtol=1e-4)


def test_the_logits_of_a_study_are_the_mean_of_its_slices() -> None:
    network, bag = student(), noise(1, 5, 3, 64, 64)
    found = explain(network, bag, grad_cam_level(network, bag))
    assert found.slices.shape == (5, 3)
    alone = torch.cat([network(bag[:, index]) for index in range(5)]).detach()
    torch.testing.assert_close(found.slices, alone.softmax(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.probabilities, alone.mean(0).softmax(0), atol=1e-5, rtol=1e-4)
    assert found.heat.shape == (5, 64, 64)
    assert found.heat.min() >= 0
    assert found.heat.max() == 1


def test_heat_lies_where_the_student_looked() -> None:
    """A student that sees nothing but redness, and of it only in the third slice's corner."""
    network, bag = student("resnet18"), torch.zeros(1, 4, 3, 64, 64)
    bag[0, 2, 0, :32, :32] = 1
    conv = torch.nn.Conv2d(3, 512, 8, 8, bias=False)
    with torch.no_grad():
        conv.weight.zero_()[:, 0] = 1 / 64
        network.classifier.weight.zero_()[1] = 1
        network.classifier.bias.zero_()
    network.mean, network.std = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    network.backbone = torch.nn.Sequential(conv, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network.stages = ["0"]
    found = explain(network, bag, grad_cam_level(network, bag))
    assert found.chosen == 1
    assert found.slices[:, 1].argmax() == 2
    assert found.heat[2, :28, :28].min() == 1
    assert found.heat[2, 36:, 36:].max() == 0
    assert found.heat[[0, 1, 3]].max() == 0


@pytest.mark.slow
def test_a_volume() -> None:
    network, image = student("resnet10_3d"), noise(1, 1, 32, 64, 64)
    found = explain(network, image, grad_cam_level(network, image))
    assert found.grid == (2, 4, 4)
    assert found.heat.shape == (32, 64, 64)
    assert found.heat.max() == 1
    assert found.slices is None


def test_tokens_that_the_logits_do_not_read_are_passed_over() -> None:
    """Of a ViT that reads its class token the patch tokens of the last block have no gradient."""
    network, image = student("timm:vit_tiny_patch16_224"), noise(1, 2, 3, 224, 224)
    level = grad_cam_level(network, image)
    assert level.module == "blocks.8"
    found = explain(network, image, level)
    assert found.grid == (14, 14)
    assert found.heat.shape == (2, 224, 224)
    assert found.heat.max() == 1


def test_without_a_map_there_are_probabilities_alone() -> None:
    found = explain(student(), noise(1, 3, 64, 64), None)
    assert found.heat is None
    assert found.grid == ()
    assert found.probabilities.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="one item"):
        explain(student(), noise(2, 3, 64, 64), None)


def test_nothing_stays_in_the_network() -> None:
    network, image = student(), noise(1, 3, 64, 64)
    explain(network, image, grad_cam_level(network, image))
    assert all(p.grad is None for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_the_gallery_shows_sure_and_unsure_right_and_wrong() -> None:
    sure = np.array([0.99, 0.51, 0.9, 0.6, 0.97, 0.55, 0.8, 0.7])
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0])  # the last four are wrong
    shown = choose(np.stack([1 - sure, sure], axis=1), labels, multi_label=False)
    assert [one.row for one in shown] == [0, 2, 1, 3, 5, 7, 4, 6]
    assert [one.kind for one in shown[::2]] == [
        "right, surest",
        "right, least sure",
        "wrong, least sure",
        "wrong, surest",
    ]
    few = choose(np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]), np.array([1, 1, 1]), multi_label=False)
    assert [one.row for one in few] == [0, 1, 2]


def test_the_gallery_of_multi_label_data() -> None:
    labels = np.eye(10)[:, :4]
    probabilities = np.abs(labels - np.linspace(0, 0.9, 10)[:, None])
    shown = choose(probabilities, labels, multi_label=True)
    assert [one.row for one in shown] == [0, 1, 2, 3, 9, 8, 7, 6]


def test_the_slice_of_a_volume_that_is_shown_is_none_of_the_empty_space_around_it() -> None:
    windows = torch.zeros(2, 4, 8, 8)  # the second window ends in empty space
    windows[0, 1:, 2:6, 2:6] = 0.5
    windows[1, :2, 2:6, 2:6] = 0.5
    heat = torch.zeros(8, 8, 8)
    heat[7] = 1.0
    heat[4] = 0.5
    found = Explanation(torch.tensor([0.3, 0.7]), 1, heat, (2, 2, 2), None)
    slices, place = slices_and_place(windows, found)
    assert (slices.shape, place) == ((8, 1, 8, 8), 4)
    assert slices_and_place(windows, found._replace(heat=None))[1] == 4
