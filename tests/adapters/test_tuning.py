from __future__ import annotations

import logging
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.metrics import Accuracy
from monai.data import CacheDataset, DataLoader
from monai.transforms import RandGaussianNoised
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DistributedSampler, RandomSampler

from monai_rd.adapters import ADAPTERS, AdaptedTeacher, build_adapter, load_adapted, save_adapted, tuned_teacher
from monai_rd.adapters.tuning import _share
from monai_rd.cache.orders import BalancedSampler, labels_of
from monai_rd.handlers import key_metric
from monai_rd.losses import ClassificationLoss
from monai_rd.networks import FrozenFoundationModel, Preprocessing, Reads
from tests.adapters.tiny import KINDS, WIDTH, inputs, teacher
from tests.processes import in_two_processes

OPTIONS: dict[str, dict[str, Any]] = {"lpt": {"tokens": 2, "groups": 4, "grouped_blocks": 2}}
CPU = torch.device("cpu")


class Last(Accuracy):
    """Finds every epoch as good as the others, so that the last one is kept."""

    def compute(self) -> float:
        super().compute()
        return 0.0


def items(multi_label: bool = False, bags: bool = False) -> list[dict[str, Any]]:
    """16 images of noise; the second class is redder, the third bluer."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand((16, 2, 3, 32, 32) if bags else (16, 3, 32, 32), generator=generator) / 2
    labels = torch.arange(16) % 3
    images.movedim(-3, 0)[0, labels == 1] += 0.5
    images.movedim(-3, 0)[2, labels == 2] += 0.5
    rows = torch.eye(3)[labels].tolist() if multi_label else labels.tolist()
    return [{"image": image, "label": label} for image, label in zip(images, rows, strict=True)]


def as_arrays(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {
        "image": torch.stack([one["image"].as_subclass(Tensor) for one in batch]),
        "label": torch.tensor([one["label"] for one in batch]),
    }


def tune(
    base: FrozenFoundationModel,
    adapter: str | None,
    folder: Path,
    batch_size: int = 8,
    noise: float = 0.01,
    **changed: Any,
) -> Any:
    data = changed.pop("data", None) or items(changed.get("multi_label", False))
    validated = changed.pop("validated", data)
    train = CacheDataset(data, RandGaussianNoised("image", prob=0.5, std=noise), progress=False)
    validation = CacheDataset(validated, progress=False)
    group = dist.is_initialized()
    train_sampler = DistributedSampler(train) if group else RandomSampler(train)
    val_sampler = DistributedSampler(validation, shuffle=False) if group else None
    multi_label = changed.pop("multi_label", False)
    settings = {
        "num_classes": 3,
        "key_metric": key_metric(multi_label, CPU),
        "output_dir": folder,
        "max_epochs": 2,
        "device": "cpu",
        "options": OPTIONS.get(adapter or "", {}),
        "criterion": ClassificationLoss(multi_label),
        **changed,
    }
    train_loader = DataLoader(train, batch_size=batch_size, sampler=train_sampler, drop_last=True, collate_fn=as_arrays)
    val_loader = DataLoader(validation, batch_size=batch_size, sampler=val_sampler, collate_fn=as_arrays)
    state = torch.get_rng_state()
    tuned = tuned_teacher(base, adapter, train_loader, val_loader, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    return tuned


def accuracy(tuned: FrozenFoundationModel, data: list[dict[str, Any]]) -> float:
    batch = as_arrays(data)
    logits = tuned.read(batch["image"], Reads(logits=True)).logits
    assert logits is not None
    return float((logits.argmax(dim=1) == batch["label"]).float().mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_tune_save_and_use_again(kind: str, adapter: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = teacher(kind)
    before = base.fingerprint()
    with caplog.at_level(logging.INFO):
        tuned = tune(base, adapter, tmp_path)
    assert base.fingerprint() == before
    assert tuned.name == f"{kind}+{adapter}"
    assert not any(p.requires_grad for p in [*tuned.backbone.parameters(), *tuned.head.parameters()])
    assert (tuned.kind, tuned.channels) == (("vector", 4 * WIDTH) if adapter == "vqt" else ("map", WIDTH))
    assert tuned.fingerprint() != before
    assert caplog.text.count("epoch 1 of") == (2 if adapter == "lpt" else 1)
    (path,) = tmp_path.iterdir()
    assert path.name == f"teacher_{adapter}.safetensors"
    own = [name for name in load_file(path) if not name.startswith("head.")]
    frozen = set(base.backbone.state_dict()) if adapter != "full" else set()
    assert not {name.removeprefix("backbone.") for name in own} & frozen
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again = tune(base, adapter, tmp_path)
    assert "was tuned before" in caplog.text
    assert "epoch" not in caplog.text
    assert again.fingerprint() == tuned.fingerprint() == load_adapted(path, base).fingerprint()
    assert torch.equal(again.read(inputs(), Reads(logits=True)).logits, tuned.read(inputs(), Reads(logits=True)).logits)


@pytest.mark.parametrize(("adapter", "passes"), [("linear_probe", 1), ("lora", 3), ("full", 3)])
def test_a_backbone_that_is_not_trained_sees_the_validation_images_once(
    adapter: str, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the answers on which the best epoch is chosen are those of the whole network."""
    seen, answers = [], []
    run, compute, data = AdaptedTeacher.features, Accuracy.update, items()

    def features(network: AdaptedTeacher, image: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            seen.append(len(image))
        return run(network, image)

    def update(metric: Accuracy, output: tuple[Tensor, Tensor]) -> None:
        answers.append(output[0].clone())
        compute(metric, output)

    monkeypatch.setattr(AdaptedTeacher, "features", features)
    monkeypatch.setattr(Accuracy, "update", update)
    transform = {"output_transform": lambda outputs: (outputs["pred"], outputs["label"])}
    tuned = tune(teacher("plain"), adapter, tmp_path, max_epochs=3, key_metric={"last": Last(**transform)})
    assert sum(seen) == passes * len(data)
    logits = tuned.read(as_arrays(data)["image"], Reads(logits=True)).logits
    assert logits is not None
    torch.testing.assert_close(torch.cat(answers[-2:]), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("adapter", "rate"), [("linear_probe", 0.02), ("vpt_deep", 0.3), ("vqt", 0.05), ("lpt", 0.2)])
def test_it_learns(adapter: str, rate: float, tmp_path: Path) -> None:
    tuned = tune(teacher("sam"), adapter, tmp_path, max_epochs=8, learning_rate=rate)
    assert accuracy(tuned, items()) > 0.9


@pytest.mark.parametrize("adapter", ["linear_probe", "lora", "lpt"])
def test_multi_label_and_bags(adapter: str, tmp_path: Path) -> None:
    tuned = tune(teacher("plain"), adapter, tmp_path, multi_label=True, data=items(True, bags=True))
    bags = as_arrays(items(True, bags=True))["image"]
    assert tuned(bags).shape == (16, 2, WIDTH, 4, 4)
    assert tuned.read(bags, Reads(logits=True)).logits.shape == (16, 3)


def test_trainings_share_what_was_tuned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base, shared = teacher("plain"), tmp_path / "shared"
    with caplog.at_level(logging.INFO):
        first = tune(base, "lora", tmp_path / "a", shared_dir=shared)
        assert caplog.text.count("epoch 1 of") == 1
        second = tune(base, "lora", tmp_path / "b", shared_dir=shared)
        assert caplog.text.count("epoch 1 of") == 1
        assert second.fingerprint() == first.fingerprint()
        (kept,) = shared.iterdir()
        assert kept.read_bytes() == (tmp_path / "b" / "teacher_lora.safetensors").read_bytes()
        other = tune(base, "lora", tmp_path / "b", shared_dir=shared, seed=1)
        assert caplog.text.count("epoch 1 of") == 2
    assert other.fingerprint() != first.fingerprint()
    assert len(list(shared.iterdir())) == 2
    assert load_adapted(tmp_path / "a" / "teacher_lora.safetensors", base).fingerprint() == first.fingerprint()


def test_any_other_setting_weights_or_data_are_tuned_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = teacher("plain")
    tune(base, "linear_probe", tmp_path)
    other = teacher("plain")
    other.backbone.network.norm.bias.data += 1  # type: ignore[union-attr]
    darker = [{**one, "image": one["image"] * 0.9} for one in items()]
    relabelled = [{**one, "label": 2 - one["label"]} for one in items()]
    for teacher_, changed in [
        (base, {"seed": 1}),
        (base, {"max_epochs": 1}),
        (base, {"learning_rate": 0.1}),
        (base, {"num_classes": 4}),
        (base, {"data": darker}),
        (base, {"data": relabelled}),
        (base, {"noise": 0.02}),
        (other, {}),
    ]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            tune(teacher_, "linear_probe", tmp_path, **changed)
        assert "epoch 1 of" in caplog.text, changed
    path = tmp_path / "teacher_linear_probe.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tune(base, "linear_probe", tmp_path)
    assert "damaged" in caplog.text
    assert "epoch 1 of" in caplog.text


class Errors(Accuracy):
    def compute(self) -> float:
        return 1 - float(super().compute())


@pytest.mark.parametrize("metric", [Accuracy, Errors])
def test_the_epoch_is_kept_that_the_metric_finds_best(
    metric: type[Accuracy], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a metric that counts errors it is the worst."""
    chosen = {"chosen": metric(lambda output: (output["pred"], output["label"]))}
    data = [{"image": torch.rand(3, 32, 32), "label": number % 3} for number in range(16)]
    with caplog.at_level(logging.INFO):
        settings: dict[str, Any] = {"max_epochs": 6, "learning_rate": 0.05, "key_metric": chosen, "data": data}
        tuned = tune(teacher("sam"), "linear_probe", tmp_path, **settings)
    values = [float(value) for value in re.findall(r"chosen ([0-9.]+)", caplog.text)]
    assert len(values) == 6
    assert min(values) < max(values)
    kept = accuracy(tuned, data)
    assert (kept if metric is Accuracy else 1 - kept) == pytest.approx(max(values), abs=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_mixed_precision_on_cuda(kind: str, adapter: str, tmp_path: Path) -> None:
    cuda = torch.device("cuda", 0)
    settings: dict[str, Any] = {"device": cuda, "amp": True, "key_metric": key_metric(False, cuda)}
    tuned = tune(teacher(kind), adapter, tmp_path, **settings)
    with torch.autocast("cuda"):
        read = tuned.read(inputs().to(cuda), Reads(logits=True))
    assert read.logits is not None
    assert read.logits.is_cuda
    assert read.logits.isfinite().all()
    assert tune(teacher(kind), adapter, tmp_path, **settings).fingerprint() == tuned.fingerprint()


def test_nothing_to_do(tmp_path: Path) -> None:
    base = teacher("plain")
    assert tune(base, None, tmp_path) is base
    assert tune(None, "lora", tmp_path) is None  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path: Path) -> None:
    base = teacher("plain")
    with pytest.raises(ValueError, match=r"came to a loss of nan: use a smaller learning_rate"):
        tune(base, "vpt_deep", tmp_path, learning_rate=1e30)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no batch of 8 to tune the teacher on: use a smaller --batch_size"):
        tune(base, "lora", tmp_path, data=items()[:4])


def test_a_black_box_gets_a_head(tmp_path: Path) -> None:
    class Box:
        def __call__(self, image: Tensor) -> Tensor:
            return image.mean(dim=(2, 3))

        def fingerprint(self) -> str:
            return "a file"

    plain = Preprocessing(32, (0.0,) * 3, (1.0,) * 3)
    box = FrozenFoundationModel(Box(), channels=3, kind="vector", preprocessing=plain, name="box.onnx")
    tuned = tune(box, "linear_probe", tmp_path, max_epochs=8, learning_rate=0.1)
    assert accuracy(tuned, items()) > 0.9
    assert set(load_file(tmp_path / "teacher_linear_probe.safetensors")) == {"head.weight", "head.bias"}


def test_full_fine_tuning_keeps_running_statistics(tmp_path: Path) -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4))
    plain = Preprocessing(32, (0.0,) * 3, (1.0,) * 3)
    base = FrozenFoundationModel(backbone, channels=4, kind="map", preprocessing=plain, name="cnn")
    tuned = tune(base, "full", tmp_path)
    assert not torch.equal(tuned.backbone[1].running_mean, backbone[1].running_mean)
    again = load_adapted(tmp_path / "teacher_full.safetensors", base)
    assert torch.equal(again.backbone[1].running_mean, tuned.backbone[1].running_mean)


def test_a_file_of_another_base_or_none_of_ours(tmp_path: Path) -> None:
    base, path = teacher("plain"), tmp_path / "fitted.safetensors"
    save_adapted(path, build_adapter("lora", base, 3), base)
    with pytest.raises(ValueError, match=r"was made of the teacher 'plain' with other weights .* than those of 'sam'"):
        load_adapted(path, teacher("sam"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_adapted(tmp_path / "none.safetensors", base)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"not a teacher that was fitted to a task by monai_rd\.adapters"):
        load_adapted(path, base)


def test_the_learning_rate_rises_and_falls() -> None:
    shares = [_share(epoch, 10, 0.2) for epoch in range(10)]
    assert shares[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert all(a > b for a, b in pairwise(shares[2:]))
    assert 0 < shares[-1] < 0.1
    assert _share(0, 1, 0.0) == 1
    assert [_share(epoch, 30, 1) for epoch in range(2)] == [0.5, 1]  # a warm-up of one epoch
    assert _share(0, 1, 1) == 1


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    tuned = tune(teacher("plain"), "vpt_deep", folder, batch_size=8, noise=0.0)
    (folder / f"{rank}.txt").write_text(tuned.fingerprint())


@pytest.mark.slow
def test_two_processes_tune_as_one_does_on_the_global_batch(tmp_path: Path) -> None:
    in_two_processes(_rank, tmp_path)
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    tune(teacher("plain"), "vpt_deep", tmp_path / "one", batch_size=16, noise=0.0)
    name = "teacher_vpt_deep.safetensors"
    two, one = load_file(tmp_path / name), load_file(tmp_path / "one" / name)
    begun = build_adapter("vpt_deep", teacher("plain"), 3).adapter_state()
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, atol=1e-5, rtol=1e-4)
        if key.startswith("backbone."):
            assert not torch.allclose(tensor, begun[key.removeprefix("backbone.")], atol=1e-3)


class Shifted(ClassificationLoss):
    """Teaches the class after the label's."""

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().losses(logits, (target + 1) % 3)


def test_the_criterion_teaches_and_another_one_is_another_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"max_epochs": 8, "learning_rate": 0.02}
    settings["key_metric"] = {"last": Last(lambda output: (output["pred"], output["label"]))}
    assert accuracy(tune(teacher("plain"), "linear_probe", tmp_path, **settings), items()) > 0.9
    with caplog.at_level(logging.INFO):
        tuned = tune(teacher("plain"), "linear_probe", tmp_path, criterion=Shifted(), **settings)
    assert "was tuned before" not in caplog.text
    shifted = [{**one, "label": (one["label"] + 1) % 3} for one in items()]
    assert accuracy(tuned, shifted) > 0.9
    for changed in (ClassificationLoss(weights=torch.ones(3)), ClassificationLoss(adjustment=torch.ones(3))):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            tune(teacher("plain"), "linear_probe", tmp_path, criterion=changed, **{**settings, "max_epochs": 1})
        assert "was tuned before" not in caplog.text


def test_a_balanced_loader_shows_it_rare_classes_as_often(tmp_path: Path) -> None:
    data = [items()[place] for place in (*range(0, 15, 3), *range(3, 15, 3), *range(0, 15, 3), 1, 2)]
    train, seen = CacheDataset(data, RandGaussianNoised("image", prob=0.5), progress=False), []

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        seen.append([one["label"] for one in batch])
        return as_arrays(batch)

    loader = DataLoader(train, batch_size=3, sampler=BalancedSampler(labels_of(data)), drop_last=True)
    loader.collate_fn = collate
    validation = DataLoader(CacheDataset(data, progress=False), batch_size=16, collate_fn=as_arrays)
    tuned_teacher(
        teacher("plain"),
        "linear_probe",
        loader,
        validation,
        num_classes=3,
        key_metric=key_metric(False, CPU),
        output_dir=tmp_path,
        max_epochs=2,
        device="cpu",
    )
    assert len(seen) == 2 * (16 // 3)
    assert [sorted(labels) for labels in seen[:5]] == [[0, 1, 2]] * 5
