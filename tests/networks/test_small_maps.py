"""Convolutions of small maps as matrix products."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from monai_rd.networks import Student, for_training
from monai_rd.networks.small_maps import leave_small_maps_to_torch, multiply_small_maps


def out_and_gradients(network: nn.Module, image: Tensor, amp: bool = False) -> list[Tensor]:
    network.zero_grad()
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", enabled=amp):
        out = network(image).float()
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert image.grad is not None
    return [out.detach(), image.grad, *(one.grad.clone() for one in network.parameters() if one.grad is not None)]


def alike(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()))


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("stride", "bias", "size"),
    [
        (1, False, (2, 2)),
        (1, True, (3, 3)),
        (2, True, (4, 4)),
        (2, False, (3, 5)),
        ((1, 2), False, (2, 5)),
        (1, True, (1, 1)),
    ],
)
def test_values_and_gradients_are_those_of_the_convolution(
    stride: int | tuple[int, int], bias: bool, size: tuple[int, int], layout: torch.memory_format, amp: bool
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(32, 256, 3, stride, padding=1, bias=bias).to(memory_format=layout)
    image = torch.randn(3, 32, *size).contiguous(memory_format=layout)
    expected = out_and_gradients(plain, image, amp)
    multiply_small_maps(plain)
    assert type(plain) is not nn.Conv2d
    alike(out_and_gradients(plain, image, amp), expected, 2e-2 if amp else 1e-5)


class Products(torch.overrides.TorchFunctionMode):
    """Counts the matrix products and the convolutions of the code that runs in it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = self.conv = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.linear += function is nn.functional.linear
        self.conv += function is torch.conv2d
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("side", "amp", "linear"), [(3, False, 1), (4, False, 0), (4, True, 1), (5, True, 0)])
def test_small_maps_alone_are_multiplied(side: int, amp: bool, linear: int) -> None:
    convolution = nn.Conv2d(4, 256, 3, padding=1)
    multiply_small_maps(convolution)
    with Products() as counted, torch.autocast("cpu", enabled=amp):
        convolution(torch.rand(2, 4, side, side))
    assert (counted.linear, counted.conv) == (linear, 1 - linear)


def test_other_convolutions_stay() -> None:
    others: list[nn.Module] = [
        nn.Conv2d(256, 255, 3, padding=1),
        nn.Conv2d(256, 256, 3),
        nn.Conv2d(256, 256, 1),
        nn.Conv2d(256, 256, 5, padding=1),
        nn.Conv2d(256, 256, 3, padding=1, groups=256),
        nn.Conv2d(256, 256, 3, padding=1, dilation=2),
        nn.Conv2d(256, 256, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(256, 256, 3, padding="same"),
        nn.Conv3d(256, 256, 3, padding=1),
    ]
    multiply_small_maps(nn.Sequential(*others))
    assert {type(one) for one in others} == {nn.Conv2d, nn.Conv3d}


def test_a_student_learns_the_same() -> None:
    torch.manual_seed(0)
    plain = Student("resnet18").train()
    quick = for_training(deepcopy(plain))
    image = torch.rand(4, 3, 64, 64)
    with Products() as counted:
        quick(image)
    assert counted.linear == 4 + 1  # the last stage has four, and the classifier
    alike(out_and_gradients(quick, image), out_and_gradients(plain, image), 1e-3)
    assert plain.state_dict().keys() == quick.state_dict().keys()


def test_what_is_deployed_is_left_to_torch() -> None:
    trained = for_training(Student("resnet18").eval())
    image = torch.rand(2, 3, 64, 64)
    scripted = torch.jit.script(trained.deployed())
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), trained(image), atol=1e-4, rtol=1e-4)
    leave_small_maps_to_torch(trained)
    assert not [one for one in trained.modules() if isinstance(one, nn.Conv2d) and type(one) is not nn.Conv2d]


def test_no_images_give_no_maps() -> None:
    convolution = nn.Conv2d(4, 256, 3, padding=1)
    multiply_small_maps(convolution)
    assert convolution(torch.rand(0, 4, 2, 2)).shape == (0, 256, 2, 2)
