"""Convolutions of small maps as matrix products, which are faster on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["leave_small_maps_to_torch", "multiply_small_maps"]

# From so many output channels on a product is faster than PyTorch's convolution, on maps of at most so many positions.
_CHANNELS = 256
_POSITIONS = {torch.float32: 9, torch.bfloat16: 16}


class _SmallMaps(nn.Conv2d):
    """A 3 x 3 convolution with padding 1, on a CPU one matrix product for a batch of small maps: the same values."""

    def forward(self, input: Tensor) -> Tensor:
        batch, _, height, width = input.shape
        down, right = self.stride
        rows, columns = (height - 1) // down + 1, (width - 1) // right + 1
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        if input.device.type != "cpu" or not batch or rows * columns > _POSITIONS.get(dtype, 0):
            return super().forward(input)
        padded = nn.functional.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        neighbours = [
            padded[:, row : row + down * (rows - 1) + 1 : down, column : column + right * (columns - 1) + 1 : right]
            for row in range(3)
            for column in range(3)
        ]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # not copied in the channels-last layout
        return nn.functional.linear(torch.cat(neighbours, dim=-1), weight, self.bias).permute(0, 3, 1, 2)


def multiply_small_maps(network: nn.Module) -> None:
    """Change how 3 x 3 convolutions of many channels are computed on small maps, in place; parameters and values stay.

    On a CPU the gradient of such a convolution takes 2 to 7 times as long as that of a matrix product, where the map
    has been reduced to 2 x 2 or 3 x 3 positions (in bfloat16 4 x 4), as at the end of a ResNet18 for images of 64 to
    128 pixels.
    Larger maps, other convolutions and other devices are left to PyTorch.

    Args:
        network: a network that is going to be trained. Before it is scripted, or traced for images of any size,
            `leave_small_maps_to_torch` takes the change back.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and module.out_channels >= _CHANNELS and _is_plain(module):
            module.__class__ = _SmallMaps


def leave_small_maps_to_torch(network: nn.Module) -> None:
    """Take back what `multiply_small_maps` changed, in place."""
    changed: list[nn.Module] = [module for module in network.modules() if isinstance(module, _SmallMaps)]
    for module in changed:
        module.__class__ = nn.Conv2d


def _is_plain(module: nn.Conv2d) -> bool:
    padded = module.padding == (1, 1) and module.padding_mode == "zeros"
    return padded and module.kernel_size == (3, 3) and module.dilation == (1, 1) and module.groups == 1
