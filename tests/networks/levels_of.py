"""A network with the same weights every time, noise, and the maps that its levels give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from monai_rd.networks.levels import Level, LevelReader

R18 = tuple(Level(f"layer{i}", 64 * 2 ** (i - 1), 2 ** (i + 1), i / 4, False) for i in (1, 2, 3, 4))


def seeded(make: Any, *args: Any, **arguments: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **arguments).eval()


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def read(network: nn.Module, levels: tuple[Level, ...], image: Tensor) -> tuple[Tensor, ...]:
    with LevelReader(network, levels) as reader:
        network(image)
        return reader.take()
