"""Every published layout: it loads whole, nothing else does, and the features are those of an independent network."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.networks.teacher.zoo import TEACHERS, load_teacher
from monai_rd.networks.teacher.zoo.loading import open_teacher
from monai_rd.networks.teacher.zoo.networks import TeacherBackbone, build
from monai_rd.networks.teacher.zoo.weights import load_strictly
from monai_rd.networks.weights_file import read_weights
from tests.networks.teacher.zoo import literal, published, published_3d, vits
from tests.pickled import Marks

# The default run reads the paper's three.
PAPERS = ("pmc_clip", "radimagenet_densenet121", "lvm_med_vit_b")
JOINED = r"(attention\.query\.\w+|self_attn\.q_proj\.\w+|attention\.q_proj\.weight)$"
COMPUTED = "position embedding, which is computed"
DINOV3 = {"mask token": 1, "masks of the biases": 12, "biases that are zero": 12, COMPUTED: 1}
IGNORED = {
    ("pmc_clip", "checkpoint.pt"): {"text encoder": 6, "fusion module": 2},
    ("lvm_med_vit_b", "lvmmed_vit.pth"): {"neck": 6},
    ("biomedclip", "open_clip_pytorch_model.bin"): {"projection": 1, "text tower": 3},
    ("medsiglip_448", "model.bin"): {"text tower": 4, "attention pool": 11},
    ("rad_dino", "backbone_compatible.bin"): {"mask token": 1},
    ("rad_dino", "model.bin"): {"mask token": 1},
    ("dinov2_vits14", "dinov2_vits14_pretrain.pth"): {"mask token": 1},
    ("dinov2_vitb14", "dinov2_vitb14_pretrain.pth"): {"mask token": 1},
    ("dinov2_vitb14", "model.bin"): {"mask token": 1},
    ("dinov2_vitl14", "dinov2_vitl14_pretrain.pth"): {"mask token": 1},
    ("dinov3_vits16", "dinov3_vits16_pretrain_lvd1689m.pth"): DINOV3,
    ("dinov3_vitb16", "dinov3_vitb16_pretrain_lvd1689m.pth"): DINOV3,
    ("dinov3_vitb16", "model.bin"): {"mask token": 1, "biases that are zero": 24},
    ("meddinov3_ct", "model.pth"): {"heads of the pretraining": 2, "mask token": 1, COMPUTED: 1},
    ("curia", "model.bin"): {"mask token": 1},
    ("curia_2", "model.bin"): {"mask token": 1},
    ("panderm", "panderm_ll_data6_checkpoint-499.pth"): {"rest of the pretraining": 1},
    ("sam_vit_b", "sam_vit_b_01ec64.pth"): {"prompt encoder": 2, "mask decoder": 1},
    ("medsam", "medsam_vit_b.pth"): {"prompt encoder": 2, "mask decoder": 1},
    ("torchxrayvision_densenet121", "xrv.pt"): {"classifier": 3},
    ("retfound", "RETFound_mae_natureCFP.pth"): {"decoder": 8},
    ("usfm", "USFM_latest.pth"): {"mask token": 1, "index of positions": 1},
    ("swinunetr_ssl", "model_swinvit.pt"): {"heads of the pretraining": 8},
    ("suprem_swinunetr", "supervised_suprem_swinunetr_2100.pth"): {"rest of SwinUNETR": 33},
    ("brainiac", "BrainIAC.ckpt"): {"heads of the pretraining": 2},
    **published_3d.IGNORED,
}


# --- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "file"),
    [pytest.param(e, f, marks=[pytest.mark.slow] * (e not in PAPERS)) for e, f, *_ in published.FILES],
)
def test_a_published_file_loads_whole_and_nothing_else_does(entry: str, file: str, tmp_path: Path) -> None:
    path, made = published.write(tmp_path, entry, file, outline=True)
    teacher, opened, coverage = open_teacher(entry, path)
    assert isinstance(teacher.backbone, TeacherBackbone)
    own = teacher.backbone.network.state_dict()
    assert coverage.loaded == len(own)
    assert coverage.ignored == IGNORED.get((entry, file), {})
    joined = 2 * sum(re.search(JOINED, key) is not None for key in made)  # three to one
    assert len(own) + sum(coverage.ignored.values()) == len(made) - joined
    assert not any(tensor.is_meta for tensor in (*teacher.backbone.buffers(), *teacher.backbone.parameters()))

    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(ValueError, match="damaged"):
        load_teacher(entry, path)

    lost = next(key for key in reversed(made) if not any(re.match(what, key) for what in TEACHERS[entry].ignored))
    torch.save({key: tensor for key, tensor in made.items() if key != lost}, path)
    with pytest.raises(ValueError, match=rf"does not fit {entry}: {len(own) - 1} of {len(own)} tensors fit; 1 missing"):
        load_strictly(teacher.backbone.network, read_weights(path), opened, "this")

    torch.save({"state_dict": Marks(tmp_path / "mark")}, path)
    with pytest.raises(ValueError, match=r"refused\. It needs more than plain weights"):
        load_teacher(entry, path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
def test_another_models_file_is_refused_and_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pt"
    layout = published.layout_of(build("timm:resnet10t", TEACHERS["phantom_ct"].arguments))
    torch.save(published.values(layout, outline=True), wrong)
    kinds = {(tuple(one.renamed.items()), one.converter): name for name, one in TEACHERS.items()}
    for name in {*kinds.values()} - {"phantom_ct"}:  # one of each way in which keys are translated
        with pytest.raises(ValueError, match=rf"does not fit {name}: \d+ of .* --teacher phantom_ct"):
            load_teacher(name, wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("pmc_clip", "pmc_clip"),
        ("lvm_med_resnet50", "lvm_med_resnet50"),
        ("sam_vit_b", "sam_vit_b or medsam"),
        ("rad_dino", "dinov2_vitb14 or rad_dino"),
        ("meddinov3_ct", "meddinov3_ct"),
        ("curia", "curia or curia_2"),
        ("swinunetr_ssl", "swinunetr_ssl"),
        ("brainiac", "brainiac"),
    ],
)
def test_a_wrong_file_is_recognised(given: str, named: str, tmp_path: Path) -> None:
    path, _ = published.write(tmp_path, given, outline=True)
    with pytest.raises(ValueError, match=rf"Its tensors are those of {named}: .*Wanted is DenseNet121.pt of https"):
        load_teacher("radimagenet_densenet121", path)


@pytest.mark.slow
def test_lookalikes_are_told_apart(tmp_path: Path) -> None:
    made = published.values(published.RECORDED["pmc_clip/image_encoder(resnet50).pth"], outline=True)
    other = {key: tensor for key, tensor in made.items() if not key.startswith("attnpool")}
    torch.save({**other, "head.weight": torch.zeros(1).expand(768, 2048)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="It is the other ResNet of PMC-CLIP's code"):
        load_teacher("pmc_clip", tmp_path / "other.pth")
    made = published.values(published.RECORDED["lvmmed/lvmmed_resnet.torch"], outline=True)
    keras = {"conv1.bias": torch.zeros(64), **made}
    torch.save(keras, tmp_path / "RadImageNet-ResNet50_notop.pth")
    with pytest.raises(ValueError, match=r"It is RadImageNet-ResNet50_notop\.pth, a conversion from Keras"):
        load_teacher("radimagenet_resnet50", tmp_path / "RadImageNet-ResNet50_notop.pth")
    for name, network in (("resnet50", "resnet50"), ("densenet121", "densenet121"), ("inceptionv3", "inception_v3")):
        own = published.layout_of(build(f"timm:{network}", {"num_classes": 0, "global_pool": ""}))
        torch.save(published.values(own, outline=True), tmp_path / "own.pt")
        said = (
            f"is another file than that of radimagenet_{name}: {len(own)} of {len(own)} tensors fit. It is a network of"
        )
        with pytest.raises(ValueError, match=said):
            load_teacher(f"radimagenet_{name}", tmp_path / "own.pt")


# --- numerics -------------------------------------------------------------------------------------------------------


def _network(entry: str, path: Path, **arguments: Any) -> nn.Module:
    backbone = load_teacher(entry, path, **arguments).backbone
    assert isinstance(backbone, nn.Module)
    return backbone


def _same(got: Tensor, expected: Tensor) -> None:
    assert expected.isfinite().all()
    assert expected.std() > 0.01
    torch.testing.assert_close(got, expected, atol=2e-4 * expected.std().item(), rtol=1e-4)


def _image(*sides: int, channels: int = 3) -> Tensor:
    return torch.randn(1, channels, *sides, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@torch.no_grad()
def test_pmc_clip_is_timms_clip_resnet(tmp_path: Path) -> None:
    """The published names in the order of timm's, which builds the same network out of other parts."""
    path, made = published.write(tmp_path, "pmc_clip")
    other = timm.create_model("resnet50_clip", num_classes=768).eval()
    names: dict[str, str] = {}
    for key in other.state_dict():
        name = re.sub(r"^stem\.conv(\d)\.conv", r"conv\1", key)
        name = re.sub(r"^stem\.conv(\d)\.bn", r"bn\1", name)
        name = re.sub(r"^stages\.(\d)\.(\d)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.", name)
        name = re.sub(r"conv(\d)_\w+\.conv", r"conv\1", name)
        name = re.sub(r"conv(\d)_\w+\.bn", r"bn\1", name)
        name = re.sub(r"shortcut\.(conv\.)?bn\.", "downsample.1.", name)
        names[key] = re.sub(r"shortcut(\.conv)+\.", "downsample.0.", name)
    trunk = {key: made[name] for key, name in names.items() if not key.startswith("head")}
    assert len(trunk) == 330
    other.load_state_dict(trunk, strict=False)
    image = _image(224, 224)
    _same(_network("pmc_clip", path)(image), other.forward_features(image))


