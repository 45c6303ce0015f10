"""The features of Merlin, Astra, FlexiCT, VISTA3D and OpenMind are those of independent networks."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import timm
import torch
from monai.networks.nets import vista3d132
from monai.transforms import Orientation
from pydicom.data import get_testdata_file
from torch import Tensor, nn
from torchvision.models import resnet152

from monai_rd.networks import Reads
from monai_rd.networks.levels import find_levels
from monai_rd.networks.teacher.zoo import TEACHERS, load_teacher
from monai_rd.networks.teacher.zoo.architectures import I3ResNet, ResidualEncoder, RotaryViT
from monai_rd.networks.teacher.zoo.loading import open_teacher
from monai_rd.transforms import LoadDicomSeriesd
from tests.networks.teacher.zoo import literal_3d, published, published_3d
from tests.networks.teacher.zoo.test_layouts import _image, _network, _same

REAL = Path(os.environ.get("MONAI_RD_TEACHERS", "absent")) / "astra_encoder.pt"
needs_astra = pytest.mark.skipif(not REAL.is_file(), reason="no astra_encoder.pt in the folder MONAI_RD_TEACHERS")


# --- Merlin and Astra -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
def test_merlin_is_an_inflated_resnet(tmp_path: Path) -> None:
    path, made = published.write(tmp_path, "merlin")
    volume = _image(16, 64, 32, channels=1)
    _, layer4 = literal_3d.inflated_resnet(volume, made, "encode_image.i3_resnet.")
    _same(_network("merlin", path)(volume), layer4)
    with pytest.raises(ValueError, match=r"0 of 930 tensors fit.*those of astra or astra_2d: --teacher astra"):
        load_teacher("merlin", published.write(tmp_path, "astra", outline=True)[0])


@pytest.mark.slow
@torch.no_grad()
def test_astra_summed_is_torchvisions_resnet(tmp_path: Path) -> None:
    """From the file of volumes and from the summed one; and an image is what a volume of equal slices is."""
    path, made = published.write(tmp_path, "astra_2d")
    flat = {key: tensor.sum(dim=2) if tensor.dim() == 5 else tensor for key, tensor in made.items()}
    torch.save(flat, tmp_path / "flat.pt")
    with torch.device("meta"):
        other = resnet152(weights=None).eval()
    other.load_state_dict(flat, strict=False, assign=True)  # all but its classifier, which is left out below
    image = _image(64, 96)
    expected = nn.Sequential(*list(other.children())[:8])(image)
    _same(_network("astra_2d", path)(image), expected)
    _same(_network("astra_2d", tmp_path / "flat.pt")(image), expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_slices_are_turned_as_volumes_are(axis: int) -> None:
    """A slice as `astra_2d` gets it and the same slice of a volume as `astra` gets it have the same axes."""
    displayed = torch.zeros(1, 1, 8, 8)
    displayed.narrow(2 + axis, 0, 2).fill_(1.0)  # the patient's front, or right side
    prepare, of_volumes = TEACHERS["astra_2d"].preprocessing, TEACHERS["astra"].preprocessing
    flat = prepare(displayed.expand(1, 3, 8, 8))[0, 0]
    (volume,) = of_volumes(displayed[:, :, None].expand(1, 1, 4, 8, 8))[0]
    assert volume.shape == (160, 224, 224)
    assert torch.equal(flat > 0.5, volume[80] > 0.5)
    assert flat.std() > 0.1


HEART = "98892001/CT5N", (1, 5, 16, 16), "*"
# Of the series that the documentation of highdicom uses, the three slices beside each other.
HEAD = "77654033/CT2", (1, 3, 16, 16), "171[369]6"


def real_ct(series: str, shape: tuple[int, ...], names: str) -> Tensor:
    """A series of pydicom's in 16 x 16 pixels; 0 is -1000 HU and 1 is 1000 HU."""
    folder = Path(get_testdata_file("CT_small.dcm")).parent / "dicomdirtests" / series
    files = [str(path) for path in sorted(folder.glob(names))]
    volume = Orientation(axcodes="SPL", labels=None)(LoadDicomSeriesd("image")({"image": files})["image"])
    assert volume.shape == shape
    return ((volume.as_tensor() + 1000) / 2000).clamp(0, 1)[None]


@needs_astra
@pytest.mark.slow
@torch.no_grad()
def test_the_real_astra_on_real_cts() -> None:
    teacher, _, coverage = open_teacher("astra", REAL, options={"size": [16, 64, 64]})
    assert str(coverage) == "930 of 930 tensors"
    assert [level.stride for level in teacher.levels] == [4, 8, 16, 32]
    weights = torch.load(REAL, weights_only=True)["state_dict"]
    for volume in (real_ct(*HEART), real_ct(*HEAD)):
        expected = literal_3d.inflated_resnet(teacher.preprocessing(volume), weights)
        seen = teacher.read(volume, Reads(tap=True, levels=teacher.levels))
        for got, right in ((seen.maps[2], expected[0]), (seen.maps[3], expected[1]), (seen.tap, expected[1])):
            assert got is not None
            assert got.isfinite().all()
            right = teacher.preprocessing.back(right)
            torch.testing.assert_close(got.reshape(right.shape), right, atol=1e-4, rtol=1e-4)


