"""How a teacher wants its images, told by who uses it: turns, values, sizes, and where it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from monai_rd.adapters import build_adapter
from monai_rd.networks import FrozenFoundationModel, Preprocessing, Reads, VolumePreprocessing, load_teacher
from monai_rd.networks.teacher.zoo.options import preprocessing_with_options
from tests.networks.teacher.test_blackbox import classifier, export, tiny_tflite

ARGUMENTS = {"channels": [4, 4, 8, 8], "num_classes": 0}
NAME = "timm:resnet10t"

# As numpy turns a picture whose first axis are its rows.
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rotate90": np.rot90,
    "rotate180": lambda x: np.rot90(x, 2),
    "rotate270": lambda x: np.rot90(x, 3),
    "flip_up_down": np.flipud,
    "flip_left_right": np.fliplr,
    "transpose": lambda x: x.T,
    "anti_transpose": lambda x: np.rot90(x, 2).T,
    "RAS": lambda x: np.rot90(x, 2).T,
    "LPS": lambda x: x.T,
}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", **ARGUMENTS)
    path = tmp_path_factory.mktemp("resnet") / "resnet.safetensors"
    save_file(network.state_dict(), path)
    return path


def load(resnet: Path, **options: Any) -> FrozenFoundationModel:
    return load_teacher(NAME, resnet, options=options, **ARGUMENTS)


# ------------------------------------------------------------------------------------------------------------ the image


@pytest.mark.parametrize("turn", TURNS)
def test_turns_are_numpys(turn: str) -> None:
    image = torch.rand(1, 3, 4, 6)
    expected = torch.from_numpy(TURNS[turn](image[0, 1].numpy()).copy())
    assert torch.equal(Preprocessing(None, (0.0,) * 3, (1.0,) * 3, turn=turn)(image)[0, 1], expected)


class _Same(nn.Module):
    """The image itself as features, and as a level."""

    stages = ("network",)

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.network = nn.Conv2d(3, 3, 1, bias=False) if spatial_dims == 2 else nn.Conv3d(1, 1, 1, bias=False)
        nn.init.dirac_(self.network.weight)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)


@pytest.mark.parametrize("turn", TURNS)
def test_maps_lie_as_the_image_does(turn: str) -> None:
    plain = Preprocessing(None, (0.0,) * 3, (1.0,) * 3, turn=turn)
    teacher = FrozenFoundationModel(_Same(2), channels=3, kind="map", preprocessing=plain, name="same")
    image = torch.rand(2, 3, 4, 6)
    seen = teacher.read(image, Reads(tap=True, levels=teacher.levels))
    for one in (seen.tap, *seen.maps):
        torch.testing.assert_close(one, image)


@pytest.mark.parametrize("axcodes", ["RAS", "LPI", "ASR", "SPL"])
def test_maps_lie_as_the_volume_does(axcodes: str) -> None:
    plain = VolumePreprocessing(None, axcodes=axcodes)
    teacher = FrozenFoundationModel(_Same(3), channels=1, kind="map", preprocessing=plain, name="same")
    volume = torch.rand(2, 1, 4, 5, 6)
    seen = teacher.read(volume, Reads(tap=True, levels=teacher.levels))
    for one in (seen.tap.flatten(0, 1), *seen.maps):
        torch.testing.assert_close(one, volume)


def test_a_teacher_without_a_turn_is_described_as_ever() -> None:
    plain = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
    turned = Preprocessing(8, (0.5,) * 3, (0.5,) * 3, turn="RAS")
    assert set(plain.to_dict()) == {"size", "mean", "std", "channel_order", "interpolation"}
    assert Preprocessing.from_dict(json.loads(json.dumps(turned.to_dict()))) == turned
    assert Preprocessing.from_dict(plain.to_dict()) == plain


# -------------------------------------------------------------------------------------------------------------- the tap


@pytest.mark.parametrize(("tap", "channels", "side"), [("layer3", 8, 4), ("layer1", 4, 16), ("network.layer4.0", 8, 2)])
def test_a_tap_is_any_module_that_gives_a_map(resnet: Path, tap: str, channels: int, side: int) -> None:
    teacher, image = load(resnet, tap=tap, size=64), torch.rand(2, 3, 80, 80)
    assert (teacher.channels, teacher.kind) == (channels, "map")
    found: dict[str, Tensor] = {}
    backbone: Any = teacher.backbone
    module = backbone.network.get_submodule(tap.removeprefix("network."))
    handle = module.register_forward_hook(lambda _, __, output: found.update(output=output))
    features = teacher(image)
    handle.remove()
    assert features.shape == (2, channels, side, side)
    assert torch.equal(features, found["output"])
    if tap == "layer3":  # and what reads levels reads them beside it
        seen = teacher.read(image, Reads(tap=True, levels=teacher.levels))
        assert [one.shape[1] for one in seen.maps] == [4, 4, 8, 8]
        assert torch.equal(seen.tap, seen.maps[2])


def test_a_tap_in_a_transformer_and_another_size(tmp_path: Path) -> None:
    small: dict[str, Any] = {"depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
    network = timm.create_model("vit_tiny_patch16_224", **small).eval()
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    name, image = "timm:vit_tiny_patch16_224", torch.rand(1, 3, 224, 224)
    teacher = load_teacher(name, tmp_path / "vit.safetensors", options={"tap": "blocks.1"}, **small)
    with torch.no_grad():
        tokens = network.patch_embed((image - 0.5) / 0.5)
        tokens = network.blocks[:2](network.norm_pre(network._pos_embed(tokens)))
    torch.testing.assert_close(teacher(image)[0, :, 2, 3], tokens[0, 1 + 2 * 14 + 3])
    with pytest.raises(ValueError, match="adapter 'lora' changes a network that is read at its end"):
        build_adapter("lora", teacher, 2)
    smaller = load_teacher(name, tmp_path / "vit.safetensors", options={"size": [96, 128]}, **small)
    assert smaller(image).shape == (1, 48, 6, 8)
    with pytest.raises(ValueError, match=r"does not take images of size 100 \("):
        load_teacher(name, tmp_path / "vit.safetensors", options={"size": 100}, **small)


# ----------------------------------------------------------------------------------------------------- files alike


def test_onnx_as_its_makers_wanted_it(tmp_path: Path) -> None:
    path, image = (
        export(classifier(), torch.rand(2, 3, 32, 32), tmp_path / "n.onnx", dynamic=True),
        torch.rand(2, 3, 40, 32),
    )
    told = {"mean": [0.1, 0.2, 0.3], "std": 1 / 255, "channel_order": "BGR", "turn": "RAS", "interpolation": "bicubic"}
    teacher, plain = load_teacher(str(path), options=told), load_teacher(str(path))
    wanted = Preprocessing(32, (0.1, 0.2, 0.3), (1 / 255,) * 3, "BGR", "bicubic", "RAS")(image)
    backbone: Any = plain.backbone
    torch.testing.assert_close(teacher(image), backbone(wanted).transpose(-2, -1).flip(-2, -1))
    assert teacher.fingerprint() != plain.fingerprint()
    early = load_teacher(str(path), options={"tap": teacher.levels[0].module})
    assert (early.channels, early(image).shape[2:]) == (8, (16, 16))


def test_tflite_of_the_size_that_was_asked_for(tmp_path: Path) -> None:
    tiny_tflite(tmp_path / "open.tflite", (-1, -1, -1, 3))
    teacher = load_teacher(str(tmp_path / "open.tflite"), options={"size": [16, 12], "mean": 0.5, "std": 0.25})
    assert teacher(torch.rand(2, 3, 8, 8)).shape == (2, 4, 16, 12)
    assert teacher.preprocessing == Preprocessing((16, 12), (0.5,) * 3, (0.25,) * 3)


def test_each_image_by_its_own_mean_and_std(resnet: Path) -> None:
    teacher = load(resnet, mean=None, std=None)
    assert teacher.preprocessing == Preprocessing((176, 176), None, None, interpolation="bicubic")
    plain = VolumePreprocessing(8, None, None)
    assert preprocessing_with_options("volumes", plain, {"nonzero": False}) == replace(plain, nonzero=False)
    with pytest.raises(ValueError, match="teacher_options of 'volumes': nonzero must be true or false, not 1"):
        preprocessing_with_options("volumes", plain, {"nonzero": 1})


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"men": 0.5}, r"'men' is none of tap, size, mean, .* \(did you mean 'mean'\?\)"),
        ({"mean": [0.5, 0.5]}, "mean must be one number, or one for each of 3 channels, not"),
        ({"mean": "grey"}, "mean must be of numbers, not 'grey'"),
        ({"mean": [0.5, None, 0.5]}, "mean must be one number, or one for each of 3"),
        ({"std": float("nan")}, "std must be of numbers, not nan"),
        ({"mean": None}, "RGB needs 3 means and 3 stds above 0, or both None; got None"),
        ({"std": 0}, "RGB needs 3 means and 3 stds above 0"),
        ({"channel_order": "GRB"}, "channel_order must be 'RGB', 'BGR' or 'GRAY', not 'GRB'"),
        ({"channel_order": "GRAY"}, "channel_order 'GRAY': the network takes images of 3 channels"),
        ({"channel_order": 3}, "channel_order must be a word, not 3"),
        ({"size": 22.4}, "size must be of whole numbers of at least 1, not 22.4"),
        ({"size": [224]}, r"size must be one whole number, or 2 of them, not \[224\]"),
        ({"turn": "ras"}, "turn must be one of rotate90, .*RAS, LPS, not 'ras'"),
        ({"interpolation": "nearest"}, "interpolation must be"),
        ({"tap": "layer33"}, r"tap 'layer33' is nothing in the network: .*layer1, .*\(did you mean 'layer3'\?\)"),
        ({"tap": "global_pool"}, r"tap 'global_pool' is no feature map \[B, C, h, w\]"),
        ({"tap": 3}, "tap must be 'map', 'vector' or a name, not 3"),
    ],
)
def test_wrong_options_are_named(resnet: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"teacher_options of '{NAME}': {said}"):
        load(resnet, **options)


def test_wrong_options_of_files_and_volumes(tmp_path: Path) -> None:
    tiny_tflite(tmp_path / "fixed.tflite", (1, 8, 8, 3))
    for options, said in (
        ({"size": 16}, r"fixed\.tflite fixes the size of its images, 8 x 8; asked was \(16, 16\)"),
        ({"size": None}, r"teacher_options of 'fixed\.tflite': a size is needed"),
        ({"channel_order": "GRAY"}, r"teacher_options of 'fixed\.tflite': channel_order 'GRAY'"),
        ({"tap": "layer3"}, "no activation is named 'layer3'"),
    ):
        with pytest.raises(ValueError, match=said):
            load_teacher(str(tmp_path / "fixed.tflite"), options=options)
