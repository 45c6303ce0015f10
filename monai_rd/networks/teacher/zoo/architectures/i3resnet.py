"""The inflated ResNet of Merlin and Astra."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["I3ResNet"]

_EXPANSION = 4


class _Bottleneck(nn.Module):
    """1 x 1 x 1, 3 x 3 x 3 and 1 x 1 x 1 convolutions beside a shortcut; the stride is that of the second one."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = _EXPANSION * width
        self.conv1, self.bn1 = nn.Conv3d(inputs, width, 1, bias=False), nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3, self.bn3 = nn.Conv3d(width, outputs, 1, bias=False), nn.BatchNorm3d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, volume: Tensor) -> Tensor:
        maps = self.relu(self.bn1(self.conv1(volume)))
        maps = self.relu(self.bn2(self.conv2(maps)))
        maps = self.bn3(self.conv3(maps))
        maps += volume if self.downsample is None else self.downsample(volume)
        return self.relu(maps)


class I3ResNet(nn.Module):
    """A ResNet of images inflated to volumes (Carreira and Zisserman, 1705.07750), as Merlin has it (2406.06512).

    The 3 x 3 kernels of a ResNet (He et al., 1512.03385; the stride is that of the 3 x 3 convolution) become
    3 x 3 x 3, the first one 3 x 7 x 7; 1 x 1 kernels stay pointwise. D is halved four times, H and W five times,
    because the first convolution has stride 1 along D. The names of the tensors are those of torchvision.

    Args:
        blocks: number of bottleneck blocks in each of the four stages; those of a ResNet-152 by default.

    Attributes:
        stages: paths of the stages, from the input to the output.
        prefix: 0, as for every network without tokens.

    Example:
        >>> import torch
        >>> from monai_rd.networks.teacher.zoo.architectures import I3ResNet
        >>> with torch.no_grad():
        ...     I3ResNet(blocks=(1, 1, 1, 1)).eval()(torch.rand(1, 1, 32, 64, 64)).shape
        torch.Size([1, 2048, 2, 2, 2])
    """

    stages = ("layer1", "layer2", "layer3", "layer4")
    prefix = 0

    def __init__(self, blocks: Sequence[int] = (3, 8, 36, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, 2, padding=1)
        channels = 64
        for number, depth in enumerate(blocks):
            width, stride = 64 * 2**number, 1 if number == 0 else 2
            stage = nn.Sequential(_Bottleneck(channels, width, stride))
            channels = _EXPANSION * width
            stage.extend(_Bottleneck(channels, width, 1) for _ in range(depth - 1))
            self.add_module(self.stages[number], stage)

    def forward(self, volume: Tensor) -> Tensor:
        """Compute the output of `layer4`.

        Args:
            volume: `[B, 1, D, H, W]`; D runs from feet to head, H from the patient's left to right and W from back to
                front ("SRA"). It is repeated to the three channels of the first convolution.

        Returns:
            `[B, C, D / 16, H / 32, W / 32]`, rounded up.
        """
        maps = self.maxpool(self.relu(self.bn1(self.conv1(volume.expand(-1, 3, -1, -1, -1)))))
        for stage in self.stages:
            maps = self.get_submodule(stage)(maps)
        return maps
