import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import NormalizeIntensity, Orientation
from torch import nn
from torch.nn import functional as F

from monai_rd.networks.features import Reads
from monai_rd.networks.preprocessing import Preprocessing, VolumePreprocessing
from monai_rd.networks.teacher import foundation
from monai_rd.networks.teacher.foundation import FrozenFoundationModel
from monai_rd.networks.teacher.zoo import TEACHERS
from monai_rd.transforms import SliceStackd

AS_IT_IS = Preprocessing(None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def backbone():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.ReLU())


def teacher(network=None, **changed):
    options = {"channels": 6, "kind": "map", "preprocessing": AS_IT_IS, "name": "fake", **changed}
    return FrozenFoundationModel(network or backbone(), **options)


# --- frozen -----------------------------------------------------------------------------------------------------------


def test_frozen_bit_for_bit_while_what_it_feeds_is_trained():
    network = backbone()
    frozen = teacher(network)
    before, print_before = {key: t.clone() for key, t in network.state_dict().items()}, frozen.fingerprint()
    phi = nn.Conv2d(6, 2, 1)
    together = nn.ModuleList([frozen, phi])
    optimizer = torch.optim.AdamW(together.parameters(), lr=0.1)
    together.train()
    moved = phi.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        features = frozen(torch.rand(2, 3, 8, 8, requires_grad=True))
        assert not features.requires_grad
        assert not features.is_inference()  # phi keeps them for its backward
        phi(features).square().mean().backward()
        optimizer.step()
    assert not torch.equal(phi.weight, moved)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    assert frozen.fingerprint() == print_before
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_eval_for_ever():
    network = backbone()
    frozen = teacher(network)
    assert frozen.train() is frozen
    network.train()
    nn.ModuleList([frozen]).train()
    assert not frozen.training
    assert not any(module.training for module in network.modules())
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(frozen(image), frozen(image))


def test_no_checkpoint_and_no_optimizer_sees_it():
    frozen = teacher()
    assert list(frozen.parameters()) == []
    assert list(frozen.buffers()) == []
    assert list(frozen.children()) == []
    assert frozen.state_dict() == {}


def test_to_moves_the_backbone():
    network = backbone()
    frozen = teacher(network).to(torch.float64)
    assert {t.dtype for t in network.state_dict().values() if t.is_floating_point()} == {torch.float64}
    assert frozen(torch.rand(1, 3, 8, 8)).dtype == torch.float64
    frozen.to("meta")
    assert next(network.parameters()).device.type == "meta"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda():
    network = backbone()
    frozen = teacher(network, preprocessing=Preprocessing(6, (0.5,) * 3, (0.5,) * 3, "BGR", "bicubic"))
    image = torch.rand(2, 3, 8, 8)
    on_cpu = frozen(image)
    on_cuda = frozen.cuda()(image.cuda())
    assert on_cuda.is_cuda
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, atol=1e-3, rtol=1e-3)


def test_runs_in_the_callers_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher()(torch.rand(1, 3, 8, 8)).dtype == torch.bfloat16


def test_fingerprint_tells_weights_preprocessing_and_kind_apart():
    network = backbone()
    prints = {teacher(network).fingerprint()}
    prints.add(teacher(network, preprocessing=dataclasses.replace(AS_IT_IS, channel_order="BGR")).fingerprint())
    prints.add(teacher(network, kind="vector").fingerprint())
    with torch.no_grad():
        next(network.parameters())[0, 0, 0, 0] += 1e-3
    prints.add(teacher(network).fingerprint())
    assert len(prints) == 4
    assert all(len(p) == 64 for p in prints)
    with pytest.raises(TypeError, match="fingerprint"):
        teacher(lambda image: image).fingerprint()


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["map", "vector"])
def test_a_bag_is_its_slices(kind):
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if kind == "vector" else nn.Identity()
    frozen = teacher(nn.Sequential(backbone(), pool), kind=kind)
    bag = torch.rand(2, 5, 3, 8, 8)
    features = frozen(bag)
    assert features.shape == ((2, 5, 6, 8, 8) if kind == "map" else (2, 5, 6))
    torch.testing.assert_close(features, torch.stack([frozen(bag[:, s]) for s in range(5)], dim=1))
    assert frozen(bag[:, 0]).shape == features[:, 0].shape


def resident() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux to see the memory")
def test_a_teacher_at_rest_takes_no_memory_and_gives_the_same(tmp_path):
    width = 4096  # 64 MB
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, width), nn.Linear(width, width))
    model = teacher(network, channels=width, kind="vector")
    image = torch.rand(2, 3, 8, 8)
    expected, name, before = model(image), model.fingerprint(), resident()
    model.offload(tmp_path)
    assert before - resident() > 0.8 * 4 * width**2
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(model(image), expected)
    assert model.fingerprint() == name
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_features_other_than_stated_are_refused():
    image = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"'fake' states a map \[2, 7, h, w\].*\[2, 6, 8, 8\]"):
        teacher(channels=7)(image)
    with pytest.raises(ValueError, match=r"states a vector \[2, 6\]"):
        teacher(kind="vector")(image)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        teacher()(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="dimensions"):
        teacher()(torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match="kind"):
        teacher(kind="tokens")
    with pytest.raises(ValueError, match="channels"):
        teacher(channels=0)


