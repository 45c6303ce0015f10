from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.adapters import ADAPTERS, build_adapter
from monai_rd.networks import TEACHERS, FrozenFoundationModel, Preprocessing, Reads, VolumePreprocessing
from monai_rd.networks.teacher.zoo.networks import TeacherBackbone, build
from tests.adapters.tiny import DEPTH, HEADS, KINDS, PLAIN, WIDTH, Literal, inputs, network, teacher

FEW: dict[str, dict[str, Any]] = {"lpt": {"tokens": 2, "groups": 4, "grouped_blocks": 2}}
PROMPTED = ("vpt_shallow", "vpt_deep", "vqt", "lpt")


def _adapted(name: str, base: FrozenFoundationModel, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_adapter(name, base, 3, **{**FEW.get(name, {}), **options})


def _frozen_map(base: FrozenFoundationModel, w: dict[str, Tensor], image: Tensor) -> Tensor:
    literal = Literal(base.name, w)
    x = literal.embed(image)
    for number in range(DEPTH):
        x = literal.block(x, number)
    return literal.map(x)


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


# --- the formulas ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest) -> FrozenFoundationModel:
    return teacher(request.param)


@pytest.fixture
def w(base: FrozenFoundationModel) -> dict[str, Tensor]:
    return dict(base.backbone.network.state_dict())  # type: ignore[union-attr]


def test_the_literal_network_is_the_network(base: FrozenFoundationModel, w: dict[str, Tensor]) -> None:
    image = inputs()
    torch.testing.assert_close(base(image), _frozen_map(base, w, image), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_adaptformer_restated(base: FrozenFoundationModel, w: dict[str, Tensor]) -> None:
    adapted = _adapted("adaptformer", base, width=5, scale=0.7).eval()
    for parameter in _trained(adapted.backbone).values():
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
    adapted = _adapted("lora", base, rank=3, alpha=2).eval()
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
    adapted = _adapted("vpt_deep" if deep else "vpt_shallow", base, tokens=3).eval()
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
    adapted = _adapted("vqt", base, tokens=2).eval()
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
    adapted = _adapted("lpt", base, tokens=2, groups=5, chosen=2, grouped_blocks=2).eval()
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


# --- what holds for every adapter -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear_probe", "full", "adaptformer", "lora"])
def test_it_begins_as_the_teacher(base: FrozenFoundationModel, name: str) -> None:
    image = inputs()
    adapted = _adapted(name, base).eval()
    torch.testing.assert_close(adapted.backbone(PLAIN(image)), base(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_trained_gets_a_gradient_and_the_teacher_stays(base: FrozenFoundationModel, name: str) -> None:
    before = base.fingerprint()
    adapted = _adapted(name, base, **({"chosen": 4} if name == "lpt" else {}))
    for part in _trained(adapted.backbone).values():
        part.data.add_(torch.randn_like(part) * 0.1)  # what begins as 0 keeps the gradient from its neighbour
    loss = F.cross_entropy(adapted(inputs(8)), torch.arange(8) % 3)
    if name == "lpt":
        loss = loss - adapted.backbone.key_similarity.mean()
    loss.backward()
    own = _trained(adapted)
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in own.values())
    optimizer = torch.optim.SGD(own.values(), 0.1)
    optimizer.step()
    assert base.fingerprint() == before
    assert not _trained(base)
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
    tuned = _adapted("lora", teacher("plain")).frozen().double()
    assert tuned.head is not None
    assert tuned.head.weight.dtype == torch.float64
    assert tuned.read(inputs(), Reads(logits=True)).logits.dtype == torch.float64


@pytest.mark.parametrize("name", ADAPTERS)
def test_only_what_is_trained_is_in_training_mode(name: str) -> None:
    adapted = _adapted(name, teacher("plain", proj_drop_rate=0.5, drop_path_rate=0.5)).train()
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
    adapted = _adapted(name, base).eval()
    bags = inputs(6).unflatten(0, (2, 3))
    with torch.no_grad():
        slices = torch.stack([adapted.features(bags[:, number]) for number in range(3)])
        torch.testing.assert_close(adapted.features(bags), slices.mean(dim=0), atol=1e-5, rtol=1e-4)
        assert adapted(bags).shape == (2, 3)


@pytest.mark.parametrize("name", ADAPTERS)
def test_in_autocast(base: FrozenFoundationModel, name: str) -> None:
    adapted = _adapted(name, base)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = adapted(inputs(4))
    F.cross_entropy(logits.float(), torch.arange(4) % 3).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in _trained(adapted).values())
    adapted.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = adapted(inputs(4)).float()
    with torch.no_grad():
        torch.testing.assert_close(half, adapted(inputs(4)), atol=0.2 if name == "lpt" else 0.05, rtol=0.1)


def test_vqt_propagates_nothing_through_the_blocks(base: FrozenFoundationModel) -> None:
    adapted = _adapted("vqt", base)
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
    adapted = _adapted("linear_probe", base)
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


# --- counts, at the true size ---------------------------------------------------------------------------------------

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
        assert sum(p.numel() for p in _trained(adapted.backbone).values()) == count, name
        if name == "vqt":
            assert adapted.channels == 9_984
            assert sum(p.numel() for p in adapted.head.parameters()) == 29_955
        if name == "lpt":
            assert sum(p.numel() for p in adapted.head.parameters()) == 768 * 3
            shared = [p for path, p in _trained(adapted.backbone).items() if path.endswith("shared.tokens")]
            assert sum(p.numel() for p in shared) == 92_160


def test_lvm_med_at_its_true_size() -> None:
    """SAM's encoder for 1024 pixels at 224: one window as a flat sequence, which prompts join, is what windows give."""
    arguments = {"num_classes": 0, "use_abs_pos": False, "img_size": 1024, "layer_norm_eps": 1e-6, "neck": False}
    made = build("timm:samvit_base_patch16", arguments)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.03, generator=generator)
    backbone = TeacherBackbone(made, "timm:samvit_base_patch16", "map")
    size = Preprocessing(224, (0.5,) * 3, (0.5,) * 3)
    base = FrozenFoundationModel(backbone, channels=768, kind="map", preprocessing=size, name="lvm_med")
    image = torch.rand(1, 3, 224, 224, generator=generator)
    expected = base(image)
    torch.manual_seed(0)
    lora, flat = build_adapter("lora", base, 3).eval(), build_adapter("vpt_deep", base, 3, tokens=0).eval()
    prompted = build_adapter("vpt_deep", base, 3).eval()
    with torch.no_grad():
        torch.testing.assert_close(lora.backbone(size(image)), expected, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(flat.backbone(size(image)), expected, atol=1e-4, rtol=1e-3)
        assert (prompted.backbone(size(image)) - expected).abs().max() > 1e-3


SERVED = {"biomedclip", "medsiglip_448", "rad_dino", "retfound", "lvm_med_vit_b", "sam_vit_b", "medsam"}


@pytest.mark.parametrize("name", [*sorted(SERVED), "usfm", "radimagenet_resnet50"])
def test_which_of_the_known_teachers_are_served(name: str) -> None:
    entry = TEACHERS[name]
    shorter = {} if "resnet" in name else {"depth": 1}
    with torch.device("meta"):
        made = build(entry.builder, {**entry.arguments, **shorter})
    backbone = TeacherBackbone(made, entry.builder, entry.kind)
    base = FrozenFoundationModel(
        backbone, channels=entry.channels, kind=entry.kind, preprocessing=entry.preprocessing, name=name
    )
    if name not in SERVED:
        with pytest.raises(ValueError, match="'lora' changes the blocks of a ViT"):
            build_adapter("lora", base, 2)
        return
    for adapter in ("adaptformer", "lora"):
        build_adapter(adapter, base, 2)
    for adapter in PROMPTED:
        if entry.grid == (64, 64):
            with pytest.raises(ValueError, match="224 pixels a side, and not 1024"):
                build_adapter(adapter, base, 2)
        else:
            build_adapter(adapter, base, 2)


# --- refusals -------------------------------------------------------------------------------------------------------


def _other(backbone: Any, preprocessing: Any = PLAIN) -> FrozenFoundationModel:
    return FrozenFoundationModel(backbone, channels=4, kind="map", preprocessing=preprocessing, name="other")


class _BlackBox:
    def __call__(self, image: Tensor) -> Tensor:
        return image.mean(dim=1, keepdim=True).expand(-1, 4, -1, -1)[..., ::8, ::8]

    def fingerprint(self) -> str:
        return "a file"


@pytest.mark.parametrize("name", ["adaptformer", "lora", *PROMPTED])
def test_other_networks_are_refused(name: str) -> None:
    works = "linear_probe works for every teacher, full for every one that is no ONNX"
    for backbone in (nn.Conv2d(3, 4, 8), _BlackBox(), timm.create_model("beit_base_patch16_224", depth=1)):
        with pytest.raises(ValueError, match=f"'{name}' changes the blocks of a ViT.*'other' does not have: {works}"):
            build_adapter(name, _other(backbone), 2)


def test_cnns_volumes_and_black_boxes_have_the_probe() -> None:
    image = inputs()
    for name in ("linear_probe", "full"):
        adapted = build_adapter(name, _other(nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4))), 2)
        assert adapted(image).shape == (2, 2)
        volumes = FrozenFoundationModel(
            nn.Conv3d(1, 4, 4), channels=4, kind="map", preprocessing=VolumePreprocessing(8), name="volumes"
        )
        assert build_adapter(name, volumes, 2)(torch.rand(2, 1, 8, 8, 8)).shape == (2, 2)
    probe = build_adapter("linear_probe", _other(_BlackBox()), 2)
    probe(image).sum().backward()
    assert probe.head.weight.grad is not None
    with pytest.raises(ValueError, match="'other' is a black box, which gives no gradient: only linear_probe"):
        build_adapter("full", _other(_BlackBox()), 2)
    with pytest.raises(ValueError, match="'linear_probe' normalises over the batch: use a --batch_size of 2"):
        probe(image[:1])


