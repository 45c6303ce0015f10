"""CKA between layers, against the loss and against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_rd.losses import cka
from monai_rd.report.layers import MinibatchCKA, item_features


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hsic(x: Tensor, y: Tensor) -> Tensor:
    """HSIC_1 word for word: Song et al., JMLR 13, 2012, Eq. 5."""
    k, l = (one.double() @ one.double().T for one in (x, y))  # noqa: E741
    k, l = k.fill_diagonal_(0), l.fill_diagonal_(0)  # noqa: E741
    n, one = len(x), torch.ones(len(x), 1).double()
    last = (one.T @ k @ one) * (one.T @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one.T @ k @ l @ one)
    return (torch.trace(k @ l) + last.squeeze()) / (n * (n - 3))


def test_one_minibatch_is_the_unbiased_cka_of_the_loss() -> None:
    x, y = rand(16, 6), rand(16, 9, seed=1)
    measure = MinibatchCKA(16)
    measure.update({"a": x, "b": x[:, :2] + 5}, {"c": y, "d": x @ rand(6, 3, seed=2)})
    found = measure.compute()
    expected = [[cka(s, t, "unbiased") for t in (y, x @ rand(6, 3, seed=2))] for s in (x, x[:, :2])]
    torch.testing.assert_close(found.values, torch.tensor(expected), atol=1e-4, rtol=1e-4)
    assert (found.first, found.second, found.n) == (["a", "b"], ["c", "d"], 16)


def test_minibatches_are_averaged_before_the_quotient() -> None:
    """Nguyen et al.: sums of HSIC over minibatches of 8, whatever batches the loader gives; the rest of 5 counts."""
    x, y = rand(29, 6), rand(29, 6, seed=1) + rand(29, 6)
    parts = list(zip(x.split(8), y.split(8), strict=True))
    sums = [
        sum(hsic(*pair) for pair in pairs) for pairs in (parts, [(a, a) for a, _ in parts], [(b, b) for _, b in parts])
    ]
    for size in (1, 7, 29):
        measure = MinibatchCKA(8)
        for a, b in zip(x.split(size), y.split(size), strict=True):
            measure.update({"x": a}, {"y": b})
        found = measure.compute()
        torch.testing.assert_close(
            found.values[0, 0].double(), sums[0] / (sums[1] * sums[2]).sqrt(), atol=1e-5, rtol=1e-5
        )
        assert found.n == 29


def test_same_and_independent_layers() -> None:
    x, y = rand(256, 64), rand(256, 64, seed=1)
    measure = MinibatchCKA()
    measure.update({"x": x, "turned": 3 * x @ torch.linalg.qr(rand(64, 64, seed=2))[0]}, {"x": x, "y": y})
    values = measure.compute().values
    torch.testing.assert_close(values[:, 0], torch.ones(2), atol=1e-4, rtol=1e-4)
    assert values[:, 1].abs().max() < 0.1  # the biased estimator would say 0.7


def test_a_layer_that_is_constant_has_none() -> None:
    measure = MinibatchCKA()
    measure.update({"x": rand(8, 3)}, {"flat": torch.full((8, 3), 0.1)})
    assert measure.compute().values.isnan().all()


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        MinibatchCKA(3)
    measure = MinibatchCKA()
    with pytest.raises(ValueError, match="at least 4 items"):
        measure.compute()
    measure.update({"x": rand(3, 2)}, {"y": rand(3, 2)})
    with pytest.raises(ValueError, match="same layers"):
        measure.update({"x": rand(3, 2)}, {"z": rand(3, 2)})
    with pytest.raises(ValueError, match="at least 4 items"):
        measure.compute()


def test_features_of_items() -> None:
    maps = rand(6, 5, 8, 8)  # two studies of three slices
    found = item_features(maps, 2)
    expected = torch.nn.functional.avg_pool2d(maps, 2).flatten(1).view(2, 3, -1).mean(1)
    torch.testing.assert_close(found, expected)
    assert item_features(rand(2, 5, 3, 7), 2).shape == (2, 5 * 3 * 4)
    assert item_features(rand(2, 5, 6, 8, 8), 2).shape == (2, 5 * 4**3)
    assert item_features(rand(6, 5), 2).shape == (2, 5)
    with pytest.raises(ValueError, match="maps or vectors"):
        item_features(rand(5, 4), 2)