@torch.no_grad()
@pytest.mark.parametrize(
    "entry", ["radimagenet_densenet121", pytest.param("torchxrayvision_densenet121", marks=pytest.mark.slow)]
)
def test_densenets_are_torchvisions_with_and_without_the_last_relu(entry: str, tmp_path: Path) -> None:
    path, made = published.write(tmp_path, entry)
    network = torchvision.models.densenet121(weights=None).eval()
    channels = 3
    if entry.startswith("torchxrayvision"):
        network.features.conv0, channels = nn.Conv2d(1, 64, 7, 2, 3, bias=False), 1
    features = {re.sub(r"^(backbone\.0|features)\.", "", k): v for k, v in made.items() if "." in k and k[0] != "c"}
    network.features.load_state_dict(features)
    image = _image(128, 128, channels=channels)
    expected = network.features(image)
    _same(_network(entry, path)(image), F.relu(expected))
    _same(_network(entry, path, final_relu=False)(image), expected)
    assert expected.min() < 0


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("entry", ["radimagenet_resnet50", "radimagenet_inceptionv3", "lvm_med_resnet50"])
def test_other_cnns_are_torchvisions(entry: str, tmp_path: Path) -> None:
    path, made = published.write(tmp_path, entry)
    if entry == "radimagenet_inceptionv3":
        network: nn.Module = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    else:
        network = torchvision.models.resnet50(weights=None)
    body = nn.Sequential(*list(network.children())[: 18 if entry == "radimagenet_inceptionv3" else 8]).eval()
    if entry.startswith("radimagenet"):
        body.load_state_dict({key.removeprefix("backbone."): tensor for key, tensor in made.items()})
    else:
        network.load_state_dict(made, strict=False)
    image = _image(128, 128)
    _same(_network(entry, path)(image), body(image))


