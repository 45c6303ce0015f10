"""phi."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_rd.networks import Reprogrammer, Reprogrammers
from monai_rd.networks.features import pool_to_grid

SHAPES = {"map": (6, 12, 5, 5), "vector": (6, 12), "volume": (6, 12, 3, 5, 5)}


def phi_of(kind: str, **options: int) -> Reprogrammer:
    """phi for a teacher's maps, vectors, or maps of volumes."""
    return Reprogrammer(12, 7, "map" if kind == "volume" else kind, spatial_dims=2 + (kind == "volume"), **options)


@pytest.mark.parametrize("kind", SHAPES)
def test_any_teacher_width_becomes_the_students(kind: str) -> None:
    phi = phi_of(kind, width=16, blocks=3)
    features = torch.rand(SHAPES[kind])
    found = phi(features)
    assert found.shape == (6, 7)
    found.square().sum().backward()
    for name, parameter in phi.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", SHAPES)
def test_a_bag_is_averaged_after_the_blocks(kind: str) -> None:
    phi = phi_of(kind, width=16).eval()
    bag = torch.rand(2, 3, *SHAPES[kind][1:])
    with torch.no_grad():
        each = torch.stack([phi(bag[:, index]) for index in range(3)])
        torch.testing.assert_close(phi(bag), each.mean(dim=0), atol=1e-6, rtol=1e-5)


def test_a_spatial_phi_sees_where() -> None:
    """Not a function of the pooled map alone: shuffled places give another output."""
    phi = Reprogrammer(12, 7, "map", width=16).eval()
    features = torch.rand(2, 12, 5, 5)
    shuffled = features.flatten(2)[..., torch.randperm(25, generator=torch.Generator().manual_seed(0))].view(
        2, 12, 5, 5
    )
    with torch.no_grad():
        assert not torch.allclose(phi(features), phi(shuffled), atol=1e-4)


def test_width_bounds_the_cost() -> None:
    """A wide teacher costs its 1x1 convolution only."""

    def count(channels: int) -> int:
        return sum(parameter.numel() for parameter in Reprogrammer(channels, 512).parameters())

    assert count(2048) - count(1024) == 1024 * 512


def test_blocks_are_residual() -> None:
    phi = Reprogrammer(4, 3, "vector", width=8, blocks=1)
    last = phi.blocks[1].body[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    features = torch.rand(2, 4)
    torch.testing.assert_close(phi(features), phi.output(phi.blocks[0](features)))


@pytest.mark.parametrize("kind", SHAPES)
def test_each_of_several_teachers_has_its_own_phi(kind: str) -> None:
    """On its own channels of the joined features, of bags too; f_t is the mean of theirs."""
    dims = 2 + (kind == "volume")
    phi = Reprogrammers((3, 7, 2), 5, "map" if kind == "volume" else kind, 16, 1, dims, 4).eval()
    bag = torch.rand(2, 3, *SHAPES[kind][1:])
    for features in (bag, bag[:, 0]):
        axis = features.dim() - (1 if kind == "vector" else 1 + dims)
        taken = [features.narrow(axis, *place) for place in ((0, 3), (3, 7), (10, 2))]
        with torch.no_grad():
            alone = torch.stack([one(its) for one, its in zip(phi.own, taken, strict=True)])
            torch.testing.assert_close(phi.each(features), alone)
            torch.testing.assert_close(phi(features), alone.mean(dim=0))
    with pytest.raises(RuntimeError, match="split_with_sizes"):
        phi(bag[..., :1] if kind == "vector" else bag[:, :, :7])


def test_phi_of_one_teacher_is_one_reprogrammer() -> None:
    torch.manual_seed(0)
    one = Reprogrammers((12,), 5, width=16, grid=4)
    torch.manual_seed(0)
    plain, maps = Reprogrammer(12, 5, width=16, grid=4), torch.rand(6, 12, 7, 7)
    assert torch.equal(one(maps), plain(maps))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be 'map' or 'vector', not 'token'"):
        Reprogrammer(4, 3, "token")
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got 4"):
        Reprogrammer(4, 3, spatial_dims=4)
    with pytest.raises(ValueError, match=r"a teacher's map, got features of shape \[2, 4, 5, 5\]"):
        Reprogrammer(4, 3, spatial_dims=3)(torch.rand(2, 4, 5, 5))
    with pytest.raises(ValueError, match="must be at least 1"):
        Reprogrammer(4, 3, blocks=0)
    with pytest.raises(ValueError, match=r"built for a teacher's map, got features of shape \[2, 4\]"):
        Reprogrammer(4, 3)(torch.rand(2, 4))
    with pytest.raises(ValueError, match=r"built for a teacher's map, got features of shape \[2, 4\]"):
        Reprogrammers([3, 1], 3)(torch.rand(2, 4))


@pytest.mark.parametrize("kind", ["map", "volume"])
def test_a_grid_is_the_mean_of_its_cells_and_doing_it_twice_is_doing_it_once(kind: str) -> None:
    """So features out of a store, which are pooled already, give what the whole map gives."""
    dims = 2 + (kind == "volume")
    maps = torch.rand(3, 12, *[8] * dims)
    pooled = pool_to_grid(maps, 4, dims)
    cells = maps.reshape(3, 12, *[4, 2] * dims).mean(dim=tuple(range(3, 3 + 2 * dims, 2)))
    torch.testing.assert_close(pooled, cells)
    assert torch.equal(pool_to_grid(pooled, 4, dims), pooled)
    bags = maps[:, None].expand(-1, 2, *[-1] * (1 + dims))
    assert torch.equal(pool_to_grid(bags, 4, dims)[:, 1], pooled)
    assert pool_to_grid(maps, None, dims) is maps
    phi = phi_of(kind, width=16, grid=4).eval()
    with torch.no_grad():
        seen = phi(maps)
        assert torch.equal(seen, phi(pooled))
        phi.grid = None
        assert not torch.equal(phi(maps), seen)
