import dataclasses
import json
import pickle
import subprocess
import sys

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models import densenet121

from monai_rd.networks import foundation_zoo
from monai_rd.networks.foundation import FrozenFoundationModel, Preprocessing
from monai_rd.networks.foundation_zoo import TEACHERS, TeacherEntry, load_teacher, save_teacher

AS_IT_IS = Preprocessing(None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
TINY = TeacherEntry(
    name="tiny",
    builder="timm:resnet10t",
    arguments={"channels": [4, 4, 8, 8], "num_classes": 0, "global_pool": ""},
    preprocessing=Preprocessing((40, 48), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "BGR", "bicubic"),
    channels=8,
    kind="map",
    licence="CC0",
    source="this test",
)


def backbone():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.ReLU())


def teacher(network=None, **changed):
    options = {"channels": 6, "kind": "map", "preprocessing": AS_IT_IS, "name": "fake", **changed}
    return FrozenFoundationModel(network or backbone(), **options)


def randomised(network):
    """Normalisation layers told apart from each other, as after a training."""
    torch.manual_seed(0)
    for tensor in network.state_dict().values():
        if tensor.dim() == 1:
            tensor.add_(0.2 * torch.rand_like(tensor))
    return network


@pytest.fixture(scope="module")
def densenet():
    return randomised(densenet121(weights=None).eval())


@pytest.fixture(scope="module")
def radimagenet(densenet):
    """The published layout, made from torchvision's own keys."""
    return {f"backbone.0.{key}": tensor.clone() for key, tensor in densenet.features.state_dict().items()}


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
    for preprocessing in (grey, TINY.preprocessing):
        assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    "arguments",
    [
        (0, (0.5,) * 3, (0.5,) * 3),
        (8, (0.5,), (0.5,)),
        (8, (0.5,) * 3, (0.5, 0.5, 0.0)),
        (8, (0.5,) * 3, (0.5,) * 3, "RBG"),
        (8, (0.5,) * 3, (0.5,) * 3, "RGB", "nearest"),
    ],
)
def test_preprocessing_refuses(arguments):
    with pytest.raises(ValueError, match=r"must be|needs"):
        Preprocessing(*arguments)


# --- the zoo: RadImageNet ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tap", ["map", "vector"])
def test_radimagenet_is_torchvisions_features_and_a_relu(tmp_path, densenet, radimagenet, tap):
    assert len(radimagenet) == 725  # the published file
    file = tmp_path / "DenseNet121.pt"
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": tensor for key, tensor in radimagenet.items()}}
    torch.save(radimagenet if tap == "map" else wrapped, file)
    loaded = load_teacher("radimagenet_densenet121", file, tap)
    assert (loaded.channels, loaded.kind) == (1024, tap)
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = F.relu(densenet.features(image.flip(1) * 2 - 1))
    assert expected.isfinite().all()
    assert expected.std() > 0.01
    expected = expected if tap == "map" else expected.mean(dim=(2, 3))
    torch.testing.assert_close(loaded(image), expected, atol=1e-4, rtol=1e-4)


def test_a_file_that_fits_half(tmp_path, radimagenet):
    half = dict(list(radimagenet.items())[:300])
    half["backbone.0.conv0.weight"] = torch.zeros(64, 1, 7, 7)
    half["backbone.0.extra"] = torch.zeros(1)
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(
        ValueError, match=r"half\.safetensors does not fit radimagenet_densenet121: 299 of 725"
    ) as error:
        load_teacher("radimagenet_densenet121", tmp_path / "half.safetensors")
    message = str(error.value)
    assert "425 missing: features." in message
    assert "1 unexpected: backbone.0.extra" in message
    assert "1 misshapen: features.conv0.weight [64, 1, 7, 7] instead of [64, 3, 7, 7]" in message
    assert message.count("features.") == 6  # five missing and the misshapen one