@pytest.mark.slow
@torch.no_grad()
def test_lvm_med_is_sams_encoder_without_positions_and_neck(tmp_path: Path) -> None:
    path, made = published.write(tmp_path, "lvm_med_vit_b")
    image = _image(224, 224)
    _same(_network("lvm_med_vit_b", path)(image), literal.sam(image, made, 12, (2, 5, 8, 11), neck=False))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("entry", ["sam_vit_b", "medsam"])
def test_sam_is_sams_encoder(entry: str, tmp_path: Path) -> None:
    """Three of its twelve blocks at 320 instead of 1024 pixels: 20 x 20 tokens do not fill whole windows either."""
    made = published.values(vits.sam(320, 3, (2,)))
    torch.save(made, tmp_path / "sam.pth")
    image = _image(320, 320)
    network = _network(entry, tmp_path / "sam.pth", img_size=320, depth=3)
    _same(network(image), literal.sam(image, made, 3, (2,), "image_encoder."))


@pytest.mark.slow
@torch.no_grad()
def test_biomedclip_is_a_vit(tmp_path: Path) -> None:
    """Three of its twelve blocks."""
    w = published.values(published.shallow(published.RECORDED["biomedclip/open_clip_pytorch_model.bin"], 3))
    torch.save(w, tmp_path / "biomedclip.bin")
    image, at = _image(224, 224), "visual.trunk."
    x = literal.patches(image, w, f"{at}patch_embed.proj")
    x = torch.cat([w[f"{at}cls_token"], x], dim=1) + w[f"{at}pos_embed"]
    x = literal.vit(x, w, at + "blocks.{i}.", 3, 12, final=f"{at}norm")
    _same(_network("biomedclip", tmp_path / "biomedclip.bin", depth=3)(image), literal.grid(x, (14, 14)))


