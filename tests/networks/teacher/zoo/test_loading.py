"""The zoo: files that are damaged, unsafe or another's, files that say what they are, and names."""

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

from monai_rd.networks.preprocessing import Preprocessing, VolumePreprocessing
from monai_rd.networks.teacher.zoo import TEACHERS, TeacherEntry, load_teacher, loading, save_teacher
from monai_rd.networks.teacher.zoo.networks import build
from tests.pickled import Marks

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
    assert message.count("features.") == 4  # three missing and the misshapen one


def test_a_file_that_fits_nothing_is_recognised(tmp_path, radimagenet):
    torch.save(radimagenet, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"0 of 725 tensors fit.*Its tensors are those of radimagenet_densenet121"):
        load_teacher("timm:densenet121", tmp_path / "weights.pt")
    torch.save({"x": torch.zeros(1), "epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"2 unexpected: x, epoch. Wanted is DenseNet121.pt of https"):
        load_teacher("radimagenet_densenet121", tmp_path / "other.pth")


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, how):
    mark, file = tmp_path / "mark", tmp_path / "evil.pt"
    if how == "torch":
        torch.save({"state_dict": Marks(mark)}, file)
    else:
        file.write_bytes(pickle.dumps({"state_dict": Marks(mark)}, protocol=2))
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
    for file, text, said in (
        ("page.pt", "<html>quota exceeded</html>", "a text or web page, and no weights"),
        ("page.safetensors", "<html>quota exceeded</html>", "a text or web page, and no weights"),
        ("pointer.pt", "version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        ("empty.pt", "", r"damaged, or no PyTorch checkpoint \(EOFError\)"),
    ):
        (tmp_path / file).write_text(text)
        with pytest.raises(ValueError, match=rf"{file}: {said}"):
            load_teacher("radimagenet_densenet121", tmp_path / file)
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
    for name in ("timm:coatnet_0_224", "lvm_med_vit_b", "open_clip:RN50"):
        with pytest.raises(ValueError, match=r"needs a checkpoint.*a random teacher teaches nothing"):
            load_teacher(name)
    with pytest.raises(ValueError, match=r"unknown teacher 'medclip'; known: phantom_ct, "):
        load_teacher("medclip")
    with pytest.raises(ValueError, match="no model 'resnet10x'"):
        load_teacher("timm:resnet10x", tmp_path / "x.pt")
    with pytest.raises(ValueError, match="a model of the Hub is called hf-hub:ORG/NAME"):
        load_teacher("timm:hf-hub:resnet18", tmp_path / "x.pt")
    with pytest.raises(ValueError, match="has no model 'RN51'"):
        load_teacher("open_clip:RN51", tmp_path / "x.pt")
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
    torch.testing.assert_close(loaded(image), expected)
    torch.testing.assert_close(load_teacher(str(file), tap="vector")(image), expected.mean(dim=(2, 3)))

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
        save_teacher(file, nn.Linear(2, 2), TINY)
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
    monkeypatch.setattr(loading, "_SHIPPED", tmp_path)
    loaded = load_teacher("phantom_ct")
    assert (loaded.name, loaded.channels, loaded.preprocessing) == ("phantom_ct", 8, TINY.preprocessing)


@pytest.mark.parametrize("name", [name for name in TEACHERS if name.startswith("phantom_")])
def test_what_is_shipped_is_what_its_entry_says(name):
    file = loading._SHIPPED / f"{name}.safetensors"
    described, entry = loading.described_entry(file), TEACHERS[name]
    assert described is not None
    for stored in loading._STORED:
        assert getattr(described, stored) == getattr(entry, stored), stored
    loaded = load_teacher(name)
    image = torch.rand(1, 3, 64, 64) if loaded.spatial_dims == 2 else torch.rand(1, 1, *[entry.OWN_SIZE] * 3)
    assert loaded(image).flatten(0, -2 - len(entry.grid)).shape == (1, entry.channels, *entry.grid)


def test_a_teacher_of_volumes_can_be_saved(tmp_path):
    entry = TeacherEntry(
        name="small",
        builder="monai:SegResEncoder",
        arguments={"spatial_dims": 3, "init_filters": 4, "in_channels": 1, "blocks_down": [1, 1]},
        preprocessing=VolumePreprocessing((8, 16, 16), None, None, "RAS", 2),
        channels=8,
        kind="map",
        licence="CC0",
        source="this test",
    )
    network = build(entry.builder, entry.arguments)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    save_teacher(tmp_path / "small.safetensors", network, entry)
    loaded = load_teacher(str(tmp_path / "small.safetensors"))
    assert (loaded.spatial_dims, loaded.preprocessing) == (3, entry.preprocessing)
    assert loaded(torch.rand(1, 1, 9, 9, 9)).shape == (1, 1, 8, 8, 8, 4)  # 4 x 8 x 8 along its own axes


def test_mistaken_arguments_and_builders():
    for name, words in (("timm:resnet10t", "cannot be built with"), ("pmc_clip", "cannot be built with")):
        with pytest.raises(ValueError, match=words):
            build(TEACHERS.get(name, TINY).builder, {**TEACHERS.get(name, TINY).arguments, "widht": 3})
    for builder in ("keras:vgg", "open_clip:RN50", "monai:UNet"):
        with pytest.raises(ValueError, match=f"unknown builder '{builder}'; known: "):
            build(builder, {})


def test_building_skips_values_and_nothing_else():
    """Buffers that no file holds are what the constructor makes them."""
    ours = build("timm:vit_small_patch16_dinov3", {"num_classes": 0, "depth": 1})
    theirs = timm.create_model("vit_small_patch16_dinov3", num_classes=0, depth=1)
    stored = set(theirs.state_dict())
    buffers = {key: tensor for key, tensor in theirs.named_buffers() if key not in stored}
    assert buffers
    for key, tensor in ours.named_buffers():
        assert torch.equal(tensor, theirs.get_buffer(key)), key
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours.load_state_dict(theirs.state_dict(), assign=True)
        assert torch.equal(ours(image), theirs.eval()(image))


@pytest.mark.slow
def test_importing_it_is_light():
    heavy = ("timm", "open_clip", "onnx", "onnxruntime", "ai_edge_litert", "torchvision")
    code = (
        "import sys; "
        "import monai_rd.networks.teacher.foundation, monai_rd.networks.teacher.zoo; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
