"""What holds for every adapter: where it begins, what is trained, how many numbers that are."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from monai_rd.adapters import ADAPTERS, build_adapter
from monai_rd.networks import FrozenFoundationModel, Preprocessing, Reads
from monai_rd.networks.teacher.zoo.networks import TeacherBackbone
from tests.adapters.tiny import DEPTH, KINDS, PLAIN, WIDTH, adapt, inputs, teacher, trained


@pytest.mark.parametrize("name", ["linear_probe", "full", "adaptformer", "lora"])
def test_it_begins_as_the_teacher(base: FrozenFoundationModel, name: str) -> None:
    image = inputs()
    adapted = adapt(name, base).eval()
    torch.testing.assert_close(adapted.backbone(PLAIN(image)), base(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_trained_gets_a_gradient_and_the_teacher_stays(base: FrozenFoundationModel, name: str) -> None:
    before = base.fingerprint()
    adapted = adapt(name, base, **({"chosen": 4} if name == "lpt" else {}))
    for part in trained(adapted.backbone).values():
        part.data.add_(torch.randn_like(part) * 0.1)  # what begins as 0 keeps the gradient from its neighbour
    loss = F.cross_entropy(adapted(inputs(8)), torch.arange(8) % 3)
    if name == "lpt":
        loss = loss - adapted.backbone.key_similarity.mean()
    loss.backward()
    own = trained(adapted)
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in own.values())
    optimizer = torch.optim.SGD(own.values(), 0.1)
    optimizer.step()
    assert base.fingerprint() == before
    assert not trained(base)
    if name != "full":
        shared = {id(parameter) for parameter in base.backbone.parameters()}  # type: ignore[union-attr]
        storages = {p.untyped_storage().data_ptr() for p in base.backbone.parameters()}  # type: ignore[union-attr]
        for parameter in adapted.backbone.parameters():
            assert (
                parameter.requires_grad
                or id(parameter) in shared
                or (parameter.untyped_storage().data_ptr() in storages)
            )
    tuned = adapted.frozen()
    assert tuned.name == f"{base.name}+{name}"
    assert tuned.fingerprint() != before
    assert tuned.head is not None
    assert not list(tuned.parameters())
    assert not tuned.state_dict()
    adapted.eval()
    with torch.no_grad():
        features = tuned(inputs(4))
        pooled = features.flatten(2).mean(2) if tuned.kind == "map" else features
        torch.testing.assert_close(tuned.head(pooled), adapted(inputs(4)), atol=1e-5, rtol=1e-4)


def test_a_fitted_teacher_takes_its_head_along() -> None:
    tuned = adapt("lora", teacher("plain")).frozen().double()
    assert tuned.head is not None
    assert tuned.head.weight.dtype == torch.float64
    assert tuned.read(inputs(), Reads(logits=True)).logits.dtype == torch.float64


@pytest.mark.parametrize("name", ADAPTERS)
def test_only_what_is_trained_is_in_training_mode(name: str) -> None:
    adapted = adapt(name, teacher("plain", proj_drop_rate=0.5, drop_path_rate=0.5)).train()
    dropping = {
        path for path, module in adapted.backbone.named_modules() if module.training and type(module) is nn.Dropout
    }
    if name == "full":
        assert dropping
    elif name == "adaptformer":
        assert dropping == {f"network.blocks.{number}.mlp.bottleneck.dropout" for number in range(DEPTH)}
    elif name == "vqt":
        assert dropping == {f"backbone.network.blocks.{number}.queries.dropout" for number in range(DEPTH)}
    else:
        assert not dropping
    assert not any(module.training for module in adapted.eval().modules())


@pytest.mark.parametrize("name", ADAPTERS)
def test_bags_are_the_mean_of_their_slices(base: FrozenFoundationModel, name: str) -> None:
    adapted = adapt(name, base).eval()
    bags = inputs(6).unflatten(0, (2, 3))
    with torch.no_grad():
        slices = torch.stack([adapted.features(bags[:, number]) for number in range(3)])
        torch.testing.assert_close(adapted.features(bags), slices.mean(dim=0), atol=1e-5, rtol=1e-4)
        assert adapted(bags).shape == (2, 3)


@pytest.mark.parametrize("name", ADAPTERS)
def test_in_autocast(base: FrozenFoundationModel, name: str) -> None:
    adapted = adapt(name, base)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = adapted(inputs(4))
    F.cross_entropy(logits.float(), torch.arange(4) % 3).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained(adapted).values())
    adapted.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = adapted(inputs(4)).float()
    with torch.no_grad():
        torch.testing.assert_close(half, adapted(inputs(4)), atol=0.2 if name == "lpt" else 0.05, rtol=0.1)


def test_vqt_propagates_nothing_through_the_blocks(base: FrozenFoundationModel) -> None:
    adapted = adapt("vqt", base)
    adapted(inputs(4)).sum().backward()
    blocks = adapted.backbone.backbone.network.blocks
    with torch.no_grad():
        adapted.backbone.backbone(PLAIN(inputs(4)))
    assert not any(block.take()[1].requires_grad for block in blocks)
    first = blocks[0].queries.tokens.grad.clone()
    blocks[0].queries.tokens.data.add_(1.0)  # what block 0's queries are is nothing to the others
    for block in blocks:
        block.queries.tokens.grad = None
    adapted.eval()(inputs(4)).sum().backward()
    assert not torch.equal(first, blocks[0].queries.tokens.grad)


def test_the_normalisation_becomes_part_of_the_head() -> None:
    """Features of small variance and large mean: running statistics that began as 0 and 1 would be far off."""
    base = teacher("plain")
    base.backbone.network.norm.weight.data *= 0.2  # type: ignore[union-attr]
    base.backbone.network.norm.bias.data += 5  # type: ignore[union-attr]
    adapted = adapt("linear_probe", base)
    images = inputs(64)
    for batch in images.split(16):
        adapted(batch)
    adapted.eval()
    with torch.no_grad():
        features = adapted.features(images)
        assert float(features.var(0).max()) < 0.01
        standard = (features - features.mean(0)) / features.var(0).add(1e-5).sqrt()
        torch.testing.assert_close(adapted.norm(features), standard, atol=0.3, rtol=0.1)
        torch.testing.assert_close(adapted.folded_head()(features), adapted(images), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ADAPTERS)
def test_methods_read_maps_inside_a_fitted_teacher(base: FrozenFoundationModel, name: str) -> None:
    base.backbone.stages = tuple(f"network.blocks.{number}" for number in range(DEPTH))  # type: ignore[assignment]
    base.backbone.prefix = int(base.name == "plain")  # type: ignore[union-attr]
    image = inputs()
    own = base.read(image, Reads(tap=True, pooled=True, levels=base.levels))
    adapted = adapt(name, base)
    tuned = adapted.frozen()
    read = tuned.read(image, Reads(tap=True, pooled=True, logits=True, levels=tuned.levels))
    assert [tuple(part.shape) for part in read.maps] == [(2, WIDTH, 4, 4)] * DEPTH
    if name in ("linear_probe", "full", "adaptformer", "lora", "vqt"):  # the blocks themselves begin as they were
        for got, expected in zip(read.maps, own.maps, strict=True):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert read.logits is not None
    with torch.no_grad():
        torch.testing.assert_close(read.logits, adapted.eval()(image), atol=1e-5, rtol=1e-4)


COUNTS = {
    ("adaptformer", ()): 1_189_632,
    ("lora", ()): 147_456,
    ("vpt_shallow", (("tokens", 10),)): 7_680,
    ("vpt_deep", (("tokens", 10),)): 92_160,
    ("vpt_deep", (("tokens", 50),)): 460_800,
    ("vqt", ()): 9_216,
    ("lpt", ()): 92_160 + 921_600 + 15_360,
    ("linear_probe", ()): 0,
}


@pytest.mark.parametrize("kind", KINDS)
def test_trainable_counts_are_those_of_the_papers(kind: str) -> None:
    builder = "timm:vit_base_patch16_224" if kind == "plain" else "timm:samvit_base_patch16"
    with torch.device("meta"):
        made = timm.create_model(builder[5:], num_classes=0)
    size = Preprocessing(224, (0.5,) * 3, (0.5,) * 3)
    backbone = TeacherBackbone(made, builder, "map")
    base = FrozenFoundationModel(backbone, channels=768, kind="map", preprocessing=size, name=kind)
    for (name, options), count in COUNTS.items():
        adapted = build_adapter(name, base, 3, **dict(options))
        assert sum(p.numel() for p in trained(adapted.backbone).values()) == count, name
        if name == "vqt":
            assert adapted.channels == 9_984
            assert sum(p.numel() for p in adapted.head.parameters()) == 29_955
        if name == "lpt":
            assert sum(p.numel() for p in adapted.head.parameters()) == 768 * 3
            shared = [p for path, p in trained(adapted.backbone).items() if path.endswith("shared.tokens")]
            assert sum(p.numel() for p in shared) == 92_160