def test_a_file_that_fits_nothing_is_recognised(tmp_path, densenet, radimagenet):
    torch.save(radimagenet, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"0 of 725 tensors fit.*looks like RadImageNet DenseNet121"):
        load_teacher("timm:densenet121", tmp_path / "weights.pt")
    torch.save({"neck.3.weight": torch.zeros(256)}, tmp_path / "lvm.pth")
    with pytest.raises(ValueError, match="looks like LVM-Med"):
        load_teacher("radimagenet_densenet121", tmp_path / "lvm.pth")
    torch.save({"x": torch.zeros(1), "epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"2 unexpected: x, epoch$"):
        load_teacher("radimagenet_densenet121", tmp_path / "other.pth")


class _Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, how):
    mark, file = tmp_path / "mark", tmp_path / "evil.pt"
    if how == "torch":
        torch.save({"state_dict": _Evil(mark)}, file)
    else:
        file.write_bytes(pickle.dumps({"state_dict": _Evil(mark)}, protocol=2))
    with pytest.raises(ValueError, match=r"evil\.pt: refused.*(io|builtins|__builtin__)\.?open"):
        load_teacher("radimagenet_densenet121", file)
    assert not mark.exists()


def test_damaged_files(tmp_path, radimagenet):
    save_file(radimagenet, tmp_path / "cut.safetensors")
    torch.save(radimagenet, tmp_path / "cut.pt")
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(ValueError, match=rf"{file.name}: damaged"):
            load_teacher("radimagenet_densenet121", file)
    with pytest.raises(ValueError, match=r"cut\.safetensors: damaged"):
        load_teacher(str(tmp_path / "cut.safetensors"))
    (tmp_path / "text.pt").write_text("<html>quota exceeded</html>")
    with pytest.raises(ValueError, match=r"text\.pt: (damaged|refused)"):
        load_teacher("radimagenet_densenet121", tmp_path / "text.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="no state dict but a list"):
        load_teacher("radimagenet_densenet121", tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        load_teacher("radimagenet_densenet121", tmp_path / "absent.pt")


# --- the zoo: timm ----------------------------------------------------------------------------------------------------


def test_vit_tokens_become_a_map(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    loaded = load_teacher("timm:vit_tiny_patch16_224", tmp_path / "vit.safetensors")
    assert (loaded.channels, loaded.kind, loaded.preprocessing.size) == (192, "map", (224, 224))
    image = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        tokens = network.forward_features((image - 0.5) / 0.5)
    features = loaded(image)
    assert features.shape == (2, 192, 14, 14)
    torch.testing.assert_close(features[:, :, 3, 5], tokens[:, 1 + 3 * 14 + 5])


def test_channels_last_networks_become_maps(tmp_path):
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0).eval()
    save_file(network.state_dict(), tmp_path / "swin.safetensors")
    assert load_teacher("timm:swin_tiny_patch4_window7_224", tmp_path / "swin.safetensors")(
        torch.rand(1, 3, 64, 64)
    ).shape == (1, 768, 7, 7)


def test_names_without_weights_or_meaning(tmp_path):
    for name in ("timm:resnet10t", "radimagenet_densenet121"):
        with pytest.raises(ValueError, match=r"needs a checkpoint.*a random teacher teaches nothing"):
            load_teacher(name)
    with pytest.raises(ValueError, match=r"unknown teacher 'medclip'; known: phantom_ct, radimagenet_densenet121"):
        load_teacher("medclip")
    with pytest.raises(ValueError, match="no model 'resnet10x'"):
        load_teacher("timm:resnet10x", tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no model 'hf-hub:timm/resnet18'"):
        load_teacher("timm:hf-hub:timm/resnet18", tmp_path / "x.pt")
    with pytest.raises(ValueError, match="tap must be"):
        load_teacher("timm:resnet10t", tmp_path / "x.pt", tap="layer3")
    torch.save({"x": torch.zeros(1)}, tmp_path / "weights.pt")
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    for file in ("weights.pt", "weights.safetensors"):
        with pytest.raises(ValueError, match=rf"--teacher NAME --teacher_checkpoint .*{file}. Known names: phantom_ct"):
            load_teacher(str(tmp_path / file))
    with pytest.raises(ValueError, match="leave out the checkpoint"):
        load_teacher(str(tmp_path / "weights.pt"), tmp_path / "weights.pt")
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        load_teacher(str(tmp_path / "absent.safetensors"))


# --- the zoo: files that say what they are ----------------------------------------------------------------------------


@pytest.fixture
def tiny():
    return randomised(timm.create_model("resnet10t", **TINY.arguments).eval())


def test_a_saved_teacher_says_what_it_is(tmp_path, tiny):
    file = tmp_path / "tiny.safetensors"
    save_teacher(file, tiny, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]
    with safe_open(file, "pt") as opened:
        described = json.loads(opened.metadata()["monai_rd_teacher"])
        dtypes = {opened.get_tensor(key).dtype for key in opened.keys()}  # noqa: SIM118
    assert set(described) == {"builder", "arguments", "preprocessing", "channels", "kind", "licence", "source"}
    assert dtypes == {torch.float16, torch.int64}

    loaded = load_teacher(str(file))
    assert (loaded.name, loaded.channels, loaded.kind) == ("tiny", 8, "map")
    assert loaded.preprocessing == TINY.preprocessing
    assert {t.dtype for t in loaded.backbone.parameters()} == {torch.float32}
    image = torch.rand(2, 3, 64, 64)
    halved = tiny.half().float()
    with torch.no_grad():
        expected = halved.forward_features(TINY.preprocessing(image))
    assert torch.equal(loaded(image), expected)
    assert torch.equal(load_teacher(str(file), tap="vector")(image), expected.mean(dim=(2, 3)))

    save_teacher(tmp_path / "again.safetensors", loaded.backbone, TINY)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_a_saved_teacher_may_give_vectors(tmp_path, tiny):
    save_teacher(tmp_path / "v.safetensors", tiny, dataclasses.replace(TINY, kind="vector"))
    loaded = load_teacher(str(tmp_path / "v.safetensors"))
    assert loaded.kind == "vector"
    assert loaded(torch.rand(2, 3, 64, 64)).shape == (2, 8)


def test_no_wrong_teacher_is_written(tmp_path, tiny):
    file = tmp_path / "tiny.safetensors"
    with pytest.raises(ValueError, match=r"is not written.*0 of"):
        save_teacher(file, backbone(), TINY)
    with pytest.raises(ValueError, match=r"as \.safetensors"):
        save_teacher(tmp_path / "tiny.pt", tiny, TINY)
    next(tiny.parameters()).data.fill_(1e6)
    with pytest.raises(ValueError, match="half precision"):
        save_teacher(file, tiny, TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("described", ["{", "[]", "{}", '{"preprocessing": {"size": 8}}'])
def test_a_description_that_is_none(tmp_path, described):
    file = tmp_path / "odd.safetensors"
    save_file({"x": torch.zeros(1)}, file, metadata={"monai_rd_teacher": described})
    with pytest.raises(ValueError, match=r"odd\.safetensors: its description under 'monai_rd_teacher' cannot be read"):
        load_teacher(str(file))


def test_a_shipped_teacher_needs_no_checkpoint(tmp_path, tiny, monkeypatch):
    save_teacher(tmp_path / "phantom_ct.safetensors", tiny, TINY)
    monkeypatch.setattr(foundation_zoo, "_SHIPPED", tmp_path)
    loaded = load_teacher("phantom_ct")
    assert (loaded.name, loaded.channels, loaded.preprocessing) == ("phantom_ct", 8, TINY.preprocessing)


def test_the_zoos_descriptions_hold(tmp_path):
    for entry in TEACHERS.values():
        network = foundation_zoo._build(entry.builder, entry.arguments)
        save_teacher(tmp_path / f"{entry.name}.safetensors", network, entry)
        features = load_teacher(str(tmp_path / f"{entry.name}.safetensors"))(torch.rand(1, 3, 64, 64))
        assert features.shape[:2] == (1, entry.channels)


def test_importing_it_is_light():
    heavy = ("timm", "open_clip", "onnx", "onnxruntime", "ai_edge_litert", "torchvision")
    code = (
        "import sys; "
        "import monai_rd.networks.foundation, monai_rd.networks.foundation_zoo; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
