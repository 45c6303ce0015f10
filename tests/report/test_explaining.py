"""Grad-CAM of bags, volumes and tokens; occlusion where its map is too coarse; what slices say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.visualize import GradCAM
from torch import nn

from monai_rd.networks import Student
from monai_rd.report.explaining import explain, grad_cam_level, occlusion
from monai_rd.report.gallery import choose, slices_of
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
    network, image = student(), noise(1, 3, 128, 128)
    level = grad_cam_level(network, image)
    found = explain(network, image, level, multi_label)
    wrapped = (nn.Sequential(network) if multi_label else AgainstTheOthers(network)).eval()
    path = f"{'0' if multi_label else 'network'}.backbone.{level.module}"
    monais = GradCAM(wrapped, path, postprocessing=lambda cam: cam)(image, found.chosen)[0, 0]
    assert monais.max() > 0
    torch.testing.assert_close(found.heat, (monais / monais.max()).detach(), atol=1e-5, rtol=1e-4)
    assert (found.method, found.grid) == ("Grad-CAM", (4, 4))
    expected = network(image).sigmoid() if multi_label else network(image).softmax(1)
    torch.testing.assert_close(found.probabilities, expected[0].detach())


@pytest.mark.parametrize("side", [64, 128])
def test_heat_does_not_hang_on_what_all_logits_share(side: int) -> None:
    network, image = student(), noise(1, 3, side, side)
    level = grad_cam_level(network, image)
    before = explain(network, image, level)
    with torch.no_grad():
        network.classifier.weight -= 1  # every logit falls by the same: the probabilities stay
    after = explain(network, image, level)
    torch.testing.assert_close(after.probabilities, before.probabilities, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.heat, before.heat, atol=1e-3, rtol=1e-3)


def test_the_logits_of_a_study_are_the_mean_of_its_slices() -> None:
    network, bag = student(), noise(1, 5, 3, 64, 64)
    found = explain(network, bag, grad_cam_level(network, bag))
    assert found.slices.shape == (5, 3)
    alone = torch.cat([network(bag[:, index]) for index in range(5)]).detach()
    torch.testing.assert_close(found.slices, alone.softmax(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.probabilities, alone.mean(0).softmax(0), atol=1e-5, rtol=1e-4)
    assert found.place == int(found.slices[:, found.chosen].argmax())
    assert found.heat.shape == (64, 64)
    assert found.heat.min() >= 0
    assert found.heat.max() == 1


def of_redness() -> Student:
    """A student that sees nothing but redness."""
    network = student("resnet18")
    conv = torch.nn.Conv2d(3, 512, 8, 8, bias=False)
    with torch.no_grad():
        conv.weight.zero_()[:, 0] = 1 / 64
        network.classifier.weight.zero_()[1] = 1
        network.classifier.bias.zero_()
    network.mean, network.std = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    network.backbone = torch.nn.Sequential(conv, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network.stages = ["0"]
    return network


@pytest.mark.parametrize("method", ["Grad-CAM", "occlusion"])
def test_heat_lies_where_the_student_looked(method: str) -> None:
    """Redness in the third slice's corner alone."""
    network, bag = of_redness(), torch.zeros(1, 4, 3, 64, 64)
    bag[0, 2, 0, :32, :32] = 1
    found = explain(network, bag, grad_cam_level(network, bag) if method == "Grad-CAM" else None)
    assert (found.method, found.chosen, found.place) == (method, 1, 2)
    assert found.slices[:, 1].argmax() == 2
    assert found.heat[:20, :20].min() > 0.5
    assert int(found.heat.flatten().argmax()) // 64 < 32 > int(found.heat.flatten().argmax()) % 64
    assert found.heat[44:, 44:].max() == 0


def test_a_map_too_coarse_to_point_gives_way_to_occlusion() -> None:
    """The last map of a ResNet18 has 2 x 2 positions of 64 pixels, 4 x 4 of 128."""
    network = student()
    assert grad_cam_level(network, noise(1, 3, 128, 128)) is not None
    assert grad_cam_level(network, noise(1, 3, 127, 96)) is None
    found = explain(network, image := noise(1, 3, 64, 64), grad_cam_level(network, image))
    assert (found.method, found.grid) == ("occlusion", (9, 9))


def test_occlusion_lets_others_pass_between_its_steps_and_may_be_ended() -> None:
    network, image, passed = student(), noise(1, 3, 64, 64), list[int]()
    found = explain(network, image, None, between=lambda: passed.append(0))
    torch.testing.assert_close(found.heat, explain(network, image, None).heat)
    assert len(passed) > 1

    def end() -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        explain(network, image, None, between=end)


@pytest.mark.parametrize("shape", [(3, 40, 56), (24, 40, 32)])
def test_occlusion_is_the_fall_of_the_score_patch_by_patch(shape: tuple[int, ...]) -> None:
    """Of one bright spot: warm where patches cover it, nowhere else; the image is left as it was."""
    dims = 2 if shape[0] == 3 else 3
    image = torch.zeros(shape)
    image[(..., *[slice(0, 4)] * dims)] = 1
    before = image.clone()
    found = occlusion(lambda images: images.amax(dim=tuple(range(1, images.dim()))), image, dims)
    assert found.shape == ((9, 9) if dims == 2 else (5, 5, 5))
    first = (0,) * dims
    assert found[first] > 0.9
    assert found.sum() == found[first]
    torch.testing.assert_close(image, before)


@pytest.mark.slow
def test_a_volume(few_positions: None) -> None:
    network, image = student("resnet10_3d"), noise(1, 1, 32, 64, 80)
    found = explain(network, image, grad_cam_level(network, image))
    assert (found.method, found.grid) == ("Grad-CAM", (2, 4, 5))
    part = image[..., :32, :48]
    small = explain(network, part, grad_cam_level(network, part))
    assert (small.method, small.grid) == ("occlusion", (2, 2, 2))
    for one, sides in ((found, (64, 80)), (small, (32, 48))):
        assert one.heat.shape == sides
        assert one.heat.max() == 1
        assert one.slices is None
        assert one.heat_by_slice.shape == (32,)
        assert one.heat_by_slice.argmax() == one.place


def test_tokens_that_the_logits_do_not_read_are_passed_over() -> None:
    """Of a ViT that reads its class token the patch tokens of the last block have no gradient."""
    network, image = student("timm:vit_tiny_patch16_224"), noise(1, 2, 3, 224, 224)
    level = grad_cam_level(network, image)
    assert level.module == "blocks.8"
    found = explain(network, image, level)
    assert found.grid == (14, 14)
    assert found.heat.shape == (224, 224)
    assert found.heat.max() == 1


def test_one_item_at_a_time() -> None:
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


def test_the_slice_of_a_volume_that_is_shown_is_none_of_the_empty_space_around_it(few_positions: None) -> None:
    """A student that finds empty space as red as it gets."""
    network = student("resnet10_3d")
    image = torch.zeros(1, 1, 32, 32, 32)
    image[0, 0, 10:20, 8:24, 8:24] = noise(10, 16, 16)
    found = explain(network, image, None)
    assert 10 <= found.place < 20
    assert slices_of(image[0], found).shape == (32, 1, 32, 32)
