"""A way around a fault of PyTorch on CPUs."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["avoid_strided_pointwise"]


class _Subsampled(nn.Conv2d):
    """A 1 x 1 convolution with a stride, which selects the pixels first and has then none: the same values."""

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        selected = input[:, :, ::rows, ::columns]
        return nn.functional.conv2d(selected, self.weight, self.bias, groups=self.groups)


def avoid_strided_pointwise(network: nn.Module) -> None:
    """Change how strided 1 x 1 convolutions of few channels are computed, in place; parameters and values stay.

    The gradient of the weights of such a convolution of 2 to 15 channels writes outside its memory on CPUs with
    AVX-512, in the channels-last memory format and from about 96 pixels a side on (PyTorch 2.14, oneDNN 3.12; float32
    and bfloat16), and the process crashes. RepVGG, MobileOne and FastViT begin with one.
    """
    for module in network.modules():
        if type(module) is not nn.Conv2d or module.in_channels >= 16:
            continue
        if module.kernel_size == (1, 1) != module.stride and module.padding == (0, 0):
            module.__class__ = _Subsampled