@torch.no_grad()
def test_three_projections_that_do_not_belong_together(tmp_path: Path) -> None:
    made = published.values(vits.siglip(112, 1))
    key = "vision_model.encoder.layers.0.self_attn.v_proj.weight"
    torch.save({**made, key: made[key][:7]}, tmp_path / "odd.bin")
    with pytest.raises(ValueError, match=rf"1 missing: blocks\.0\.attn\.qkv\.weight; 3 unexpected: .*{re.escape(key)}"):
        load_teacher("medsiglip_448", tmp_path / "odd.bin", img_size=112, depth=1)


@pytest.mark.slow
@torch.no_grad()
def test_medsiglip_is_transformers_siglip(tmp_path: Path) -> None:
    """Two of 27 blocks, 112 instead of 448 pixels, in a safetensors file."""
    w = published.values(vits.siglip(112, 2))
    save_file({key: tensor.clone() for key, tensor in w.items()}, tmp_path / "model.safetensors")
    image, at = _image(112, 112), "vision_model."
    x = literal.patches(image, w, f"{at}embeddings.patch_embedding")
    x = literal.vit(
        x + w[f"{at}embeddings.position_embedding.weight"],
        w,
        at + "encoder.layers.{i}.",
        2,
        16,
        norms=("layer_norm1", "layer_norm2"),
        qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out="self_attn.out_proj",
        final=f"{at}post_layernorm",
        gelu="tanh",
    )
    network = _network("medsiglip_448", tmp_path / "model.safetensors", img_size=112, depth=2)
    _same(network(image), literal.grid(x, (8, 8)))


@pytest.mark.slow
@torch.no_grad()
def test_retfound_is_maes_encoder(tmp_path: Path) -> None:
    """Two of 24 blocks."""
    w = published.values(vits.mae(2))
    torch.save({"model": w}, tmp_path / "mae.pth")
    image = _image(224, 224)
    x = torch.cat([w["cls_token"], literal.patches(image, w, "patch_embed.proj")], dim=1) + w["pos_embed"]
    x = literal.vit(x, w, "blocks.{i}.", 2, 16)
    _same(_network("retfound", tmp_path / "mae.pth", depth=2)(image), literal.grid(x, (14, 14)))