@pytest.mark.parametrize("name", PROMPTED)
def test_prompts_need_one_window(name: str) -> None:
    large = teacher("sam", Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
    message = f"'{name}' needs the grid of the teacher 'sam' to be one window, which is 32 pixels a side, and not 64"
    with pytest.raises(ValueError, match=message):
        build_adapter(name, large, 2)
    free = build_adapter(name, teacher("sam", Preprocessing(None, (0.5,) * 3, (0.5,) * 3)), 2, **FEW.get(name, {}))
    assert free(inputs()).shape == (2, 2)
    if name != "vqt":
        with pytest.raises(ValueError, match=r"one window of 4 positions a side, got \(8, 8\)"):
            free(torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize("name", ["adaptformer", "lora"])
def test_windows_are_nothing_to_the_others(name: str) -> None:
    large = teacher("sam", Preprocessing(64, (0.5,) * 3, (0.5,) * 3))
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(_adapted(name, large).eval().backbone(large.preprocessing(image)), large(image))


def test_names_and_options() -> None:
    base = teacher("plain")
    with pytest.raises(ValueError, match="unknown adapter 'lola'; known: linear_probe, full, adaptformer, lora, vpt"):
        build_adapter("lola", base, 2)
    with pytest.raises(ValueError, match=r"'lora' has no option width; it has: \['rank', 'alpha'\]"):
        build_adapter("lora", base, 2, width=4)
    with pytest.raises(ValueError, match="chosen must be from 1 to 3, the number of groups, not 4"):
        build_adapter("lpt", base, 2, groups=3, chosen=4)
    assert HEADS * 8 == WIDTH


def test_a_vit_without_class_token_and_the_trunk_of_open_clip() -> None:
    from open_clip.timm_model import TimmModel

    base = teacher("plain", class_token=False, global_pool="avg")
    image = inputs()
    adapted = _adapted("vqt", base).eval()
    with torch.no_grad():
        mean = F.normalize(base(image).flatten(2).mean(2), dim=1)
        torch.testing.assert_close(adapted.backbone(PLAIN(image))[:, :WIDTH], mean, atol=1e-5, rtol=1e-4)
    tower = TimmModel("vit_tiny_patch16_224", embed_dim=8, pretrained=False).eval()
    size, image = Preprocessing(224, (0.5,) * 3, (0.5,) * 3), torch.rand(2, 3, 224, 224)
    backbone = TeacherBackbone(tower, "open_clip:visual", "map")
    clip = FrozenFoundationModel(backbone, channels=192, kind="map", preprocessing=size, name="clip")
    lora, prompted = build_adapter("lora", clip, 2).eval(), build_adapter("vpt_deep", clip, 2)
    with torch.no_grad():
        torch.testing.assert_close(lora.backbone(size(image)), clip(image), atol=1e-5, rtol=1e-4)
    prompted(image).sum().backward()
    assert all(p.grad is not None for p in _trained(prompted).values())


@pytest.mark.parametrize("name", ADAPTERS)
def test_methods_read_maps_inside_a_fitted_teacher(base: FrozenFoundationModel, name: str) -> None:
    base.backbone.stages = tuple(f"network.blocks.{number}" for number in range(DEPTH))  # type: ignore[assignment]
    base.backbone.prefix = int(base.name == "plain")  # type: ignore[union-attr]
    image = inputs()
    own = base.read(image, Reads(tap=True, pooled=True, levels=base.levels))
    adapted = _adapted(name, base)
    tuned = adapted.frozen()
    read = tuned.read(image, Reads(tap=True, pooled=True, logits=True, levels=tuned.levels))
    assert [tuple(part.shape) for part in read.maps] == [(2, WIDTH, 4, 4)] * DEPTH
    if name in ("linear_probe", "full", "adaptformer", "lora", "vqt"):  # the blocks themselves begin as they were
        for got, expected in zip(read.maps, own.maps, strict=True):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert read.logits is not None
    with torch.no_grad():
        torch.testing.assert_close(read.logits, adapted.eval()(image), atol=1e-5, rtol=1e-4)


def test_the_networks_are_what_the_tests_take_them_for() -> None:
    assert [block.window_size for block in network("sam").blocks] == [4, 0, 4]
    assert network("plain").num_prefix_tokens == 1