@needs_astra
@pytest.mark.slow
@torch.no_grad()
def test_the_real_astra_summed_on_a_real_ct() -> None:
    teacher, _, coverage = open_teacher("astra_2d", REAL)
    assert str(coverage) == "930 of 930 tensors"
    weights = torch.load(REAL, weights_only=True)["state_dict"]
    with torch.device("meta"):
        other = resnet152(weights=None).eval()
    flat = {key: tensor.float().sum(dim=2) if tensor.dim() == 5 else tensor.float() for key, tensor in weights.items()}
    other.load_state_dict(flat, strict=False, assign=True)
    image = real_ct(*HEART)[:, 0, 2:3].expand(-1, 3, -1, -1)
    expected = nn.Sequential(*list(other.children())[:8])(teacher.preprocessing(image))
    assert expected.std() > 0.01
    torch.testing.assert_close(teacher(image), teacher.preprocessing.back(expected), atol=1e-4, rtol=1e-4)


def test_the_stages_of_an_inflated_resnet_are_levels() -> None:
    """Although its maps are half as coarse along the depth as along the other sides."""
    small = I3ResNet(blocks=(1, 1, 1, 1)).to("meta")
    volume = torch.empty(1, 1, 160, 224, 224, device="meta")
    levels = find_levels(small, small.stages, volume)
    assert [(one.module, one.channels, one.stride) for one in levels] == [
        ("layer1", 256, 4),
        ("layer2", 512, 8),
        ("layer3", 1024, 16),
        ("layer4", 2048, 32),
    ]
    (tap,) = find_levels(small, ["layer3"], volume)
    assert (tap.channels, tap.layout) == (1024, "map")


# --- FlexiCT --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("sides", [(24, 40), (24, 16, 32)])
def test_flexict_is_a_vit_with_rotary_positions(sides: tuple[int, ...], tmp_path: Path) -> None:
    """Two of 16 blocks."""
    made = published.values(published_3d.flexict(2))
    torch.save({"teacher": made}, tmp_path / "teacher.pth")
    image = torch.cat([_image(*sides, channels=1), 2 * _image(*sides, channels=1)])
    expected = torch.cat([literal_3d.rotary_vit(one, made, 2, 12) for one in image.split(1)])
    _same(_network(f"flexict_{len(sides)}d", tmp_path / "teacher.pth", depth=2)(image), expected)


@torch.no_grad()
def test_two_axes_are_dinov3s() -> None:
    """timm's DINOv3 with the same weights; it computes positions in float32, FlexiCT in bfloat16."""
    torch.manual_seed(0)
    ours = RotaryViT(spatial_dims=2, width=144, depth=3, heads=2).eval()
    for name, tensor in ours.named_parameters():
        if name.startswith("blocks"):
            tensor.copy_(tensor + 0.3 * torch.randn_like(tensor) * (tensor.dim() == 1 or tensor.shape[-1] ** -0.5))
    theirs = timm.create_model(
        "vit_small_patch16_dinov3", embed_dim=144, depth=3, num_heads=2, patch_size=8, in_chans=1, num_classes=0
    ).eval()
    renamed = {
        r"\.(qkv|proj)\.": r".attn.\1.",
        r"\.fc": ".mlp.fc",
        r"\.scale": ".gamma_",
        r"^patch_embed\.": "patch_embed.proj.",
        "storage_tokens": "reg_token",
    }
    weights = {key: tensor for key, tensor in ours.state_dict().items() if key != "periods"}
    for own, other in renamed.items():
        weights = {re.sub(own, other, key): tensor for key, tensor in weights.items()}
    theirs.load_state_dict(weights)
    image = _image(40, 64, channels=1)
    expected = theirs.forward_features(image)[:, 5:].transpose(1, 2).unflatten(2, (5, 8))
    assert expected.std() > 0.5
    assert (ours(image) - expected).abs().max() < 0.02
    ours.periods.mul_(2)
    assert (ours(image) - expected).abs().max() > 0.1


# --- OpenMind and VISTA3D -------------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
def test_openmind_is_a_residual_encoder(tmp_path: Path) -> None:
    """Seven of 26 blocks."""
    blocks = (1, 2, 1, 1, 1, 1)
    made = published.values(published_3d.openmind(blocks))
    torch.save({"network_weights": made}, tmp_path / "checkpoint_final.pth")
    volume = _image(64, 64, 32, channels=1)
    expected = literal_3d.residual_encoder(volume, made, blocks)
    _same(_network("openmind_resenc_l", tmp_path / "checkpoint_final.pth", blocks=blocks)(volume), expected)


def test_a_volume_of_one_position_is_too_small_for_it() -> None:
    small = ResidualEncoder(channels=(4, 4), blocks=(1, 1))
    assert small(_image(4, 2, 2, channels=1)).shape == (1, 4, 2, 1, 1)
    with pytest.raises(ValueError, match=r"volumes of \[2, 2, 2\] voxels are too small: one side must be 4"):
        small(_image(2, 2, 2, channels=1))


@pytest.mark.slow
@torch.no_grad()
def test_vista3d_is_monais_encoder(tmp_path: Path) -> None:
    path, made = published.write(tmp_path, "vista3d")
    with torch.device("meta"):
        encoder = vista3d132().image_encoder.encoder
    at = "image_encoder.encoder."
    encoder.load_state_dict({key.removeprefix(at): made[key] for key in made if key.startswith(at)}, assign=True)
    volume = _image(32, 48, 32, channels=1)
    _same(_network("vista3d", path)(volume), encoder.eval()(volume)[-1])