@pytest.mark.slow
@torch.no_grad()
def test_usfm_is_beit(tmp_path: Path) -> None:
    """Three of its twelve blocks."""
    w = published.values(published.shallow(published.RECORDED["usfm/USFM_latest.pth"], 3))
    torch.save(w, tmp_path / "usfm.pth")
    image = _image(224, 224)
    x = torch.cat([w["cls_token"], literal.patches(image, w, "patch_embed.proj")], dim=1)
    x = literal.vit(
        x,
        w,
        "blocks.{i}.",
        3,
        12,
        scales=("gamma_1", "gamma_2"),
        bias=literal.shared_bias(w["rel_pos_bias.relative_position_bias_table"], 14),
        qkv_bias=("attn.q_bias", "attn.v_bias"),
    )
    _same(_network("usfm", tmp_path / "usfm.pth", depth=3)(image), literal.grid(x, (14, 14)))


@pytest.mark.slow
@torch.no_grad()
def test_ct_fm_is_a_residual_encoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, w = published.write(tmp_path, "ct_fm")
    volume = _image(32, 48, 32, channels=1)
    _same(_network("ct_fm", path)(volume), literal.segres(volume, w, (1, 2, 2, 4, 4)))
    caplog.set_level(logging.INFO)
    teacher = load_teacher("ct_fm", path, tap="vector")
    assert '0 is -1024 HU and 1 is 2048 HU: --windows "[[512, 3072]]" (centre, width)' in caplog.text
    anywhere = torch.rand(2, 1, 14, 35, 30)
    resized = F.interpolate(anywhere, (16, 32, 32), mode="trilinear", align_corners=False)
    assert teacher.spatial_dims == 3
    _same(teacher(anywhere)[:, 0], literal.segres(resized, w, (1, 2, 2, 4, 4)).mean(dim=(2, 3, 4)))


@pytest.mark.slow
@torch.no_grad()
def test_swin_is_what_monai_loads_from_the_same_file(tmp_path: Path) -> None:
    from monai.networks.nets import SwinUNETR

    whole = SwinUNETR(in_channels=1, out_channels=32, feature_size=48).eval()
    volume = _image(32, 32, 32, channels=1)
    path, made = published.write(tmp_path, "swinunetr_ssl")
    whole.load_from({"state_dict": published.relative_positions(made)})
    _same(_network("swinunetr_ssl", path)(volume), whole.swinViT(volume)[-1])
    path, made = published.write(tmp_path, "suprem_swinunetr")
    own = {key.removeprefix("module.backbone."): tensor for key, tensor in published.relative_positions(made).items()}
    whole.load_state_dict(own)
    _same(_network("suprem_swinunetr", path)(volume), whole.swinViT(volume)[-1])


@pytest.mark.slow
@torch.no_grad()
def test_brainiac_is_a_vit_of_volumes(tmp_path: Path) -> None:
    """Three of its twelve blocks."""
    w = published.values(published.shallow(published.RECORDED["brainiac/BrainIAC.ckpt"], 3))
    torch.save({"state_dict": w}, tmp_path / "brainiac.ckpt")
    volume = _image(96, 96, 96, channels=1)
    x = literal.patches(volume, w, "backbone.patch_embedding.patch_embeddings")
    x = literal.vit(
        x + w["backbone.patch_embedding.position_embeddings"],
        w,
        "backbone.blocks.{i}.",
        3,
        12,
        eps=1e-5,
        out="attn.out_proj",
        mlp=("mlp.linear1", "mlp.linear2"),
        final="backbone.norm",
    )
    _same(_network("brainiac", tmp_path / "brainiac.ckpt", num_layers=3)(volume), literal.grid(x, (6, 6, 6)))