# --- preprocessing ----------------------------------------------------------------------------------------------------


def test_preprocessing_is_what_radimagenets_authors_wrote():
    pixels = torch.randint(0, 256, (2, 3, 224, 224))
    got = TEACHERS["radimagenet_densenet121"].preprocessing(pixels / 255)
    torch.testing.assert_close(got, (pixels[:, [2, 1, 0]].float() - 127.5) * 2 / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preprocessing_restated(interpolation):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    image = (torch.rand(2, 3, 50, 30) > 0.5).float()  # hard edges: bicubic overshoots
    got = Preprocessing((20, 25), mean, std, "RGB", interpolation)(image)
    resized = F.interpolate(image, size=(20, 25), mode=interpolation, antialias=True)
    assert interpolation == "bilinear" or resized.max() > 1
    for channel in range(3):
        expected = (resized[:, channel].clamp(0, 1) - mean[channel]) / std[channel]
        torch.testing.assert_close(got[:, channel], expected)


def test_preprocessing_to_grey_in_float32_and_through_json():
    image = torch.rand(2, 3, 8, 8, dtype=torch.float16)
    grey = Preprocessing(None, (0.5,), (0.25,), "GRAY")
    r, g, b = image.float().unbind(1)
    torch.testing.assert_close(grey(image), ((0.299 * r + 0.587 * g + 0.114 * b - 0.5) / 0.25)[:, None])
    assert grey(image).dtype == torch.float32
    for preprocessing in (grey, Preprocessing((40, 48), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "BGR", "bicubic")):
        assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    "arguments",
    [
        (0, (0.5,) * 3, (0.5,) * 3),
        (8, (0.5,), (0.5,)),
        (8, (0.5,) * 3, (0.5, 0.5, 0.0)),
        (8, None, (0.5,) * 3),
        (8, (0.5,) * 3, (0.5,) * 3, "RBG"),
        (8, (0.5,) * 3, (0.5,) * 3, "RGB", "nearest"),
    ],
)
def test_preprocessing_refuses(arguments):
    with pytest.raises(ValueError, match=r"must be|needs"):
        Preprocessing(*arguments)


# --- volumes ----------------------------------------------------------------------------------------------------------


def volumes(channels=4, **changed):
    preprocessing = VolumePreprocessing(None, **{"multiple": 2, **changed})
    network = nn.Conv3d(1, channels, 2, 2)
    return FrozenFoundationModel(network, channels=channels, kind="map", preprocessing=preprocessing, name="fake")


