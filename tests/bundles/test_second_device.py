"""Everything runs on a device that is not the CPU: nothing is left behind, values agree, and no step waits for it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from itertools import product
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.transforms import Compose
from PIL import Image

from monai_rd.adapters import ADAPTERS
from monai_rd.cache import cached_dataset, is_on_device
from monai_rd.handlers import key_metric
from monai_rd.methods import METHODS
from monai_rd.networks import Reads, Student
from monai_rd.transforms import (
    CTAugmentation,
    DermAugmentation,
    LoadImageOrSeriesd,
    MRAugmentation,
    SliceStackd,
    USAugmentation,
    XrayAugmentation,
)
from tests.adapters.test_tuning import tune
from tests.adapters.tiny import KINDS, inputs
from tests.adapters.tiny import teacher as vit
from tests.bundles.commands import copied, infer, train
from tests.methods.steps import step, tiny_teacher
from tests.methods.test_every_method import SINGLE, Case, assert_all_learn, built, fitted, loss_of
from tests.second_device import NAME, on_second_device
from tests.small import SMALL
from tests.tiny_run import TinyRun

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("g++") and shutil.which("ninja")), reason="no g++ and ninja to build a device"
    ),
]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the device is built, once."""
    return tmp_path_factory.mktemp("device")


def _mixes_are_refused() -> None:
    here, there = torch.ones(3), torch.ones(3, device=NAME)
    for mix in (
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: torch.nn.functional.linear(there, here),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mix()
    waiting = [lambda: there.cpu(), lambda: there[there > 0], lambda: there.sum().item(), lambda: here.to(NAME)]
    others = [lambda: there.sum() + here[0], lambda: here.to(NAME, non_blocking=True), lambda: there[there.long()]]
    for work, waits in [(one, 1) for one in waiting] + [(one, 0) for one in others]:
        before = torch.second.waits()
        work()
        assert torch.second.waits() - before == waits


def test_the_device_is_one(device: Path) -> None:
    on_second_device(device, _mixes_are_refused)


def _methods_agree() -> None:
    torch.manual_seed(0)
    case = Case(Student(SMALL, 3), fitted(tiny_teacher()), torch.rand(8, 3, 64, 64))
    target, index = torch.tensor(SINGLE), torch.arange(8)
    for name in METHODS:
        method, student = built(name, case.student, case.teacher, SINGLE)
        there = [deepcopy(one).to(NAME) for one in (method, student, case.teacher)]
        batch = [one.to(NAME) for one in (case.image, target, index)]
        for number in range(2):
            torch.manual_seed(number)
            expected = step(method, student, case.teacher, case.image, target, index)
            torch.manual_seed(number)
            before = torch.second.waits()
            found = step(*there, *batch)
            loss = loss_of(there[0], found, there[1](batch[0]), batch[1])
            loss.backward()
            assert number == 0 or torch.second.waits() == before, f"{name} waits for the device in every step"
            assert all(term.device.type == NAME for term in found.values())
            on_host = {key: term.cpu() for key, term in found.items()}
            torch.testing.assert_close(on_host, expected, rtol=1e-4, atol=1e-5, msg=f"{name}: {{}}".format)
        terms = step(*there, *batch)
        assert_all_learn(there[1], there[0], loss_of(there[0], terms, there[1](batch[0]), batch[1]), name)


def test_methods_give_what_they_give_on_the_cpu_and_wait_for_nothing(device: Path) -> None:
    on_second_device(device, _methods_agree)


def _adapters_agree(folder: Path) -> None:
    for kind, adapter in product(KINDS, ADAPTERS):
        logits = []
        for number, name in enumerate(("cpu", NAME)):
            torch.manual_seed(0)
            place, metric = folder / f"{kind} {adapter} {number}", key_metric(False, torch.device(name))
            tuned = tune(vit(kind), adapter, place, device=name, key_metric=metric)
            logits.append(tuned.read(inputs().to(name), Reads(logits=True)).logits)
        assert logits[1].device.type == NAME
        torch.testing.assert_close(logits[1].cpu(), logits[0], rtol=1e-4, atol=1e-5)


def test_adapters_tune_as_on_the_cpu(device: Path, tmp_path: Path) -> None:
    on_second_device(device, _adapters_agree, tmp_path)


def _augmentations_agree() -> None:
    kinds = (CTAugmentation, MRAugmentation, USAugmentation, XrayAugmentation, DermAugmentation)
    for kind in kinds:
        for shape in ((6, 24, 20), (1, 6, 24, 20))[: 1 if kind is DermAugmentation else 2]:
            here, there = kind("image"), kind("image")
            here.set_random_state(0), there.set_random_state(0)
            for _ in range(20):
                image = torch.rand(shape)
                found = there({"image": image.to(NAME)})["image"]
                assert found.device.type == NAME
                torch.testing.assert_close(found.cpu(), here({"image": image})["image"])


def test_augmentations_do_what_they_do_on_the_cpu(device: Path) -> None:
    on_second_device(device, _augmentations_agree)


def _items_are_kept(folder: Path) -> None:
    Image.new("L", (8, 8), 7).save(folder / "0.png")
    chain = [LoadImageOrSeriesd("image"), SliceStackd("image", 1), CTAugmentation("image")]
    data = cached_dataset([{"image": str(folder / "0.png")}], Compose(chain), cache_dir=folder, device=NAME)
    assert is_on_device(data)
    assert data[0]["image"].device.type == NAME


def test_items_are_kept_there(device: Path, tmp_path: Path) -> None:
    on_second_device(device, _items_are_kept, tmp_path)


def _steps_wait_for_nothing(folder: Path) -> None:
    waits: list[int] = []
    for name in ("rd", "ce"):
        trainer = TinyRun(folder / name, method=name, device=NAME).trainer
        for event in (Events.ITERATION_STARTED, Events.ITERATION_COMPLETED):
            trainer.add_event_handler(event, lambda _: waits.append(torch.second.waits()))
        trainer.run()
    assert len(waits) == 2 * (4 * 2) * 2
    assert waits[::2] == waits[1::2]


def test_a_step_of_training_waits_for_nothing(device: Path, tmp_path: Path) -> None:
    on_second_device(device, _steps_wait_for_nothing, tmp_path)


def test_a_bundle_trains_and_scores_as_on_the_cpu(
    device: Path, tmp_path: Path, cohort_of: Callable[[str], str]
) -> None:
    words = ("--adapter", "linear_probe", "--feature_views", "2", "--report_page", "true")
    histories, scores = [], []
    for name in ("cpu", NAME):
        root, how = copied("ct", tmp_path / name), ("--device", name, "--amp", "false", "--num_workers", "0")
        printed = train(root, cohort_of("ct"), *how, *words, "--augment_on_device", "true", device=device)
        assert ("in the memory of second" in printed) is (name == NAME)
        infer(root, cohort_of("ct"), root / "eval", *how, device=device)
        assert f"<td>{name}</td>" in (root / "eval" / "report.html").read_text()
        histories.append([row["terms"] for row in json.loads((root / "eval" / "history.json").read_text())])
        with open(root / "eval" / "scores.csv", newline="") as file:
            scores.append([float(row["p_opacity"]) for row in csv.DictReader(file)])
    assert len(scores[0]) == 48
    torch.testing.assert_close(histories[1], histories[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-3, atol=1e-4)
