"""Students that start from published weights or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from monai_rd.networks import Student
from tests.pickled import Marks

SMALL = "timm:mobilenetv3_small_050"
TWO_HEADS = "timm:deit_tiny_distilled_patch16_224"


def published(name: str) -> nn.Module:
    """The network as its library builds it, head and all, with weights of its own."""
    torch.manual_seed(7)
    if name.startswith("timm:"):
        return timm.create_model(name.removeprefix("timm:"))
    if name == "resnet10_3d":
        from monai.networks.nets import resnet10

        return resnet10(spatial_dims=3, n_input_channels=1, feed_forward=False, bias_downsample=False)
    return getattr(models, name)(weights=None)


def same(backbone: nn.Module, network: nn.Module) -> bool:
    given = network.state_dict()
    return all(torch.equal(tensor, given[key]) for key, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0", SMALL, TWO_HEADS, "resnet10_3d"])
def test_a_published_file_is_loaded_without_its_head(name: str, tmp_path: Path) -> None:
    network, path = published(name), tmp_path / "model.safetensors"
    save_file(network.state_dict(), path)
    torch.manual_seed(0)
    student = Student(name, weights=path)
    assert same(student.backbone, network)
    assert student.classifier.out_features == 2
    torch.manual_seed(0)
    assert not same(Student(name).backbone, network)


def test_wrapped_files_and_files_without_a_head_or_counters_are_loaded(tmp_path: Path) -> None:
    network = published("shufflenet_v2_x1_0")
    state = dict(network.state_dict())
    for number, weights in enumerate(
        (
            {"state_dict": state, "epoch": 3},
            {f"module.{key}": value for key, value in state.items()},
            {key: value for key, value in state.items() if not key.startswith("fc.")},
            # as torchvision's own file of ResNet18, which is so old that it has none
            {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
        )
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(weights, path)
        assert same(Student("shufflenet_v2_x1_0", weights=str(path)).backbone, network)


def test_a_trained_student_is_rebuilt_without_its_first_weights(tmp_path: Path) -> None:
    """As inference.json does: `Student(name, num_classes)`, then `model.pt`."""
    name = "timm:vit_tiny_patch16_224"  # published with mean and std of its own
    network, path = published(name), tmp_path / "model.safetensors"
    save_file(network.state_dict(), path)
    student = Student(name, 3, weights=path).eval()
    torch.save(student.state_dict(), tmp_path / "model.pt")
    rebuilt = Student(name, 3).eval()
    rebuilt.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(image), student(image))
    assert rebuilt.mean.flatten().tolist() == student.mean.flatten().tolist() == [0.5] * 3


@pytest.mark.slow
def test_wrong_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = dict(published("resnet18").state_dict())

    def refused(weights: Any, match: str, name: str = "resnet18") -> None:
        path = tmp_path / "weights.pth"
        torch.save(weights, path)
        with pytest.raises(ValueError, match=match):
            Student(name, weights=path)

    without = {key: value for key, value in state.items() if key != "layer3.0.conv1.weight"}
    refused(without, r"weights.pth does not fit resnet18: 119 of 120 tensors fit; 1 missing: layer3.0.conv1.weight$")
    refused(state | {"extra.weight": torch.zeros(1)}, r"120 of 120 tensors fit; 1 unexpected: extra.weight$")
    refused(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, r"1 misshapen: conv1.weight \[64, 1, 7, 7\] instead of")
    refused(dict(published(SMALL).state_dict()), r"1 of 120 .* fit; 96 missing: .*; 239 unexpected: .*; 4 misshapen")
    refused(dict(published("shufflenet_v2_x1_0").state_dict()), "does not fit timm:mobilenetv3", SMALL)
    refused(state, r"does not fit resnet10_3d: 60 of 72 tensors fit; 48 unexpected: .*; 12 misshapen", "resnet10_3d")
    refused({"weight": Marks(tmp_path / "mark")}, "refused. It needs more than plain weights")
    refused([1, 2], "holds no state dict but a list")
    assert not (tmp_path / "mark").exists()
    assert capsys.readouterr().out == ""
    for suffix, save in ((".pth", torch.save), (".safetensors", save_file)):
        whole = tmp_path / f"whole{suffix}"
        save(state, whole)
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(whole.read_bytes()[:-1000])
        with pytest.raises(ValueError, match=f"cut{suffix}: damaged"):
            Student("resnet18", weights=cut)
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth: no such file"):
        Student("resnet18", weights="nowhere.pth")


def test_imagenet_weights_come_from_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = published("shufflenet_v2_x1_0")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    url = models.ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1.url
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2])
    assert same(Student("shufflenet_v2_x1_0", weights="imagenet").backbone, network)


def test_imagenet_weights_come_from_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = published(SMALL)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    asked: list[str] = []

    def download(repo_id: str, **_: Any) -> str:
        asked.append(repo_id)
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    assert same(Student(SMALL, weights="imagenet").backbone, network)
    assert asked == ["timm/mobilenetv3_small_050.lamb_in1k"]


def test_no_network_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise URLError("no network here")

    def not_cached(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", not_cached)
    with pytest.raises(OSError, match=r"no network here.*from https://download.pytorch.org/.*resnet18.*give the file"):
        Student("resnet18", weights="imagenet")
    with pytest.raises(OSError, match=r"not in the cache.*from https://huggingface.co/timm/mobilenetv3.*give the file"):
        Student(SMALL, weights="imagenet")


def test_names_without_published_weights_say_so() -> None:
    with pytest.raises(ValueError, match="no ImageNet weights for 'resnet10_3d', which takes volumes"):
        Student("resnet10_3d", weights="imagenet")
    with pytest.raises(ValueError, match="timm publishes no weights for 'lcnet_035'"):
        Student("timm:lcnet_035", weights="imagenet")
