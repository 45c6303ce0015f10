"""The paper's three students."""

from __future__ import annotations

import pytest
import torch

from monai_rd.networks import Student
from monai_rd.networks.bag import fold, unfold
from monai_rd.networks.backbones import IMAGENET_MEAN, IMAGENET_STD
from monai_rd.networks.students import STUDENTS

WIDTHS = {"resnet18": 512, "mobilenet_v2": 1280, "shufflenet_v2_x1_0": 1024}


@pytest.mark.parametrize("name", STUDENTS)
def test_logits_are_the_classifier_of_the_features(name: str) -> None:
    student = Student(name, num_classes=3).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = student.features(image)
        assert features.shape == (2, WIDTHS[name]) == (2, student.feature_dim)
        torch.testing.assert_close(student(image), student.classifier(features))


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet18", 11.69), ("mobilenet_v2", 3.50), ("shufflenet_v2_x1_0", 2.28)]
)
def test_parameter_counts_are_torchvisions(name: str, millions: float) -> None:
    """With 1000 classes, as torchvision's documentation counts them."""
    count = sum(parameter.numel() for parameter in Student(name, num_classes=1000).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_bag_is_the_mean_over_its_slices(name: str) -> None:
    student = Student(name).eval()
    bag = torch.rand(2, 3, 3, 64, 64)
    with torch.no_grad():
        expected = torch.stack([student.features(bag[:, index]) for index in range(3)]).mean(dim=0)
        torch.testing.assert_close(student.features(bag), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", STUDENTS)
def test_torchscript_gives_the_same(name: str) -> None:
    student = Student(name).eval()
    scripted = torch.jit.script(student)
    with torch.no_grad():
        for shape in ((2, 3, 64, 64), (1, 4, 3, 64, 64)):
            image = torch.rand(shape)
            torch.testing.assert_close(scripted(image), student(image), atol=1e-5, rtol=1e-5)


def test_input_is_normalised_inside() -> None:
    student = Student("resnet18").eval()
    image = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        torch.testing.assert_close(student.features(image), student.backbone((image - mean) / std))
    assert not {"mean", "std"} & set(student.state_dict())


def test_a_seed_gives_the_same_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return Student("resnet18").backbone.conv1.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown student 'resnet19'; known: resnet18, mobilenet_v2, shufflenet"):
        Student("resnet19")
    with pytest.raises(ValueError, match="at least 2, got 1"):
        Student("resnet18", num_classes=1)
    with pytest.raises(ValueError, match="got 3 dimensions"):
        Student("resnet18")(torch.rand(3, 64, 64))


def test_fold_and_unfold_are_inverse() -> None:
    bag = torch.rand(2, 5, 3, 4, 4)
    images, slices = fold(bag)
    assert images.shape == (10, 3, 4, 4)
    assert torch.equal(unfold(images, slices), bag)
    assert fold(images)[1] == 1
