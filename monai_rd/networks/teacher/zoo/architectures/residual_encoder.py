"""The encoder of nnU-Net's residual U-Nets."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["ResidualEncoder"]


class _ConvNorm(nn.Module):
    """A convolution and an instance normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = nn.InstanceNorm3d(outputs, affine=True)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.conv(maps))


class _Block(nn.Module):
    """Two convolutions beside a shortcut, which is averaged for a stride and projected for other channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _ConvNorm(inputs, outputs, 3, stride), _ConvNorm(outputs, outputs, 3)
        self.pool = nn.AvgPool3d(stride) if stride > 1 else nn.Identity()
        self.skip = _ConvNorm(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.act = nn.LeakyReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = self.skip(self.pool(maps))
        maps = self.conv2(self.act(self.conv1(maps)))
        maps += shortcut
        return self.act(maps)


class ResidualEncoder(nn.Module):
    """The encoder of nnU-Net's residual U-Nets (Isensee et al., 2404.09556); ResEnc-L by default.

    A stem, then stages of basic blocks whose shortcuts are those of ResNet-D (He et al., 1812.01187). Every stage but
    the first one halves D, H and W.

    Args:
        channels: of each stage.
        blocks: number of blocks in each stage.

    Attributes:
        stages: paths of the stages, from the input to the output.
        prefix: 0, as for every network without tokens.

    Example:
        >>> import torch
        >>> from monai_rd.networks.teacher.zoo.architectures import ResidualEncoder
        >>> encoder = ResidualEncoder(channels=(8, 16, 32), blocks=(1, 2, 2)).eval()
        >>> encoder(torch.rand(1, 1, 16, 24, 32)).shape
        torch.Size([1, 32, 4, 6, 8])
    """

    prefix = 0

    def __init__(
        self, channels: Sequence[int] = (32, 64, 128, 256, 320, 320), blocks: Sequence[int] = (1, 3, 4, 6, 6, 6)
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_ConvNorm(1, channels[0], 3), nn.LeakyReLU(inplace=True))
        self.stages = tuple(f"stage{number}" for number in range(len(blocks)))
        inputs = channels[0]
        for number, (outputs, depth) in enumerate(zip(channels, blocks, strict=True)):
            stage = nn.Sequential(_Block(inputs, outputs, 1 if number == 0 else 2))
            stage.extend(_Block(outputs, outputs, 1) for _ in range(depth - 1))
            self.add_module(self.stages[number], stage)
            inputs = outputs

    def forward(self, volume: Tensor) -> Tensor:
        """Compute the output of the last stage.

        Args:
            volume: `[B, 1, D, H, W]`, sides multiples of the last stage's stride (32).

        Returns:
            `[B, C, D / 32, H / 32, W / 32]`.

        Raises:
            ValueError: the last map would have one position, which instance normalisation makes 0.
        """
        stride = 2 ** (len(self.stages) - 1)
        if max(volume.shape[2:]) < 2 * stride:
            raise ValueError(f"volumes of {list(volume.shape[2:])} voxels are too small: one side must be {2 * stride}")
        maps = self.stem(volume)
        for stage in self.stages:
            maps = self.get_submodule(stage)(maps)
        return maps
