"""The formula of each adapter, restated over a network that is written down a second time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.networks import FrozenFoundationModel
from tests.adapters.tiny import DEPTH, PLAIN, WIDTH, Literal, adapt, inputs, network, trained


def test_the_networks_are_what_the_tests_take_them_for() -> None:
    assert [block.window_size for block in network("sam").blocks] == [4, 0, 4]
    assert network("plain").num_prefix_tokens == 1


def _frozen_map(base: FrozenFoundationModel, w: dict[str, Tensor], image: Tensor) -> Tensor:
    literal = Literal(base.name, w)
    x = literal.embed(image)
    for number in range(DEPTH):
        x = literal.block(x, number)
    return literal.map(x)


def test_the_literal_network_is_the_network(base: FrozenFoundationModel, w: dict[str, Tensor]) -> None:
    image = inputs()
    torch.testing.assert_close(base(image), _frozen_map(base, w, image), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_adaptformer_restated(base: FrozenFoundationModel, w: dict[str, Tensor]) -> None:
    adapted = adapt("adaptformer", base, width=5, scale=0.7).eval()
    for parameter in trained(adapted.backbone).values():
        parameter.normal_()
    literal, image = Literal(base.name, w), inputs()
    x = literal.embed(image)
    for number in range(DEPTH):
        own = adapted.backbone.network.blocks[number].mlp.bottleneck
        after = literal.attended(x, number)
        down = F.relu(after @ own.down.weight.T + own.down.bias)
        x = after + literal.mlp(after, number) + 0.7 * (down @ own.up.weight.T + own.up.bias)
    torch.testing.assert_close(adapted.backbone(PLAIN(image)), literal.map(x), atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_lora_is_an_update_of_the_weights_of_queries_and_values(
    base: FrozenFoundationModel, w: dict[str, Tensor]
) -> None:
    adapted = adapt("lora", base, rank=3, alpha=2).eval()
    changed = {name: tensor.clone() for name, tensor in w.items()}
    for number in range(DEPTH):
        split = adapted.backbone.network.blocks[number].attn.qkv
        assert isinstance(split.k, nn.Linear)
        assert type(split.k) is nn.Linear
        for part, rows in ((split.q, slice(0, WIDTH)), (split.v, slice(2 * WIDTH, 3 * WIDTH))):
            a, b = part.lora_A["default"].weight, part.lora_B["default"].weight
            b.normal_()
            changed[f"blocks.{number}.attn.qkv.weight"][rows] += 2 / 3 * b @ a
    image = inputs()
    torch.testing.assert_close(adapted.backbone(PLAIN(image)), _frozen_map(base, changed, image), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("deep", [False, True])
def test_vpt_restated(base: FrozenFoundationModel, w: dict[str, Tensor], deep: bool) -> None:
    adapted = adapt("vpt_deep" if deep else "vpt_shallow", base, tokens=3).eval()
    literal, image = Literal(base.name, w), inputs()
    x = literal.embed(image)
    tokens = x.shape[1]
    for number in range(DEPTH):
        if deep or number == 0:
            prompts = adapted.backbone.network.blocks[number].prompts.normal_()
            x = torch.cat([x[:, :tokens], prompts.expand(2, -1, -1)], dim=1)
        x = literal.block(x, number)
    torch.testing.assert_close(adapted.backbone(PLAIN(image)), literal.map(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_vqt_restated(base: FrozenFoundationModel, w: dict[str, Tensor]) -> None:
    adapted = adapt("vqt", base, tokens=2).eval()
    literal, image = Literal(base.name, w), inputs()
    x, answers = literal.embed(image), []
    for number in range(DEPTH):
        queries = adapted.backbone.backbone.network.blocks[number].queries.tokens.normal_()
        answers.append(literal.queries(queries.expand(2, -1, -1), x, number).flatten(1))
        x = literal.block(x, number)
    expected = torch.cat([part / part.norm(dim=1, keepdim=True) for part in (literal.summary(x), *answers)], dim=1)
    got = adapted.backbone(PLAIN(image))
    assert got.shape == (2, WIDTH * (1 + 2 * DEPTH))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_lpt_restated(base: FrozenFoundationModel, w: dict[str, Tensor]) -> None:
    adapted = adapt("lpt", base, tokens=2, groups=5, chosen=2, grouped_blocks=2).eval()
    blocks, keys = adapted.backbone.backbone.network.blocks, adapted.backbone.keys.normal_()
    for block in blocks:
        block.shared.tokens.normal_()
    for block in blocks[1:]:
        block.pool.tokens.normal_()
    assert blocks[0].pool is None
    literal, images = Literal(base.name, w), inputs(4)
    chosen, similarities = set(), []
    for image, got in zip(images, adapted.backbone(PLAIN(images)), strict=True):
        x = literal.embed(image[None])
        tokens = x.shape[1]
        for number, block in enumerate(blocks):
            x = literal.block(torch.cat([x[:, :tokens], block.shared.tokens[None]], dim=1), number)
        query = literal.summary(x)[0]
        cosines = [float(query @ key / query.norm() / key.norm()) for key in keys]
        best = sorted(range(5), key=lambda group: -cosines[group])[:2]
        chosen.add(tuple(best))
        similarities.append(cosines[best[0]] + cosines[best[1]])
        x = literal.embed(image[None])
        for number, block in enumerate(blocks):
            parts = [x[:, :tokens], block.shared.tokens[None]]
            if number >= 1:
                parts.append((block.pool.tokens[best[0]] + block.pool.tokens[best[1]])[None] / 2)
            x = literal.block(torch.cat(parts, dim=1), number)
        torch.testing.assert_close(got, literal.map(x)[0], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(adapted.backbone.key_similarity, torch.tensor(similarities))
    adapted.backbone.uses_groups = False
    x = literal.embed(images)
    for number, block in enumerate(blocks):
        x = literal.block(torch.cat([x[:, :tokens], block.shared.tokens.expand(4, -1, -1)], dim=1), number)
    torch.testing.assert_close(adapted.backbone(PLAIN(images)), literal.map(x), atol=2e-4, rtol=1e-3)
