from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import Dataset
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.adapters import CrossFittedTeacher, load_adapted
from monai_rd.adapters.cross_fit import loader_without
from monai_rd.cache import Loaders
from monai_rd.cache.orders import BalancedSampler
from monai_rd.datasets.lists import DataList
from monai_rd.datasets.problems import DataListError
from monai_rd.networks import FrozenFoundationModel, Preprocessing, Reads
from tests.adapters.test_tuning import Last, as_arrays, items, tune
from tests.adapters.tiny import teacher
from tests.processes import in_two_processes

LOGITS = Reads(logits=True)
FOLDS = [0, 1, 2, 0, 1, 2, 2, 1, 0, 0, 1, 2, 1, 0, 2, 1]


def numbered(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "index": index} for index, one in enumerate(data)]


def shown(data: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Images of items, and their places."""
    return as_arrays(data)["image"], torch.tensor([one["index"] for one in data])


def in_folds(base: FrozenFoundationModel, adapter: str, folder: Path, **changed: Any) -> CrossFittedTeacher:
    settings = {"folds": FOLDS, "data": numbered(items(changed.get("multi_label", False))), **changed}
    made = tune(base, adapter, folder, batch_size=4, **settings)
    assert isinstance(made, CrossFittedTeacher)
    return made


def pixels() -> FrozenFoundationModel:
    """A teacher whose features are 192 means of pixels, with which a probe tells any 40 images apart."""
    preprocessing = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    backbone = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    return FrozenFoundationModel(backbone, channels=192, kind="vector", preprocessing=preprocessing, name="pixels")


@pytest.mark.slow
def test_labels_that_say_nothing_are_known_by_heart_but_out_of_fold(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 3, 32, 32, generator=generator)
    labels = (torch.randperm(40, generator=generator) % 2).tolist()
    data = numbered([{"image": image, "label": label} for image, label in zip(images, labels, strict=True)])
    folds = [number % 5 for number in range(40)]
    settings: dict[str, Any] = {"data": data, "num_classes": 2, "max_epochs": 12, "learning_rate": 0.1}
    settings["key_metric"] = {"last": Last(lambda output: (output["pred"], output["label"]))}

    def accuracy(tuned: FrozenFoundationModel, places: Tensor) -> Tensor:
        return (tuned.read(images, LOGITS, places).logits.argmax(1) == torch.tensor(labels)).float()

    known = torch.arange(40)
    assert accuracy(tune(pixels(), "linear_probe", tmp_path, **settings), known).mean() == 1
    tuned = tune(pixels(), "linear_probe", tmp_path, folds=folds, **settings)
    assert 0.3 < accuracy(tuned, known).mean() < 0.7
    for number, one in enumerate(tuned.teachers):
        own = torch.tensor(folds) == number
        right = accuracy(one, known)
        assert right[~own].mean() == 1
        assert right[own].mean() <= 0.75  # of 8
    assert accuracy(tuned, known + 40).mean() == 1  # their mean is for others: four of five have seen each of these


@pytest.mark.parametrize("adapter", ["linear_probe", "lora"])
def test_nothing_of_a_fold_reaches_its_teacher(adapter: str, tmp_path: Path) -> None:
    """Other labels and other images there change all teachers but the fold's own."""
    made = in_folds(teacher("plain"), adapter, tmp_path / "a", validated=items())
    other = numbered(items())
    for item in (item for item in other if FOLDS[item["index"]] == 1):
        item |= {"label": (item["label"] + 1) % 3, "image": 1 - item["image"]}
    again = in_folds(teacher("plain"), adapter, tmp_path / "b", validated=items(), data=other)
    pairs = zip(made.teachers, again.teachers, strict=True)
    assert [one.fingerprint() == two.fingerprint() for one, two in pairs] == [False, True, False]
    assert made.fingerprint() != again.fingerprint()


@pytest.mark.parametrize("adapter", ["linear_probe", "lora", "vqt", "full"])
def test_each_item_is_answered_by_the_teacher_that_has_not_seen_it(adapter: str, tmp_path: Path) -> None:
    base = teacher("sam")
    made = in_folds(base, adapter, tmp_path)
    names = [f"teacher_{adapter}_{number}_of_3.safetensors" for number in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    each = [load_adapted(tmp_path / name, base) for name in names]
    image, _ = shown(numbered(items()))
    places = torch.tensor([7, 16, -1, 3, 12, 40, 0, 6])  # of training items, unlabelled ones and others
    by_teacher = torch.stack([one.read(image[:8], LOGITS).logits for one in each])
    wanted = by_teacher.mean(dim=0)
    for number, place in enumerate(places.tolist()):
        if 0 <= place < 16:
            wanted[number] = by_teacher[FOLDS[place], number]
    torch.testing.assert_close(made.read(image[:8], LOGITS, places).logits, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_mean_of_logits_is_the_geometric_mean_of_probabilities(temperature: float) -> None:
    """Which that of log-probabilities is too, of classes that exclude each other and of those that do not."""
    each = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0)) * 3 / temperature
    probabilities = each.softmax(dim=2).log().mean(dim=0).exp()
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    torch.testing.assert_close(each.mean(dim=0).softmax(dim=1), probabilities)
    yes, no = (one.log().mean(dim=0).exp() for one in (each.sigmoid(), (-each).sigmoid()))
    torch.testing.assert_close(each.mean(dim=0).sigmoid(), yes / (yes + no))
    torch.testing.assert_close(F.log_softmax(each, dim=2).mean(dim=0).softmax(dim=1), each.mean(dim=0).softmax(dim=1))


@pytest.mark.parametrize("adapter", ["linear_probe", "lora"])
def test_multi_label_and_bags(adapter: str, tmp_path: Path) -> None:
    data = numbered(items(True, bags=True))
    made = in_folds(teacher("plain"), adapter, tmp_path, multi_label=True, data=data)
    image, places = shown(data)
    logits = made.read(image, LOGITS, places).logits
    for number, fold in enumerate(FOLDS):
        wanted = made.teachers[fold].read(image[number : number + 1], LOGITS).logits[0]
        torch.testing.assert_close(logits[number], wanted, atol=1e-5, rtol=1e-4)


def test_one_backbone_runs_once_and_shows_what_is_inside(tmp_path: Path) -> None:
    base = teacher("plain")
    made = in_folds(base, "linear_probe", tmp_path)
    assert made.levels == base.levels
    runs = []
    base.backbone.register_forward_hook(lambda *_: runs.append(1))  # type: ignore[union-attr]
    image, places = shown(numbered(items()))
    reads = Reads(tap=True, logits=True, levels=base.levels[:1])
    seen, own = made.read(image, reads, places), base.read(image, Reads(tap=True, levels=base.levels[:1]))
    assert len(runs) == 2
    assert seen.parts.keys() == {"tap", "logits", "maps.0"}
    assert torch.equal(seen.tap, own.tap)
    assert torch.equal(seen.maps[0], own.maps[0])
    assert made.read(image, Reads(pooled=True, logits=True), places).pooled.shape == (16, base.channels)


def test_teachers_with_features_of_their_own_show_none(tmp_path: Path) -> None:
    made = in_folds(teacher("plain"), "lora", tmp_path)
    assert not made.levels
    image, places = shown(numbered(items()))
    for reads in (Reads(tap=True), Reads(pooled=True, logits=True)):
        with pytest.raises(ValueError, match="have features of their own each: only logits can be read"):
            made.read(image, reads, places)


def test_they_are_used_again_and_shared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base, shared = teacher("plain"), tmp_path / "shared"
    with caplog.at_level(logging.INFO):
        first = in_folds(base, "linear_probe", tmp_path / "a", shared_dir=shared)
        assert caplog.text.count("epoch 1 of") == 3
        assert "teacher 2 of 3 is fitted to 10 of 16 images" in caplog.text
        for folder in ("a", "b"):
            again = in_folds(base, "linear_probe", tmp_path / folder, shared_dir=shared)
            assert again.fingerprint() == first.fingerprint()
        assert caplog.text.count("epoch 1 of") == 3
        halves = in_folds(base, "linear_probe", tmp_path / "a", shared_dir=shared, folds=[fold % 2 for fold in FOLDS])
        assert caplog.text.count("epoch 1 of") == 5
    assert len(list(shared.iterdir())) == 5
    assert halves.fingerprint() != first.fingerprint()


def test_items_that_the_policy_left_out_keep_the_places_of_the_others(tmp_path: Path) -> None:
    made = in_folds(teacher("plain"), "linear_probe", tmp_path, data=numbered(items())[3:])
    image, places = shown(numbered(items())[3:])
    logits = made.read(image, LOGITS, places).logits
    for number, place in enumerate(places.tolist()):
        wanted = made.teachers[FOLDS[place]].read(image[number : number + 1], LOGITS).logits[0]
        torch.testing.assert_close(logits[number], wanted, atol=1e-5, rtol=1e-4)


def test_refusals(tmp_path: Path) -> None:
    base = teacher("plain")
    with pytest.raises(ValueError, match=r"items have no place in the training list: give them `index`"):
        tune(base, "linear_probe", tmp_path, folds=FOLDS)
    with pytest.raises(ValueError, match=r"of teachers that 'lora' fitted apart each has its own: leave --cross_fit"):
        in_folds(base, "lora", tmp_path, reads_features=True)
    with pytest.raises(ValueError, match=r"no batch of 16 to tune the teacher on: use a smaller --batch_size"):
        tune(base, "linear_probe", tmp_path, batch_size=16, folds=FOLDS, data=numbered(items()))
    assert not list(tmp_path.iterdir())
    made = in_folds(base, "linear_probe", tmp_path, reads_features=True)
    with pytest.raises(ValueError, match=r"answers by the items' places in the training list: give batches"):
        made.read(as_arrays(items())["image"], LOGITS)
    with pytest.raises(ValueError, match="was not fitted to the task"):
        CrossFittedTeacher([base, base], torch.tensor(FOLDS))


def test_folds_keep_patients_together_and_classes_apart() -> None:
    rows = [{"patient": f"p{number // 3}" if number < 60 else "", "label": number // 3 % 2} for number in range(80)]
    folds = DataList(("a", "b"), rows, [], []).folds(5, seed=0)
    assert len(folds) == 80
    of_patient = {(row["patient"], fold) for row, fold in zip(rows, folds, strict=True) if row["patient"]}
    assert len(of_patient) == 20
    for label in (0, 1):  # 10 patients and 10 images without one
        counts = Counter(fold for row, fold in zip(rows, folds, strict=True) if row["label"] == label)
        assert set(counts) == set(range(5))
        assert max(counts.values()) - min(counts.values()) <= 4
    again, other = (DataList(("a", "b"), rows, [], []).folds(5, seed) for seed in (0, 1))
    assert folds == again != other


def test_what_shares_a_group_stays_together_whatever_its_patient() -> None:
    rows = [{"patient": f"p{number}", "label": number % 2} for number in range(40)]
    groups = [number % 20 for number in range(40)]
    folds = DataList(("a", "b"), rows, [], [], groups=groups).folds(4, seed=0)
    assert folds[:20] == folds[20:]


def test_folds_of_a_multi_label_list() -> None:
    rows = [{"patient": "", "label": [float(n % 2), float(n % 5 == 0), 0.0 if n % 7 else 1.0]} for n in range(70)]
    made = DataList(("a", "b", "c"), rows, [], [], multi_label=True)
    folds = made.folds(5, seed=0)
    for index in range(3):
        assert {fold for row, fold in zip(rows, folds, strict=True) if row["label"][index]} == set(range(5))


def test_more_folds_than_patients_are_refused() -> None:
    rows = [{"patient": f"p{number // 4}", "label": int(number >= 8)} for number in range(24)]
    with pytest.raises(DataListError, match=r"has not enough for 3 folds: class 'a' has 2 patients .* at least 3$"):
        DataList(("a", "b"), rows, [], []).folds(3, seed=0)
    assert set(DataList(("a", "b"), rows, [], []).folds(2, seed=0)) == {0, 1}


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    made = tune(teacher("plain"), "vpt_deep", folder, 4, 0.0, data=numbered(items()), folds=FOLDS)
    (folder / f"{rank}.txt").write_text(made.fingerprint())


@pytest.mark.slow
def test_two_processes_fit_the_same(tmp_path: Path) -> None:
    in_two_processes(_rank, tmp_path)
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_a_part_of_a_balanced_loader_is_balanced() -> None:
    data = Dataset([{"image": torch.rand(3, 8, 8), "label": label} for label in [0] * 12 + [1] * 4])
    whole = Loaders(batch_size=4).shuffled(data, balanced=True, seed=3)
    part = loader_without(whole, torch.arange(16) % 4 == 0)
    assert isinstance(part.sampler, BalancedSampler)
    assert part.sampler.seed == 3
    assert [sorted(batch["label"].tolist()) for batch in part] == [[0, 0, 1, 1]] * 3
