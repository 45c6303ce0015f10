"""Weights and features that are no numbers are refused where they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from monai_rd.adapters import load_adapted
from monai_rd.adapters.stored import save_adapted
from monai_rd.cache.feature_store import FeatureStore
from monai_rd.finite import NotFiniteError, not_finite
from monai_rd.networks import DeployedStudent, FrozenFoundationModel, Preprocessing, Student, load_teacher
from monai_rd.networks.weights_file import load_strictly
from tests.small import SMALL

NAN, INF = float("nan"), float("inf")
KEYS = ["backbone.conv1.0.weight", "backbone.conv1.1.running_var", "classifier.bias", "temperature"]


def test_what_is_looked_at() -> None:
    given = {"a": torch.ones(2), "b": torch.tensor([1, 2]), "c": torch.tensor([0.0, NAN]), "d": torch.zeros(0), "e": 3}
    assert not_finite(given) == ["c"]
    assert not_finite({"half": torch.tensor([INF]).half(), "two": torch.tensor([[-INF]]).bfloat16()}) == ["half", "two"]
    assert not_finite({}) == []


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_large_values_are_finite_although_their_sum_is_not(kind: torch.dtype) -> None:
    large = torch.full((1000,), torch.finfo(kind).max, dtype=kind)
    assert not large.sum().isfinite()
    both = torch.cat([large, torch.tensor([INF, -INF], dtype=kind)])
    assert not_finite({"large": large, "opposite": -large, "both": both}) == ["both"]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", [Student, DeployedStudent])
def test_a_student(kind: Any, key: str, value: float) -> None:
    state = Student(SMALL, 2).state_dict()
    state[key] = state[key].clone().reshape(-1).index_fill(0, torch.tensor(0), value).reshape(state[key].shape)
    with pytest.raises(NotFiniteError, match=f"the student '{SMALL}': 1 of .* the first is {key}: the training"):
        kind(SMALL, 2).load_state_dict(state)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_that_a_student_starts_from(suffix: str, tmp_path: Path) -> None:
    state = Student("shufflenet_v2_x1_0", 2).backbone.state_dict()
    next(value for key, value in state.items() if key.endswith("conv5.0.weight")).view(-1)[5] = INF
    path = tmp_path / f"weights.{suffix}"
    torch.save(state, path) if suffix == "pt" else save_file(state, path)
    with pytest.raises(NotFiniteError, match=r"weights\.\w+: 1 of .* the first is .*conv5\.0\.weight: its training"):
        Student("shufflenet_v2_x1_0", 2, path)


def test_a_teacher_of_the_zoo(tmp_path: Path) -> None:
    import timm

    weights = timm.create_model("resnet10t").state_dict()
    weights["layer2.0.conv1.weight"][0, 0, 0, 0] = NAN
    path = tmp_path / "resnet10t.pth"
    torch.save(weights, path)
    with pytest.raises(NotFiniteError, match=r"resnet10t\.pth: 1 of .* the first is layer2\.0\.conv1\.weight"):
        load_teacher("timm:resnet10t", path)
    weights["layer2.0.conv1.weight"][0, 0, 0, 0] = 0
    weights["fc.weight"][0, 0] = NAN  # of the head, which is not used
    torch.save(weights, path)
    load_teacher("timm:resnet10t", path)


def test_what_is_loaded_strictly_is_loaded_wholly_or_not() -> None:
    network = nn.Linear(2, 2)
    with pytest.raises(NotFiniteError, match=r"the file: 1 of 2 tensors hold values .* the first is bias"):
        load_strictly(network, {"weight": torch.ones(2, 2), "bias": torch.tensor([1.0, NAN])}, "a layer", "the file")
    assert not network.weight.detach().eq(1).any()


def _teacher(value: float) -> FrozenFoundationModel:
    plain = Preprocessing(None, (0.0,) * 3, (1.0,) * 3)

    def features(image: torch.Tensor) -> torch.Tensor:
        made = torch.ones(len(image), 4)
        made[-1, 2] = value
        return made

    return FrozenFoundationModel(features, channels=4, kind="vector", preprocessing=plain, name="black box")


@pytest.mark.parametrize("value", [NAN, INF])
def test_features_of_a_black_box_at_the_first_batch(value: float) -> None:
    with pytest.raises(NotFiniteError, match="the teacher 'black box' gives features of which 1 of 8 are infinite or"):
        _teacher(value)(torch.rand(2, 3, 8, 8))
    with pytest.raises(NotFiniteError, match="the images that the teacher is shown hold"):
        _teacher(1.0)(torch.full((2, 3, 8, 8), value))
    teacher = _teacher(1.0)
    assert teacher(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_a_fitted_teacher(tmp_path: Path) -> None:
    from monai_rd.adapters.registry import build_adapter
    from tests.adapters.tiny import teacher

    base = teacher("plain")
    network = build_adapter("linear_probe", base, 2)
    path = tmp_path / "teacher.safetensors"
    save_adapted(path, network, base)
    load_adapted(path, base)
    with torch.no_grad():
        network.head.weight[0, 0] = NAN
    save_adapted(path, network, base)
    with pytest.raises(NotFiniteError, match=r"teacher\.safetensors: [12] of 2 tensors"):
        load_adapted(path, base)


def test_a_feature_store(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, {"views": 1})
    store.write("shard", {"item": {"tap": torch.tensor([[1.0, NAN]])}}, locked=True)
    store.refresh()
    with pytest.raises(NotFiniteError, match="holds features that are not finite: remove"):
        store.read("item", 0)