def test_a_teacher_of_volumes():
    frozen = volumes()
    assert (frozen.spatial_dims, teacher().spatial_dims) == (3, 2)
    assert frozen(torch.rand(2, 1, 4, 6, 8)).shape == (2, 1, 4, 2, 3, 4)
    windows = torch.rand(2, 3, 4, 6, 8)
    found = frozen(windows)
    assert found.shape == (2, 3, 4, 2, 3, 4)
    torch.testing.assert_close(found[:, 1:2], frozen(windows[:, 1:2]))  # each window by itself
    pooled = nn.Sequential(nn.Conv3d(1, 4, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    vector = FrozenFoundationModel(pooled, channels=4, kind="vector", preprocessing=VolumePreprocessing(8), name="fake")
    assert vector(windows).shape == (2, 3, 4)
    with pytest.raises(ValueError, match=r"volumes are \[B, windows, D, H, W\], got 4 dimensions"):
        frozen(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"states a map \[2, 5, d, h, w\].*\[2, 4, 2, 2, 2\]"):
        FrozenFoundationModel(
            nn.Conv3d(1, 4, 2, 2), channels=5, kind="map", preprocessing=VolumePreprocessing(None), name="fake"
        )(torch.rand(2, 1, 4, 4, 4))
    prints = {volumes().fingerprint() for _ in range(2)} | {volumes(axcodes="RAS").fingerprint()}
    assert len(prints) == 3  # two sets of weights, and other axes


@pytest.mark.parametrize("fits", [4 * 6 * 8 - 1, 2 * 4 * 6 * 8 + 1])
def test_large_volumes_are_shown_a_few_at_a_time(monkeypatch, fits):
    """So that a batch needs no more memory than a volume of the largest teachers."""
    frozen, windows = volumes(), torch.rand(2, 3, 4, 6, 8)
    frozen.backbone.stages = [""]
    whole, sizes = frozen.read(windows, Reads(tap=True, levels=frozen.levels)), []
    monkeypatch.setattr(foundation, "_VOXELS", fits)
    frozen.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    pieces = frozen.read(windows, Reads(tap=True, levels=frozen.levels))
    assert sizes == ([1] * 6 if fits < 4 * 6 * 8 else [2] * 3)
    torch.testing.assert_close(pieces.tap, whole.tap)
    torch.testing.assert_close(pieces.maps, whole.maps)
    assert len(whole.maps) == 1


@pytest.mark.parametrize(
    "axcodes",
    ["".join(codes) for order in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*order)],
)
def test_axes_are_monais(axcodes):
    """All 48 orientations, against MONAI's on a volume whose affine says "SPL"."""
    volume = torch.rand(1, 2, 3, 4)
    affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    labels = (("L", "R"), ("P", "A"), ("I", "S"))
    own = MetaTensor(volume, affine=torch.from_numpy(affine))
    assert torch.equal(Orientation(axcodes="SPL", labels=labels)(own).as_tensor(), volume)
    expected = Orientation(axcodes=axcodes, labels=labels)(own).as_tensor()
    assert torch.equal(VolumePreprocessing(None, axcodes=axcodes)(volume[None])[0], expected)


def test_a_stack_of_slices_is_turned_back_to_the_patient():
    """What the bundles' transforms make of a volume, seen by a teacher that wants it as MONAI reads most NIfTI."""
    ras = torch.rand(1, 5, 6, 7)
    stack = SliceStackd("image", slices=7)({"image": MetaTensor(ras, affine=torch.eye(4))})["image"].as_tensor()
    assert stack.shape == (7, 6, 5)
    assert torch.equal(VolumePreprocessing(None, axcodes="RAS")(stack[None, None])[0], ras)


def test_volumes_are_resized_and_scaled():
    volume = torch.rand(2, 1, 10, 20, 30)
    got = VolumePreprocessing((8, 12, 16), 0.25, 0.5, "LPS", multiple=4)(volume)
    resized = F.interpolate(volume.permute(0, 1, 4, 3, 2), (8, 12, 16), mode="trilinear", align_corners=False)
    torch.testing.assert_close(got, (resized - 0.25) / 0.5)
    assert VolumePreprocessing(None, multiple=16)(volume).shape == (2, 1, 16, 16, 32)
    assert VolumePreprocessing(None, multiple=32)(volume).shape == (2, 1, 32, 32, 32)
    assert torch.equal(VolumePreprocessing(None, multiple=10)(volume), volume)
    assert VolumePreprocessing(12)(volume.half()).dtype == torch.float32


def test_volumes_of_arbitrary_units_are_standardised_as_monai_does():
    volume = torch.rand(2, 1, 6, 7, 8)
    volume[0, :, :3] = 0
    volume[1] = 0
    got = VolumePreprocessing(None, mean=None, std=None)(volume)
    torch.testing.assert_close(got[0], NormalizeIntensity(nonzero=True)(volume[0]), atol=1e-5, rtol=1e-5)
    assert torch.equal(got[1], volume[1])
    got = VolumePreprocessing(None, mean=None, std=None, nonzero=False)(volume)
    torch.testing.assert_close(got[0], NormalizeIntensity()(volume[0]), atol=1e-5, rtol=1e-5)


def test_images_of_arbitrary_units_are_standardised_as_monai_does():
    image = torch.rand(2, 3, 40, 50) * torch.tensor([1.0, 0.1, 0.01])[:, None, None]
    image[1, 2] = 0.3  # all equal: rounding is no contrast
    got = Preprocessing(None, None, None)(image)
    torch.testing.assert_close(got[0], NormalizeIntensity(channel_wise=True)(image[0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got[1, 2], torch.zeros(40, 50), atol=1e-6, rtol=0)
    grey = Preprocessing(None, None, None, "GRAY")
    assert grey(image).shape == (2, 1, 40, 50)
    assert Preprocessing.from_dict(json.loads(json.dumps(grey.to_dict()))) == grey


def test_volume_preprocessing_through_json_and_what_it_refuses():
    plain = VolumePreprocessing((32, 64, 96), None, None, "RAS", 32)
    assert set(plain.to_dict()) == {"size", "mean", "std", "axcodes", "multiple"}
    for preprocessing in (plain, VolumePreprocessing(None, None, None, nonzero=False)):
        assert VolumePreprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    for wrong in (
        {"axcodes": "RAL"},
        {"axcodes": "RA"},
        {"axcodes": "XYZ"},
        {"mean": None},
        {"std": 0.0},
        {"size": 0},
        {"size": (32, 0, 32)},
        {"size": 40, "multiple": 32},
        {"multiple": 0},
    ):
        with pytest.raises(ValueError, match="must be"):
            VolumePreprocessing(**{"size": None, **wrong})
